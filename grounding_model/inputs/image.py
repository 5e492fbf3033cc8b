"""Reads images from files as RGB arrays and resizes them. No torch. h, w: height and width of an image."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from formats.images import decode_image
from formats.io.errors import InputError

DECODED_WHOLE = 50_000_000  # pixels; larger than camera photos, which are therefore decoded exactly as in the reference
OVERSAMPLING = 2  # a larger image is decoded at this many times the model's input size, or more


class ResizedImage(NamedTuple):
    """pixels: (h', w', 3) uint8 RGB of size_for_test. height, width: of the stored image, EXIF rotation applied."""

    pixels: np.ndarray
    height: int
    width: int


def read_image(path: str | Path) -> np.ndarray:
    """Returns a file as (h, w, 3) uint8 RGB, with EXIF orientation applied; of an animation the first frame.

    Raises InputError, naming the file, when it is missing, is not an image, cannot be decoded completely, or has more
    pixels than formats.images.max_pixels().
    """
    return decode_image(path).pixels


def read_resized(path: str | Path, scale: tuple[int, int] = (800, 1333)) -> ResizedImage:
    """Like read_image, resized to size_for_test. Files above DECODED_WHOLE pixels are decoded at a reduced size."""
    image = decode_image(path, OVERSAMPLING * max(scale), DECODED_WHOLE)
    height, width = size_for_test(image.height, image.width, scale)
    return ResizedImage(_resized(image.pixels, height, width), image.height, image.width)


def size_for_test(height: int, width: int, scale: tuple[int, int] = (800, 1333)) -> tuple[int, int]:
    """Height and width that fit into scale (short and long side, in any order), keeping the aspect ratio.

    Rounded down: the reference rounds down at test time and to the nearest in training, and its results depend on it.
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


def pixels_of(image: str | Path | np.ndarray, location: object) -> np.ndarray:
    """(h, w, 3) uint8 RGB of a path or an array. Raises InputError, naming the location for an array, if unusable."""
    return check_image(image, location) if isinstance(image, np.ndarray) else read_image(image)


def check_image(image: np.ndarray, location: object) -> np.ndarray:
    """Returns the image. Raises InputError unless it is (h, w, 3) uint8 with h, w > 0."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(location, what, "expected an RGB array of uint8 with shape (height, width, 3)")
    if 0 in image.shape:
        raise InputError(location, f"shape {image.shape} has no pixels", "expected at least one")
    return image
