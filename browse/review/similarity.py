"""Similarity of images and crops, for the orders "diverse" (images) and "similar" (crops).

Images are compared by the model's features, which are stored with the candidates of a plan. Without them, and for
crops, they are compared by their pixels: edge directions and colours in a grid; crops also by size and shape.
N images or crops, D dimensions of a feature
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from browse.images.pictures import reduced_picture
from browse.review.candidates import CandidateBoxes
from browse.review.index import LineIndex
from formats.io.errors import InputError
from formats.record import Box

MOST_PICKED = 2000  # images that "diverse" sorts; the rest follow in the order of the file
MOST_FEATURES = 100_000  # images that are compared; of more, a sample spread over the file
MOST_READ = 5000  # images that are compared by their pixels
DIMENSIONS = 32  # of projected features; distances hardly change, and a step takes an eighth of the time
SIDE, CELLS, DIRECTIONS = 32, 4, 8  # pixels, cells and directions of edges of a descriptor
IMAGE_SIDE = 640  # pixels of the picture that crops are cut from
MARGIN = 0.1  # of a crop's longer side
COLOUR, SHAPE = 0.4, 0.3  # weights relative to the edges' weight of 1; chosen on the objects of coco128
READERS = 4  # threads


class Similarity:
    """Compares the images of a review, and crops of them, by similarity. Thread-safe.

    path_of: returns the picture of a line; raises InputError for a name outside the folder.
    """

    def __init__(
        self, index: LineIndex, path_of: Callable[[int], Path], candidates: CandidateBoxes | None = None
    ) -> None:
        self._index, self._path_of, self._candidates = index, path_of, candidates
        self._images: tuple[np.ndarray, np.ndarray] | None = None
        self._crops: dict[tuple[int, Box], np.ndarray] = {}
        self._lock = threading.Lock()

    def diverse_order(self, keep: np.ndarray) -> np.ndarray:
        """(L,) line numbers, each image as different from those before it as possible; then those not compared.

        keep: (L,) bool, the lines to compare. Raises InputError without features, if there are too many images to read.
        """
        numbers, features = self._features()
        shown = np.flatnonzero(keep[numbers])
        picked = numbers[shown[farthest_first(features[shown], MOST_PICKED)]]
        others = np.ones(len(keep), bool)
        others[picked] = False
        return np.concatenate([picked, np.flatnonzero(others)])

    def crops(self, boxes: Sequence[tuple[int, Box]]) -> np.ndarray:
        """(N, D) float32: descriptors of crops; zeros if the image cannot be read. boxes: (line, box in pixels)."""
        lines: dict[int, list[Box]] = {}
        for number, box in boxes:
            if (number, box) not in self._crops:
                lines.setdefault(number, []).append(box)
        with ThreadPoolExecutor(READERS) as readers:
            for number, found in zip(lines, readers.map(self._crops_of, lines, lines.values())):
                self._crops.update(zip(((number, box) for box in lines[number]), found))
        return np.stack([self._crops[each] for each in boxes])

    def _crops_of(self, number: int, boxes: Sequence[Box]) -> list[np.ndarray]:
        record = self._index.lines.record(number)
        try:
            picture = Image.fromarray(reduced_picture(self._path_of(number), IMAGE_SIDE))
        except (OSError, InputError):
            return [np.zeros(_LENGTH + 2, np.float32)] * len(boxes)
        across, down = picture.width / record.width, picture.height / record.height
        found = []
        for x1, y1, x2, y2 in boxes:
            margin = MARGIN * max(x2 - x1, y2 - y1)
            sides = ((x1 - margin) * across, (y1 - margin) * down, (x2 + margin) * across, (y2 + margin) * down)
            look = appearance(picture.resize((SIDE, SIDE), Image.Resampling.BOX, box=_inside(sides, picture)))
            wide, high = max(x2 - x1, 1e-3), max(y2 - y1, 1e-3)
            shape = np.array([np.log(wide / high), np.log(np.sqrt(wide * high) / record.width)])
            found.append(np.concatenate([look, SHAPE * shape]).astype(np.float32))
        return found

    def _features(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) line numbers, ascending, and (N, D) features of their images."""
        with self._lock:
            if self._images is None:
                found = None if self._candidates is None else self._candidates.features(self._index, MOST_FEATURES)
                self._images = self._looks() if found is None else (found[0], projected(found[1], DIMENSIONS))
            return self._images

    def _looks(self) -> tuple[np.ndarray, np.ndarray]:
        numbers = np.flatnonzero(~self._index.broken)
        if len(numbers) > MOST_READ:
            what = f"the candidates hold no image features, and {len(numbers)} images are too many to read"
            raise InputError("order", what, "label anew, or expected a list from `groundhog select`")

        def look(number: int) -> np.ndarray:
            try:
                return appearance(Image.fromarray(reduced_picture(self._path_of(number), 2 * SIDE)))
            except (OSError, InputError):
                return np.zeros(_LENGTH, np.float32)

        with ThreadPoolExecutor(READERS) as readers:
            appearances = list(readers.map(look, numbers.tolist()))
        return numbers, np.stack(appearances) if appearances else np.zeros((0, _LENGTH), np.float32)


def _inside(sides: Box, picture: Image.Image) -> Box:
    """The box cut to the picture, at least one pixel in size."""
    x1, y1 = min(max(sides[0], 0), picture.width - 1), min(max(sides[1], 0), picture.height - 1)
    return x1, y1, max(x1 + 1, min(sides[2], picture.width)), max(y1 + 1, min(sides[3], picture.height))


_LENGTH = CELLS * CELLS * (3 + DIRECTIONS)


def appearance(picture: Image.Image) -> np.ndarray:
    """(D,) float32 descriptor of a picture: mean colour and edge strength by direction, in a grid of cells.

    The edges are histograms of oriented gradients (Dalal and Triggs, 2005) without block normalisation.
    """
    pixels = np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), np.float32) / 255
    step = SIDE // CELLS
    cells = pixels.reshape(CELLS, step, CELLS, step, 3)
    grey = pixels.mean(axis=2)
    down, across = np.gradient(grey)
    direction = (np.arctan2(down, across) % np.pi / np.pi * DIRECTIONS).astype(int) % DIRECTIONS
    edges = np.zeros((SIDE, SIDE, DIRECTIONS), np.float32)
    np.put_along_axis(edges, direction[..., None], np.hypot(down, across)[..., None], axis=2)
    strength = edges.reshape(CELLS, step, CELLS, step, DIRECTIONS).sum(axis=(1, 3))
    parts = (cells.mean(axis=(1, 3)).ravel() - 0.5, np.sqrt(strength).ravel())
    colour, edge = (part / max(float(np.linalg.norm(part)), 1e-6) for part in parts)
    return np.concatenate([COLOUR * colour, edge]).astype(np.float32)


def projected(features: np.ndarray, dimensions: int) -> np.ndarray:
    """(N, D) -> (N, min(D, dimensions)) float32: normalised differences from the mean, in principal components."""
    values = np.nan_to_num(features.astype(np.float32))
    values -= values.mean(axis=0)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    if values.shape[1] <= dimensions:
        return values
    _, axes = np.linalg.eigh(values.T @ values)
    return values @ axes[:, ::-1][:, :dimensions]


def farthest_first(features: np.ndarray, count: int) -> np.ndarray:
    """Positions of at most `count` of N images: the one nearest to the mean, then the farthest from those chosen.

    The covering radius is within a factor of two of the optimum (Gonzalez, 1985). features: (N, D).
    """
    picked = np.zeros(min(count, len(features)), np.int64)
    if not len(picked):
        return picked
    lengths = (features**2).sum(axis=1)
    nearest = np.full(len(features), np.inf, np.float32)
    index = int(((features - features.mean(axis=0)) ** 2).sum(axis=1).argmin())
    for step in range(len(picked)):
        picked[step] = index
        distance = lengths + lengths[index] - 2 * (features @ features[index])
        np.minimum(nearest, distance, out=nearest)
        nearest[index] = -np.inf
        index = int(nearest.argmax())
    return picked


def like_first(features: np.ndarray, example: int) -> np.ndarray:
    """(N,) positions by distance from one of them, the nearest first. features: (N, D)."""
    return np.argsort(((features - features[example]) ** 2).sum(axis=1), kind="stable")


def neighbours_together(features: np.ndarray) -> np.ndarray:
    """(N,) positions as a walk that starts nearest to the mean and always goes to the nearest one left.

    Groups of similar crops stay together, and outliers come last. features: (N, D).
    """
    left = np.ones(len(features), bool)
    order = np.zeros(len(features), np.int64)
    index = int(((features - features.mean(axis=0)) ** 2).sum(axis=1).argmin()) if len(features) else 0
    for step in range(len(features)):
        order[step], left[index] = index, False
        rest = np.flatnonzero(left)
        if len(rest):
            index = int(rest[((features[rest] - features[index]) ** 2).sum(axis=1).argmin()])
    return order
