"""Picture files as people see them: upright, in RGB, reduced where they are large.

H, W  height and width in pixels after the EXIF turn; arrays are (H, W, 3) uint8 RGB
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from formats.io.files import write_whole

JPEG_QUALITY = 88
MAX_PIXELS = 400_000_000  # of a picture that is shown: Pillow takes four bytes for each
STRIP_PIXELS = 4_000_000  # that are converted at a time


def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, EXIF turn applied. Raises OSError when it is not a whole picture."""
    with Image.open(path) as image:
        return np.asarray(_upright(image))


def reduced_picture(path: Path, longest: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB of the upright picture, its longer side at most `longest` pixels. Raises OSError likewise.

    A large picture is decoded once and reduced in strips: a copy of it in another mode would take as much again.
    """
    with Image.open(path) as image:
        check_pixels(image)
        image.draft("RGB", (longest, longest))  # a JPEG decodes at a half, a quarter or an eighth in less time
        factor = max(image.size) // (2 * longest)
        orientation = image.getexif()
        picture = _upright(image) if factor < 2 else _upright(_reduced_in_strips(image, factor), orientation)
    picture.thumbnail((longest, longest))
    return np.asarray(picture)


def check_pixels(image: Image.Image) -> None:
    """Raises OSError for a picture that would take more memory than a page should cost."""
    if image.width * image.height > MAX_PIXELS:
        millions = image.width * image.height // 1_000_000
        raise OSError(
            f"{image.width} x {image.height} pixels are too many to show: {millions} million of at most "
            f"{MAX_PIXELS // 1_000_000} million"
        )


def _reduced_in_strips(image: Image.Image, factor: int) -> Image.Image:
    """The picture in RGB, each side divided by a whole number."""
    width, height = image.size
    small = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    rows = factor * max(1, STRIP_PIXELS // (width * factor))
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(height, top + rows))).convert("RGB")
        small.paste(strip.reduce(factor), (0, top // factor))
    return small


def jpeg_of(picture: np.ndarray, quality: int = JPEG_QUALITY) -> bytes:
    """(H, W, 3) uint8 RGB -> the content of a JPEG file. quality: 1..95."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="JPEG", quality=quality)
    return file.getvalue()


def write_jpeg(path: Path, picture: np.ndarray) -> None:
    """Writes (H, W, 3) uint8 RGB as a JPEG file, whole or not at all. Raises OSError where nothing may be written."""
    with write_whole(path, "wb") as file:
        file.write(jpeg_of(picture))


def _upright(image: Image.Image, exif: Image.Exif | None = None) -> Image.Image:
    """In RGB, with the EXIF turn applied. exif: of the file, where the picture was made of it."""
    if exif is not None and image.format is None:
        image.getexif().update(exif)
    return ImageOps.exif_transpose(image).convert("RGB")
