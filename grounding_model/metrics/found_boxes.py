"""Everything that was found in a data set, as arrays: 28 bytes a box, where a Record takes some hundred.

N boxes found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from formats.record import Record
from grounding_model.metrics.coco import score_of


class FoundBoxes(NamedTuple):
    """In any order. Scores of equal boxes rank as they stand."""

    images: np.ndarray  # (N,) int32, the place of the image in the truth
    labels: np.ndarray  # (N,) int32, the place of the category among those that are judged
    boxes: np.ndarray  # (N, 4) float, x1, y1, x2, y2 in pixels
    scores: np.ndarray  # (N,) float

    @classmethod
    def of_records(
        cls, predictions: Sequence[Record], images: Mapping[str, int], labels: Mapping[str, int]
    ) -> FoundBoxes:
        """images: filename -> place. labels: category -> place; others are left out.

        Raises InputError for a box without score.
        """
        rows = [
            (images[record.filename], labels[each.category], *each.box, score_of(each, record.filename))
            for record in predictions
            for each in record.instances or ()
            if each.category in labels
        ]
        table = np.asarray(rows, dtype=np.float64).reshape(-1, 7)
        return cls(table[:, 0].astype(np.int32), table[:, 1].astype(np.int32), table[:, 2:6], table[:, 6])

    @classmethod
    def joined(cls, parts: Sequence[FoundBoxes]) -> FoundBoxes:
        """All boxes of the parts, of which there is at least one."""
        return cls(*(np.concatenate(columns) for columns in zip(*parts)))

    def best_of_each_image(self, count: int) -> FoundBoxes:
        """Of each image its best boxes, whatever their categories."""
        order = np.lexsort((-self.scores, self.images))
        owners = self.images[order]
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        rank = np.arange(len(owners)) - np.repeat(starts, np.diff([*starts, len(owners)]))
        return self._rows(np.sort(order[rank < count]))

    def by_label(self, labels: int) -> Iterator[FoundBoxes]:
        """Of each of so many categories its boxes, image after image, those of an image best first."""
        order = np.lexsort((-self.scores, self.images, self.labels))
        ends = np.searchsorted(self.labels[order], np.arange(labels), side="right")
        for start, end in zip([0, *ends[:-1]], ends):
            yield self._rows(order[start:end])

    def best(self, count: int) -> FoundBoxes:
        """The best boxes, in the order that they stand in; of equal scores those that stand first."""
        if len(self.scores) <= count:
            return self
        return self._rows(np.sort(np.argsort(-self.scores, kind="stable")[:count]))

    def by_image(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Place of an image -> its (n, 4) boxes and (n,) scores, float64. The boxes stand image after image."""
        starts = np.flatnonzero(np.diff(self.images, prepend=-1))
        boxes, scores = self.boxes.astype(np.float64), self.scores.astype(np.float64)
        return {
            int(self.images[start]): (boxes[start:end], scores[start:end])
            for start, end in zip(starts, [*starts[1:], len(self.images)])
        }

    def _rows(self, places: np.ndarray) -> FoundBoxes:
        return FoundBoxes(*(column[places] for column in self))
