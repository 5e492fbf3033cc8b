"""Reads pictures for display: upright, in RGB, reduced if they are large.

H, W  height and width in pixels after EXIF rotation; arrays are (H, W, 3) uint8 RGB
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from formats.images import decode_image
from formats.io.files import write_whole

JPEG_QUALITY = 88


def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, EXIF rotation applied. Raises InputError if it is broken, truncated or too large."""
    return decode_image(path).pixels


def reduced_picture(path: Path, longest: int) -> np.ndarray:
    """As read_picture, but reduced so that the longer side has at most `longest` pixels."""
    picture = Image.fromarray(decode_image(path, longest).pixels)
    picture.thumbnail((longest, longest))
    return np.asarray(picture)


def jpeg_of(picture: np.ndarray, quality: int = JPEG_QUALITY) -> bytes:
    """(H, W, 3) uint8 RGB -> the content of a JPEG file. quality: 1..95."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="JPEG", quality=quality)
    return file.getvalue()


def write_jpeg(path: Path, picture: np.ndarray) -> None:
    """Writes (H, W, 3) uint8 RGB as a JPEG file atomically. Raises OSError if it cannot be written."""
    with write_whole(path, "wb") as file:
        file.write(jpeg_of(picture))
