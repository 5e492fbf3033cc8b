"""Turns labelled images into samples for a closed-set detector: boxes with classes instead of captions.

Shapes: G boxes of one image, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from formats.io.errors import InputError
from formats.record import Record
from grounding_model.data.augment import AugmentConfig, augment, shrink
from grounding_model.data.sampler import Draw
from grounding_model.data.samples import UNUSABLE_BOX, load_usable, number_of_boxes, usable_boxes
from grounding_model.data.sources import LabelledImages

# Short side of an image before photometric changes, in sides of the model's square: blur and noise of a large photo
# would take long and be gone when it is resized.
SIDES = 2
CAPTION = "a line with a caption, from which a closed-set detector cannot learn"


class ClassSample(NamedTuple):
    """One augmented image with its boxes.

    image: (H, W, 3) uint8 RGB. boxes: (G, 4) float32 x1, y1, x2, y2 in pixels of the image. classes: (G,) int64.
    weights: (G,) float32. ignore: (G,) bool. known: (C,) bool, the classes that the image was labelled for: if a data
    set does not label a class, its absence means nothing. problems: see Sample.
    """

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    weights: np.ndarray
    ignore: np.ndarray
    known: np.ndarray
    problems: list[str]


class ClassSamples(Dataset[ClassSample]):
    """Draw -> ClassSample. Boxes of categories that are not among the classes are left out.

    names: names of the classes, matched with the categories of a data set in any case. side: of the square that images
    are resized to in the end. Raises InputError for a data set that has none of the classes.
    """

    def __init__(
        self, datasets: Sequence[LabelledImages], settings: AugmentConfig, names: Sequence[str], seed: int, side: int
    ) -> None:
        self._datasets, self._settings, self._seed = tuple(datasets), settings, seed
        self._max_short_side = max(SIDES * side, *(settings.crop.short_sides if settings.crop else (0,)))
        self._class_of = [classes_of_labels(dataset.categories, names) for dataset in datasets]
        for index, classes in enumerate(self._class_of):
            if not classes:
                what = f"its categories are {', '.join(datasets[index].categories.values()) or 'none'}"
                raise InputError(f"datasets.{index}", what, f"expected some of {', '.join(names)}")
        self._known = [np.isin(np.arange(len(names)), list(classes.values())) for classes in self._class_of]

    def __getitem__(self, draw: Draw) -> ClassSample:
        problems: list[str] = []
        image, record = load_usable(self._datasets[draw.dataset], draw, problems)
        rng = np.random.default_rng([self._seed, draw.position, 2])
        return self._sample(image, record, draw.dataset, rng, problems)

    def _sample(
        self, image: np.ndarray, record: Record, dataset: int, rng: np.random.Generator, problems: list[str]
    ) -> ClassSample:
        class_of, known = self._class_of[dataset], self._known[dataset]
        usable = [] if record.caption is not None else usable_boxes(record)
        if record.caption is not None:
            problems, known = [*problems, CAPTION], np.zeros_like(known)
        else:
            problems = [*problems, *[UNUSABLE_BOX] * (number_of_boxes(record) - len(usable))]
        wanted = [box for box in usable if box.group in class_of]
        boxes = np.array([box.box for box in wanted], np.float32).reshape(-1, 4)
        if not self._settings.short_sides:  # else augment resizes them
            image, boxes = shrink(image, boxes, self._max_short_side)
        view = augment(image, boxes, "", self._settings, rng)
        kept = [wanted[index] for index in view.kept]
        return ClassSample(
            view.image,
            view.boxes,
            np.array([class_of[box.group] for box in kept], dtype=np.int64),
            np.array([box.weight for box in kept], dtype=np.float32),
            np.array([box.ignore for box in kept], dtype=bool),
            known,
            problems,
        )


def classes_of_labels(categories: Mapping[int, str], names: Sequence[str]) -> dict[int, int]:
    """Label -> class for the categories that are also classes, matched by name in any case."""
    class_of = {name.strip().casefold(): index for index, name in enumerate(names)}
    keys = ((label, name.strip().casefold()) for label, name in categories.items())
    return {label: class_of[key] for label, key in keys if key in class_of}
