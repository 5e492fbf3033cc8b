"""Random augmentation of a training image and its boxes, on numpy arrays with OpenCV.

Shapes: H, W height and width of the image, G boxes.
image  (H, W, 3) uint8 RGB
boxes  (G, 4) float32, x1, y1, x2, y2 in pixels of that image
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np

from formats.io.ranges import Factor, Pixels, Share

# Pixels; a box with a shorter side after a crop is not trained on, as in the reference's FilterAnnotations.
MIN_SIDE = 1e-2


@dataclass(frozen=True)
class RandomCrop:
    """The reference's crop before its second resize: resize to short_sides, then crop to min_size..max_size pixels."""

    probability: Share = 0.5
    short_sides: tuple[Pixels, ...] = (400, 500, 600)
    max_long_side: Pixels = 4200
    min_size: Pixels = 384
    max_size: Pixels = 600


@dataclass(frozen=True)
class Photometric:
    """Maximum strength of each photometric change; 0 switches it off."""

    brightness: Share = 0.0  # added, fraction of 255
    contrast: Share = 0.0  # factor 1 +- contrast around the mean
    saturation: Share = 0.0  # factor 1 +- saturation
    hue: Share = 0.0  # shift, as a fraction of the colour circle; colour words in a caption may become wrong
    blur: Factor = 0.0  # largest Gaussian sigma in pixels
    noise: Share = 0.0  # largest standard deviation, fraction of 255
    probability: Share = 0.5  # of each change, independently


@dataclass(frozen=True)
class AugmentConfig:
    """The default is the reference's pretraining without the crop: flip, and one of eleven scales."""

    flip: Share = 0.5  # probability of a mirror image
    short_sides: tuple[Pixels, ...] | None = None  # one is drawn; () keeps the size; None: 0.6 to 1 of the model's size
    max_long_side: Pixels | None = None  # None: the model's
    crop: RandomCrop | None = None
    photometric: Photometric | None = None

    def fitted_to(self, image_scale: tuple[int, int]) -> AugmentConfig:
        """The same settings with all sizes in pixels, for a model with images of this short and long side.

        For 800 these are the reference's 480, 512, … 800.
        """
        short, long = image_scale
        sides = tuple(round(short * (0.6 + 0.04 * step)) for step in range(11))
        return replace(
            self,
            short_sides=sides if self.short_sides is None else self.short_sides,
            max_long_side=self.max_long_side or long,
        )


class Augmented(NamedTuple):
    """image (H, W, 3) uint8 RGB; boxes (K, 4) that are still visible; kept (K,) their indices before."""

    image: np.ndarray
    boxes: np.ndarray
    kept: np.ndarray


def augment(
    image: np.ndarray, boxes: np.ndarray, caption: str, settings: AugmentConfig, rng: np.random.Generator
) -> Augmented:
    """One random view. An image whose caption says left or right is never mirrored (the reference mirrors it)."""
    kept = np.arange(len(boxes))
    if settings.crop is not None and rng.random() < settings.crop.probability:
        crop = settings.crop
        image, boxes = resize(image, boxes, _one_of(crop.short_sides, rng), crop.max_long_side)
        image, boxes, kept = random_crop(image, boxes, crop.min_size, crop.max_size, rng)
    if settings.short_sides:
        image, boxes = resize(image, boxes, _one_of(settings.short_sides, rng), settings.max_long_side or math.inf)
    visible = (boxes[:, 2:] - boxes[:, :2] > MIN_SIDE).all(axis=1)
    boxes, kept = boxes[visible], kept[visible]
    if rng.random() < settings.flip and not says_left_or_right(caption):
        image, boxes = flip(image, boxes)
    if settings.photometric is not None:
        image = change_photometry(image, settings.photometric, rng)
    return Augmented(np.ascontiguousarray(image), boxes, kept)


def says_left_or_right(caption: str) -> bool:
    return re.search(r"\b(left|right)", caption, re.IGNORECASE) is not None


def flip(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The horizontal mirror image."""
    mirrored = boxes.copy()
    mirrored[:, [0, 2]] = image.shape[1] - boxes[:, [2, 0]]
    return cv2.flip(image, 1), mirrored


def resize(
    image: np.ndarray, boxes: np.ndarray, short_side: int, max_long_side: float
) -> tuple[np.ndarray, np.ndarray]:
    """The short side becomes short_side unless the long side would pass max_long_side; rounds as mmdet's Resize."""
    height, width = image.shape[:2]
    scale = min(short_side / min(height, width), max_long_side / max(height, width))
    new_height, new_width = max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)
    if (new_height, new_width) == (height, width):
        return image, boxes
    return _resized(image, boxes, (new_width, new_height), cv2.INTER_LINEAR)


def shrink(image: np.ndarray, boxes: np.ndarray, max_short_side: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose short side is longer gets this one, averaging pixels; others are unchanged."""
    height, width = image.shape[:2]
    scale = max_short_side / min(height, width)
    if scale >= 1:
        return image, boxes
    return _resized(image, boxes, (max(round(width * scale), 1), max(round(height * scale), 1)), cv2.INTER_AREA)


def _resized(
    image: np.ndarray, boxes: np.ndarray, size: tuple[int, int], interpolation: int
) -> tuple[np.ndarray, np.ndarray]:
    """size: width, height."""
    height, width = image.shape[:2]
    factors = np.array([size[0] / width, size[1] / height] * 2, dtype=np.float32)
    return cv2.resize(image, size, interpolation=interpolation), boxes * factors


def random_crop(
    image: np.ndarray, boxes: np.ndarray, min_size: int, max_size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A window of min_size..max_size pixels a side; boxes are clipped to it and dropped where they lie outside.

    Returns image, boxes and the indices of the boxes that remain. A window without any box is allowed.
    """
    height, width = image.shape[:2]
    crop_height = int(rng.integers(min(height, min_size), min(height, max_size) + 1))
    crop_width = int(rng.integers(min(width, min_size), min(width, max_size) + 1))
    top = int(rng.integers(height - crop_height + 1))
    left = int(rng.integers(width - crop_width + 1))
    moved = boxes - np.array([left, top, left, top], dtype=np.float32)
    moved = np.clip(moved, 0, np.array([crop_width, crop_height] * 2, dtype=np.float32))
    kept = np.flatnonzero((moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1]))
    return image[top : top + crop_height, left : left + crop_width], moved[kept], kept


def change_photometry(image: np.ndarray, settings: Photometric, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation, hue, blur and noise, each applied independently with a random strength."""

    def strength(limit: float) -> float:
        """Uniform in -limit..limit, or 0 if not drawn; consumes the same random numbers for every limit."""
        coin, amount = rng.random(2)
        return limit * (2 * amount - 1) if coin < settings.probability else 0.0

    brightness, contrast, saturation, hue = map(
        strength, (settings.brightness, settings.contrast, settings.saturation, settings.hue)
    )
    sigma, deviation = abs(strength(settings.blur)), abs(strength(settings.noise))
    if saturation or hue:
        image = _change_colours(image, saturation, hue)
    if brightness or contrast:
        mean = float(image.mean())
        levels = (np.arange(256) - mean) * (1 + contrast) + mean + 255 * brightness
        image = cv2.LUT(image, np.clip(levels, 0, 255).astype(np.uint8))
    if sigma:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    if deviation:
        noise = rng.standard_normal(image.shape, dtype=np.float32) * (255 * deviation)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return image


def _change_colours(image: np.ndarray, saturation: float, hue: float) -> np.ndarray:
    """hue is a fraction of the circle, which OpenCV divides into 180."""
    coloured = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.int16)
    coloured[..., 0] = (coloured[..., 0] + round(180 * hue)) % 180
    coloured[..., 1] = np.clip(coloured[..., 1] * (1 + saturation), 0, 255)
    return cv2.cvtColor(coloured.astype(np.uint8), cv2.COLOR_HSV2RGB)


def _one_of(choices: tuple[int, ...], rng: np.random.Generator) -> int:
    return choices[rng.integers(len(choices))]
