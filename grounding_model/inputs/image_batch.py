"""Turns image arrays into the backbone's input: normalised and padded to one size.

Shapes: B images, H, W height and width of the padded batch, h, w of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from formats.io.errors import InputError
from grounding_model.inputs.image import check_image

# Mean and standard deviation of ImageNet in RGB 0..255, which every released backbone was trained with.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class ImageBatch(NamedTuple):
    """pixels: (B, 3, H, W) float32 RGB, normalised, zero right of and below each image
    sizes: (B, 2) int64 height, width of each image's content, always in CPU memory, so that padding is known without
    synchronising with a GPU
    """

    pixels: Tensor
    sizes: Tensor

    @property
    def padded(self) -> bool:
        """Whether any image is smaller than the canvas."""
        return bool((self.sizes != torch.tensor(self.pixels.shape[-2:])).any())

    def to(self, device: torch.device | str) -> ImageBatch:
        return ImageBatch(send(self.pixels, torch.device(device)), self.sizes)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor to a device, asynchronously for a GPU."""
    if device.type == "cuda" and not tensor.is_cuda:  # a copy from pinned memory is asynchronous
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@lru_cache(maxsize=16)
def mean_and_deviation(device: torch.device) -> tuple[Tensor, Tensor]:
    """Each (3, 1, 1). Cached, since the copy to a device would synchronise with it."""
    with torch.inference_mode(False):
        mean, std = torch.tensor(MEAN), torch.tensor(STD)
        return mean.to(device)[:, None, None], std.to(device)[:, None, None]


def collate_images(images: Sequence[np.ndarray]) -> ImageBatch:
    """Images, each (h, w, 3) uint8 RGB -> a normalised batch, padded to the largest height and width.

    Raises InputError when the list is empty or an image is not (h, w, 3) uint8.
    """
    if not images:
        raise InputError("images", "the list is empty", "expected at least one image")
    for index, image in enumerate(images):
        check_image(image, f"image {index}")
    return collate_pixels([torch.from_numpy(normalise(image)) for image in images])


def normalise(image: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 RGB -> (3, h, w) float32. In numpy, so that threads can run it in parallel."""
    pixels = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)
    pixels -= np.array(MEAN, dtype=np.float32)[:, None, None]
    pixels /= np.array(STD, dtype=np.float32)[:, None, None]
    return pixels


def collate_pixels(images: Sequence[Tensor], device: torch.device | str = "cpu") -> ImageBatch:
    """Images, each (3, h, w), normalised float32 or raw uint8 -> a batch on the device, where uint8 is normalised."""
    sizes = torch.tensor([image.shape[1:] for image in images], dtype=torch.int64)
    height, width = sizes.amax(0).tolist()
    device = torch.device(device)
    if device.type == "cpu" and all(image.is_floating_point() and image.shape == images[0].shape for image in images):
        return ImageBatch(torch.stack(list(images)), sizes)
    mean, std = mean_and_deviation(device)
    pixels = torch.zeros(len(images), 3, height, width, device=device)
    for canvas, image in zip(pixels, images):
        content = canvas[:, : image.shape[1], : image.shape[2]]
        content.copy_(send(image, device))
        if not image.is_floating_point():
            content.sub_(mean).div_(std)
    return ImageBatch(pixels, sizes)
