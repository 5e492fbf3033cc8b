"""Everything that is true in a data set, as arrays. N true boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from formats.io.errors import InputError
from formats.record import Record
from grounding_model.metrics.found_boxes import by_image, rows_of_labels

Areas = Mapping[str, Sequence[float]]  # filename -> area of each of its instances, in square pixels


class TrueBoxes(NamedTuple):
    """Image after image, those of an image as they stand in its record."""

    images: np.ndarray  # (N,) int32, the place of the image in the truth
    labels: np.ndarray  # (N,) int32, the place of the category among those that are judged
    boxes: np.ndarray  # (N, 4) float64, x1, y1, x2, y2 in pixels
    areas: np.ndarray  # (N,) float64, square pixels
    ignored: np.ndarray  # (N,) bool

    @classmethod
    def of_records(cls, truth: Sequence[Record], labels: Mapping[str, int], areas: Areas | None = None) -> TrueBoxes:
        """labels: category -> place; others are left out. areas: of an image that it lacks, those of its boxes.

        Raises InputError for an image that nobody has labelled.
        """
        table = np.fromiter(chain.from_iterable(_rows(truth, labels, areas or {})), np.float64).reshape(-1, 8)
        images, own_labels = table[:, 0].astype(np.int32), table[:, 1].astype(np.int32)
        return cls(images, own_labels, table[:, 2:6], table[:, 6], table[:, 7] != 0)

    def by_label(self, labels: int) -> Iterator[TrueBoxes]:
        """Of each of so many categories its boxes."""
        for rows in rows_of_labels(np.argsort(self.labels, kind="stable"), self.labels, labels):
            yield self._rows(rows)

    def by_image(self) -> dict[int, TrueBoxes]:
        """Place of an image -> its boxes."""
        return {place: self._rows(rows) for place, rows in by_image(self.images)}

    def between(self, first: int, last: int) -> TrueBoxes:
        """Those of the images of these places, both included."""
        return self._rows(slice(*np.searchsorted(self.images, [first, last + 1])))

    def _rows(self, rows: np.ndarray | slice) -> TrueBoxes:
        return TrueBoxes(*(column[rows] for column in self))


def _rows(truth: Sequence[Record], labels: Mapping[str, int], areas: Areas) -> Iterator[tuple[float, ...]]:
    for place, record in enumerate(truth):
        if record.instances is None:
            raise InputError(record.filename, "nobody has labelled it", "expected detection records with instances")
        own = areas.get(record.filename)
        for index, instance in enumerate(record.instances):
            if instance.category in labels:
                x1, y1, x2, y2 = instance.box
                area = (x2 - x1) * (y2 - y1) if own is None else own[index]
                yield place, labels[instance.category], x1, y1, x2, y2, area, instance.ignore
