"""All predicted boxes of a data set, as arrays: 28 bytes per box, where a Record takes a few hundred.

N predicted boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from formats.io.errors import InputError
from formats.record import Instance, Record
from grounding_model.metrics.pairing import check_pairing


class PredictedBoxes(NamedTuple):
    """In any order, which decides between equal scores."""

    images: np.ndarray  # (N,) int32, the index of the image in the truth
    labels: np.ndarray  # (N,) int32, the index of the category among those that are evaluated
    boxes: np.ndarray  # (N, 4) float, x1, y1, x2, y2 in pixels
    scores: np.ndarray  # (N,) float

    @classmethod
    def of_records(
        cls, predictions: Sequence[Record], images: Mapping[str, int], labels: Mapping[str, int]
    ) -> PredictedBoxes:
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
    def joined(cls, parts: Sequence[PredictedBoxes]) -> PredictedBoxes:
        """All boxes of the parts; at least one part is required."""
        return cls(*(np.concatenate(columns) for columns in zip(*parts)))

    def best_of_each_image(self, count: int) -> PredictedBoxes:
        """The best boxes of each image over all categories, in unchanged order; of equal scores the first."""
        return self._best_of(np.lexsort((-self.scores, self.images)), self.images, count)

    def best_of_each_label(self, count: int) -> PredictedBoxes:
        """The best boxes of each category over all images, in unchanged order; of equal scores the first."""
        return self._best_of(np.lexsort((-self.scores, self.labels)), self.labels, count)

    def best_of_each_group(self, count: int) -> PredictedBoxes:
        """The best boxes of each category in each image. Requires what sorted_by_label gives."""
        groups = (self.labels.astype(np.int64) << 32) | self.images
        return self._best_of(np.arange(len(groups)), groups, count)

    def sorted_by_label(self) -> PredictedBoxes:
        """Sorted by category, then by image, then by falling score."""
        return self.rows(np.lexsort((-self.scores, self.images, self.labels)))

    def rows(self, rows: np.ndarray | slice) -> PredictedBoxes:
        """Some of the boxes."""
        return PredictedBoxes(*(column[rows] for column in self))

    def _best_of(self, order: np.ndarray, owners: np.ndarray, count: int) -> PredictedBoxes:
        """order: (N,) rows by owner and then by falling score."""
        owners = owners[order]
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        sizes = np.diff([*starts, len(owners)])
        if not len(sizes) or sizes.max() <= count:
            return self
        ranks = np.arange(len(owners)) - np.repeat(starts, sizes)
        return self.rows(np.sort(order[ranks < count]))


def predictions_as_arrays(
    truth: Sequence[Record], predictions: Sequence[Record] | PredictedBoxes, labels: Mapping[str, int]
) -> PredictedBoxes:
    """labels: category -> index; others are left out. PredictedBoxes are returned unchanged.

    Raises InputError for duplicate images, predictions of unknown images and boxes without score.
    """
    filenames = [record.filename for record in truth]
    if isinstance(predictions, PredictedBoxes):
        check_pairing(filenames, ())
        return predictions
    check_pairing(filenames, [record.filename for record in predictions])
    return PredictedBoxes.of_records(predictions, {name: image for image, name in enumerate(filenames)}, labels)


def _score_of(instance: Instance, filename: str) -> float:
    if instance.score is None:
        raise InputError(filename, f"a predicted {instance.category} has no score", "expected a score for every box")
    return instance.score
