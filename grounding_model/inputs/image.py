"""Images as RGB arrays: read from files, resized. No torch. h, w: height and width of an image."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from formats.images import decode_image
from formats.io.errors import InputError

DECODED_WHOLE = 50_000_000  # pixels; no camera's photo changes by a shorter way than the reference's
OVERSAMPLING = 2  # times the size that the model sees: what a larger image is decoded at, at least


class ResizedImage(NamedTuple):
    """pixels: (h', w', 3) uint8 RGB of size_for_test. height, width: of the stored image after its EXIF turn."""

    pixels: np.ndarray
    height: int
    width: int


def read_image(path: str | Path) -> np.ndarray:
    """(h, w, 3) uint8 RGB of a file, EXIF orientation applied, first frame of an animation.

    Raises InputError, naming the file, when it is missing, is not an image, cannot be decoded completely, or has more
    pixels than formats.images.max_pixels().
    """
    return decode_image(path).pixels


def read_resized(path: str | Path, scale: tuple[int, int] = (800, 1333)) -> ResizedImage:
    """The same at the size of size_for_test. A file above DECODED_WHOLE pixels is decoded reduced, in less memory."""
    image = decode_image(path, OVERSAMPLING * max(scale), DECODED_WHOLE)
    height, width = size_for_test(image.height, image.width, scale)
    return ResizedImage(_resized(image.pixels, height, width), image.height, image.width)


def size_for_test(height: int, width: int, scale: tuple[int, int] = (800, 1333)) -> tuple[int, int]:
    """Height, width that fit into scale (short and long side, either order), aspect ratio kept, rounded down.

    The reference rounds down at test time and to the nearest in training, and its numbers depend on it.
    """
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return max(1, int(height * factor)), max(1, int(width * factor))


def resize_for_test(image: np.ndarray, scale: tuple[int, int] = (800, 1333)) -> np.ndarray:
    """(h, w, 3) uint8 -> (h', w', 3) uint8 of size_for_test, antialiased bilinear."""
    return _resized(image, *size_for_test(image.shape[0], image.shape[1], scale))


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def check_image(image: np.ndarray, location: object) -> np.ndarray:
    """Returns the image. Raises InputError unless it is (h, w, 3) uint8 with h, w > 0."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(location, what, "expected an RGB array of uint8 with shape (height, width, 3)")
    if 0 in image.shape:
        raise InputError(location, f"shape {image.shape} has no pixels", "expected at least one")
    return image
