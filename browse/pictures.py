"""Picture files as people see them: upright, in RGB, reduced where they are large.

H, W  height and width in pixels after the EXIF turn; arrays are (H, W, 3) uint8 RGB
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

JPEG_QUALITY = 88


def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, EXIF turn applied. Raises OSError when it is no whole picture."""
    with Image.open(path) as image:
        return np.asarray(_upright(image))


def reduced_jpeg(path: Path, longest: int) -> bytes:
    """A JPEG file of the upright picture, its longer side at most `longest` pixels. Raises OSError as read_picture."""
    with Image.open(path) as image:
        image.draft("RGB", (longest, longest))  # a JPEG decodes at a half, a quarter or an eighth in less time
        picture = _upright(image)
    picture.thumbnail((longest, longest))
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image).convert("RGB")
