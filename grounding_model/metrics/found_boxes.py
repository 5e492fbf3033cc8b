"""All predicted boxes of a data set, as arrays: 28 bytes a box, where a Record takes a few hundred.

N predicted boxes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from formats.io.errors import InputError
from formats.record import Instance, Record
from grounding_model.metrics.pairing import check_pairing


class FoundBoxes(NamedTuple):
    """In any order, which decides between equal scores."""

    images: np.ndarray  # (N,) int32, the index of the image in the truth
    labels: np.ndarray  # (N,) int32, the index of the category among those that are evaluated
    boxes: np.ndarray  # (N, 4) float, x1, y1, x2, y2 in pixels
    scores: np.ndarray  # (N,) float

    @classmethod
    def of_records(
        cls, predictions: Sequence[Record], images: Mapping[str, int], labels: Mapping[str, int]
    ) -> FoundBoxes:
        """images: filename -> index. labels: category -> index; others are left out.

        Raises InputError for a box without score.
        """
        rows = (
            (images[record.filename], labels[instance.category], *instance.box, _score_of(instance, record.filename))
            for record in predictions
            for instance in record.instances or ()
            if instance.category in labels
        )
        table = np.fromiter(chain.from_iterable(rows), np.float64).reshape(-1, 7)
        return cls(table[:, 0].astype(np.int32), table[:, 1].astype(np.int32), table[:, 2:6], table[:, 6])

    @classmethod
    def joined(cls, parts: Sequence[FoundBoxes]) -> FoundBoxes:
        """All boxes of the parts; at least one part is required."""
        return cls(*(np.concatenate(columns) for columns in zip(*parts)))

    def best_of_each_image(self, count: int) -> FoundBoxes:
        """The best boxes of each image over all categories."""
        order = np.lexsort((-self.scores, self.images))
        owners = self.images[order]
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        rank = np.arange(len(owners)) - np.repeat(starts, np.diff([*starts, len(owners)]))
        return self._rows(np.sort(order[rank < count]))

    def by_label(self, labels: int) -> Iterator[FoundBoxes]:
        """The boxes of each category 0 … labels - 1, sorted by image and then by falling score."""
        for rows in rows_of_labels(np.lexsort((-self.scores, self.images, self.labels)), self.labels, labels):
            yield self._rows(rows)

    def best(self, count: int) -> FoundBoxes:
        """The best boxes, in unchanged order; of equal scores the first."""
        if len(self.scores) <= count:
            return self
        return self._rows(np.sort(np.argsort(-self.scores, kind="stable")[:count]))

    def by_image(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Index of an image -> its (n, 4) boxes and (n,) scores, float64. Requires boxes sorted by image."""
        boxes, scores = self.boxes.astype(np.float64), self.scores.astype(np.float64)
        return {image: (boxes[rows], scores[rows]) for image, rows in by_image(self.images)}

    def select_images(self, first: int, last: int) -> FoundBoxes:
        """The boxes of the images first … last, both included. Requires boxes sorted by image."""
        return self._rows(slice(*np.searchsorted(self.images, [first, last + 1])))

    def _rows(self, rows: np.ndarray | slice) -> FoundBoxes:
        return FoundBoxes(*(column[rows] for column in self))


def found_boxes(
    truth: Sequence[Record], predictions: Sequence[Record] | FoundBoxes, labels: Mapping[str, int]
) -> FoundBoxes:
    """labels: category -> index; others are left out. FoundBoxes are returned unchanged.

    Raises InputError for duplicate images, predictions of unknown images and boxes without score.
    """
    filenames = [record.filename for record in truth]
    if isinstance(predictions, FoundBoxes):
        check_pairing(filenames, ())
        return predictions
    check_pairing(filenames, [record.filename for record in predictions])
    return FoundBoxes.of_records(predictions, {name: image for image, name in enumerate(filenames)}, labels)


def _score_of(instance: Instance, filename: str) -> float:
    if instance.score is None:
        raise InputError(filename, f"a predicted {instance.category} has no score", "expected a score for every box")
    return instance.score


def rows_of_labels(order: np.ndarray, labels: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """order: (N,) rows that sort the (N,) labels. Yields the rows of each label 0 … count - 1."""
    ends = np.searchsorted(labels[order], np.arange(count), side="right")
    for start, end in zip([0, *ends[:-1]], ends):
        yield order[start:end]


def by_image(images: np.ndarray) -> Iterator[tuple[int, slice]]:
    """(N,) ascending image indices -> each distinct one, with its rows."""
    starts = np.flatnonzero(np.diff(images, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(images)]):
        yield int(images[start]), slice(start, end)
