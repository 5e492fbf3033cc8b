"""Image features that are robust to re-encoding and resizing. Uses no model and no torch.

N images
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from formats.images import decode_image, safe_join
from formats.io.errors import InputError
from formats.io.files import sha256_of
from formats.io.progress import show_progress

LONG_SIDE = 512  # pixels of the analysed image; finer detail is not needed, and reduced JPEGs decode faster
KEYPOINT_SIDE = 384
KEYPOINTS = 300  # 12 kB per image; a crop of 30 % keeps more than a third of them
KEYPOINT_BORDER = 31  # pixels that ORB keeps from the sides of a picture
THUMBNAIL_SIDE = 96  # at most 9 kB per image
HASH_SIDE, HASH_FREQUENCIES = 64, 16
HASH_BITS = HASH_FREQUENCIES**2 - 1
COLOUR_SIDE, GRADIENT_SIDE = 64, 128
COLOUR_BINS = (8, 12, 12)  # L, a, b
COLOUR_RANGE = (0, 256, 64, 192, 64, 192)  # photos rarely have more extreme a and b
ORIENTATIONS = 16


@dataclass(frozen=True)
class Fingerprint:
    """The features of one image.

    sha256: of the file's bytes. height, width: in pixels, after EXIF rotation.
    bits, mirrored_bits: (255,) bool, perceptual hash of the image and of its mirror image: whether each low frequency
    of its cosine transform is above their median (Zauner, 2010, "Implementation and Benchmarking of
    Perceptual Image Hash Functions").
    appearance: (1168,) float32 of length 1: square roots of a Lab histogram and of a histogram of edge orientations, so
    that a dot product is the mean of two Bhattacharyya coefficients.
    points: (P, 2) float32, positions of ORB key points. descriptors: (P, 32) uint8.
    thumbnail: (h, w) uint8 grey, 96 pixels on its long side. point_scale: pixels of the thumbnail per pixel of points.
    sharpness: variance of the Laplacian of the grey image with 512 pixels on its long side. brightness, contrast: mean
    and standard deviation of grey, 0..255.
    """

    filename: str
    sha256: str
    height: int
    width: int
    bits: np.ndarray
    mirrored_bits: np.ndarray
    appearance: np.ndarray
    points: np.ndarray
    descriptors: np.ndarray
    thumbnail: np.ndarray
    point_scale: float
    sharpness: float
    brightness: float
    contrast: float


def fingerprint_images(
    folder: str | Path, filenames: Sequence[str], progress: bool = True
) -> Iterator[Fingerprint | InputError]:
    """Yields the fingerprint of each image in order, or the error of one that cannot be read. Decodes on all cores."""

    def outcome(filename: str) -> Fingerprint | InputError:
        try:
            return fingerprint(safe_join(folder, filename), filename)
        except InputError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        # In slices, so that not all results of a large folder are in memory.
        shown = show_progress(total=len(filenames), desc="read", unit="image", hidden=not progress)
        with shown as bar:
            for start in range(0, len(filenames), 256):
                slice_of_names = filenames[start : start + 256]
                yield from threads.map(outcome, slice_of_names)
                bar.update(len(slice_of_names))


def fingerprint(path: Path, filename: str | None = None) -> Fingerprint:
    """The fingerprint of an image file. Raises InputError if it is missing or cannot be decoded."""
    decoded = decode_image(path, LONG_SIDE)
    picture = _small(decoded.pixels)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    points, descriptors = _key_points(grey)
    return Fingerprint(
        filename or path.name,
        sha256_of(path),
        decoded.height,
        decoded.width,
        perceptual_hash(grey),
        perceptual_hash(grey[:, ::-1]),
        _appearance(picture, grey),
        points,
        descriptors,
        _shrunk(grey, THUMBNAIL_SIDE),
        min(THUMBNAIL_SIDE, max(grey.shape)) / min(KEYPOINT_SIDE, max(grey.shape)),
        float(cv2.Laplacian(grey, cv2.CV_64F).var()),
        float(grey.mean()),
        float(grey.std()),
    )


def _small(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8, reduced to at most LONG_SIDE pixels per side."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.BOX)
    return np.asarray(picture)


def perceptual_hash(grey: np.ndarray) -> np.ndarray:
    """(h, w) uint8 -> (255,) bool, the hash that Fingerprint describes."""
    small = Image.fromarray(np.ascontiguousarray(grey)).resize((HASH_SIDE, HASH_SIDE), Image.Resampling.LANCZOS)
    low = cv2.dct(np.asarray(small, np.float64))[:HASH_FREQUENCIES, :HASH_FREQUENCIES].ravel()[1:]
    return low > np.median(low)


def _appearance(picture: np.ndarray, grey: np.ndarray) -> np.ndarray:
    lab = cv2.cvtColor(cv2.resize(picture, (COLOUR_SIDE, COLOUR_SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2LAB)
    colours = cv2.calcHist([lab], [0, 1, 2], None, list(COLOUR_BINS), list(COLOUR_RANGE)).ravel()
    even = cv2.resize(grey, (GRADIENT_SIDE, GRADIENT_SIDE), interpolation=cv2.INTER_AREA)
    across, down = (cv2.Sobel(even, cv2.CV_32F, *step) for step in ((1, 0), (0, 1)))
    angles = np.arctan2(down, across) % np.pi
    edges = np.histogram(angles, ORIENTATIONS, (0, np.pi), weights=np.hypot(across, down))[0]
    parts = [np.sqrt(part / part.sum()) if part.sum() else np.zeros_like(part) for part in (colours, edges)]
    return (np.concatenate(parts) / np.sqrt(2)).astype(np.float32)


def _shrunk(grey: np.ndarray, side: int) -> np.ndarray:
    """(h, w), reduced to at most `side` pixels on its long side."""
    shrink = side / max(grey.shape)
    size = [max(1, round(length * shrink)) for length in grey.shape[::-1]]
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA) if shrink < 1 else grey


def _key_points(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shrunk = _shrunk(grey, KEYPOINT_SIDE)
    none = np.zeros((0, 2), np.float32), np.zeros((0, 32), np.uint8)
    if min(shrunk.shape) <= 2 * KEYPOINT_BORDER:  # too small for key points; ORB fails on a strip of a few pixels
        return none
    points, descriptors = cv2.ORB.create(KEYPOINTS).detectAndCompute(shrunk, None)
    if descriptors is None:
        return none
    return np.array([point.pt for point in points], np.float32), descriptors
