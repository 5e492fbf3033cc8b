"""From image files and arrays to the backbone's input: resized, normalised, padded RGB.

Shapes: B images, H, W height and width of the padded batch, h, w of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from formats.images import decode_image
from formats.io.errors import InputError

# Mean and standard deviation of ImageNet in RGB 0..255: what every released backbone was trained with.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
DECODED_WHOLE = 50_000_000  # pixels; no camera's photo changes by a shorter way than the reference's
OVERSAMPLING = 2  # times the size that the model sees: what a larger image is decoded at, at least


class ImageBatch(NamedTuple):
    """pixels: (B, 3, H, W) float32 RGB normalised, zeros right of and below each image
    sizes: (B, 2) int64 height, width of each image's content
    """

    pixels: Tensor
    sizes: Tensor

    def to(self, device: torch.device | str) -> ImageBatch:
        return ImageBatch(self.pixels.to(device), self.sizes.to(device))


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
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def collate_images(images: Sequence[np.ndarray]) -> ImageBatch:
    """Images, each (h, w, 3) uint8 RGB -> normalised and padded to the largest height and width.

    Raises InputError when the list is empty or an image is not (h, w, 3) uint8.
    """
    if not images:
        raise InputError("images", "the list is empty", "expected at least one image")
    for index, image in enumerate(images):
        check_image(image, f"image {index}")
    sizes = torch.tensor([image.shape[:2] for image in images], dtype=torch.int64)
    height, width = sizes.amax(0).tolist()
    pixels = torch.zeros(len(images), 3, height, width)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    for canvas, image in zip(pixels, images):
        content = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
        canvas[:, : image.shape[0], : image.shape[1]] = (content - mean) / std
    return ImageBatch(pixels, sizes)


def check_image(image: np.ndarray, location: object) -> np.ndarray:
    """Returns the image. Raises InputError unless it is (h, w, 3) uint8 with h, w > 0."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(location, what, "expected an RGB array of uint8 with shape (height, width, 3)")
    if 0 in image.shape:
        raise InputError(location, f"shape {image.shape} has no pixels", "expected at least one")
    return image
