"""All true boxes of a data set as arrays. N true boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from formats.io.errors import InputError
from formats.record import Record

Areas = Mapping[str, Sequence[float]]  # filename -> area of each of its instances, in square pixels


class TrueBoxes(NamedTuple):
    """True boxes, sorted by image; within an image in the order of its record."""

    images: np.ndarray  # (N,) int32, index of the image in the ground truth
    labels: np.ndarray  # (N,) int32, index of the category among those evaluated
    boxes: np.ndarray  # (N, 4) float64, x1, y1, x2, y2 in pixels
    areas: np.ndarray  # (N,) float64, square pixels
    ignored: np.ndarray  # (N,) bool

    @classmethod
    def of_records(cls, truth: Sequence[Record], labels: Mapping[str, int], areas: Areas | None = None) -> TrueBoxes:
        """labels: category -> index; others are left out. areas: of images without an entry, box areas are used.

        Raises InputError for an unlabelled image.
        """
        table = np.fromiter(chain.from_iterable(_rows(truth, labels, areas or {})), np.float64).reshape(-1, 8)
        images, box_labels = table[:, 0].astype(np.int32), table[:, 1].astype(np.int32)
        return cls(images, box_labels, table[:, 2:6], table[:, 6], table[:, 7] != 0)

    def sorted_by_label(self) -> TrueBoxes:
        """Sorted by category, then by image."""
        return self.rows(np.argsort(self.labels, kind="stable"))

    def without_crowds(self) -> TrueBoxes:
        """The same boxes with none marked as ignored."""
        return self._replace(ignored=np.zeros_like(self.ignored))

    def rows(self, rows: np.ndarray | slice) -> TrueBoxes:
        """A selection of the boxes."""
        return TrueBoxes(*(column[rows] for column in self))


def _rows(truth: Sequence[Record], labels: Mapping[str, int], areas: Areas) -> Iterator[tuple[float, ...]]:
    for image, record in enumerate(truth):
        if record.instances is None:
            raise InputError(record.filename, "is not labelled", "expected detection records with instances")
        mask_areas = areas.get(record.filename)
        for index, instance in enumerate(record.instances):
            if instance.category in labels:
                x1, y1, x2, y2 = instance.box
                area = (x2 - x1) * (y2 - y1) if mask_areas is None else mask_areas[index]
                yield image, labels[instance.category], x1, y1, x2, y2, area, instance.ignore
