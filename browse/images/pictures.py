"""Reads pictures for display: upright, in RGB, reduced if they are large.

H, W  height and width in pixels after the EXIF turn; arrays are (H, W, 3) uint8 RGB
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
    """(H, W, 3) uint8 RGB, EXIF turn applied. Raises InputError when it is not a whole picture, or too large a one."""
    return decode_image(path).pixels


def reduced_picture(path: Path, longest: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB of the upright picture, its longer side at most `longest` pixels. Raises as read_picture."""
    picture = Image.fromarray(decode_image(path, longest).pixels)
    picture.thumbnail((longest, longest))
    return np.asarray(picture)


def jpeg_of(picture: np.ndarray, quality: int = JPEG_QUALITY) -> bytes:
    """(H, W, 3) uint8 RGB -> the content of a JPEG file. quality: 1..95."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="JPEG", quality=quality)
    return file.getvalue()


def write_jpeg(path: Path, picture: np.ndarray) -> None:
    """Writes (H, W, 3) uint8 RGB as a JPEG file atomically. Raises OSError where nothing may be written."""
    with write_whole(path, "wb") as file:
        file.write(jpeg_of(picture))
