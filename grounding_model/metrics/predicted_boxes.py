"""All predicted boxes of a data set as arrays: 28 bytes per box, where a Record takes a few hundred.

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
    """Predicted boxes, in any order; among equal scores, the first ranks first."""

    images: np.ndarray  # (N,) int32, index of the image in the ground truth
    labels: np.ndarray  # (N,) int32, index of the category among those evaluated
    boxes: np.ndarray  # (N, 4) float, x1, y1, x2, y2 in pixels
    scores: np.ndarray  # (N,) float

    @classmethod
    def of_records(
        cls, predictions: Sequence[Record], images: Mapping[str, int], labels: Mapping[str, int]
    ) -> PredictedBoxes:
        """images: filename -> index. labels: category -> index; boxes of other categories are left out.

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
        """The boxes of all parts; at least one part is required."""
        return cls(*(np.concatenate(columns) for columns in zip(*parts)))

    def best_of_each_image(self, count: int) -> PredictedBoxes:
        """The `count` best boxes of each image over all categories, in their order; among equal scores, the first."""
        return self._best_of(np.lexsort((-self.scores, self.images)), self.images, count)

    def best_of_each_label(self, count: int) -> PredictedBoxes:
        """The `count` best boxes of each category over all images, in their order; among equal scores, the first."""
        return self._best_of(np.lexsort((-self.scores, self.labels)), self.labels, count)

    def best_of_each_group(self, count: int) -> PredictedBoxes:
        """The `count` best boxes of each category in each image. The boxes must be sorted as by sorted_by_label."""
        groups = (self.labels.astype(np.int64) << 32) | self.images
        return self._best_of(np.arange(len(groups)), groups, count)

    def sorted_by_label(self) -> PredictedBoxes:
        """Sorted by category, then by image, then by descending score."""
        return self.rows(np.lexsort((-self.scores, self.images, self.labels)))

    def rows(self, rows: np.ndarray | slice) -> PredictedBoxes:
        """A selection of the boxes."""
        return PredictedBoxes(*(column[rows] for column in self))

    def _best_of(self, order: np.ndarray, owners: np.ndarray, count: int) -> PredictedBoxes:
        """owners: (N,) the image, category or group of each box. order: (N,) rows by owner, then descending score."""
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
    """Predictions as PredictedBoxes, which are returned unchanged. labels: category -> index; others are left out.

    Raises InputError for duplicate images, predictions of unknown images, and boxes without scores.
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
