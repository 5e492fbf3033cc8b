"""The detections of one category ranked by score, and the precision at each recall.

T IoU thresholds, R recall steps, I images, N detections of the category, C of them correct at some threshold.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Ranking(NamedTuple):
    """The detections of one category in all images, best first."""

    images: np.ndarray  # (N,) int64, index of the image of each detection
    counted: np.ndarray  # (T, N) bool, False if it matched something ignored; (1, N) if equal at every threshold
    places: np.ndarray  # (C,) int64, ranks of those correct at some threshold; recall changes only there
    correct: np.ndarray  # (T, C) bool
    to_find: np.ndarray  # (I,) int64, number of true boxes per image
    recall_steps: np.ndarray  # (R,) float64

    @classmethod
    def of_matches(
        cls,
        images: np.ndarray,
        scores: np.ndarray,
        rows: np.ndarray,
        matched: np.ndarray,
        on_ignored: np.ndarray,
        unmatched_ignored: np.ndarray,
        to_find: np.ndarray,
        recall_steps: np.ndarray,
    ) -> Ranking:
        """images, scores, unmatched_ignored: (N,), in the order of the images. rows: (M,) detections that may match.
        matched, on_ignored: (T, M), whether each of these matched a true box, and an ignored one.

        Equal scores keep the order of their images, as in COCO's evaluation.
        """
        order = np.argsort(-scores, kind="stable")
        places = np.empty(len(order), dtype=np.int64)
        places[order] = np.arange(len(order))
        rows_in_order = np.argsort(places[rows])
        rows, matched, on_ignored = rows[rows_in_order], matched[:, rows_in_order], on_ignored[:, rows_in_order]
        counted = ~unmatched_ignored[order][None]
        counted_rows = np.where(matched, ~on_ignored, ~unmatched_ignored[rows])  # (T, M)
        if (counted_rows != counted_rows[:1]).any():
            counted = np.repeat(counted, len(matched), axis=0)
        counted[:, places[rows]] = counted_rows[: len(counted)]
        correct = matched & ~on_ignored
        found = correct.any(0)
        return cls(
            images[order].astype(np.int64), counted, places[rows][found], correct[:, found], to_find, recall_steps
        )

    def precision_at_recall(self, draw: np.ndarray | None = None, epsilon: float = 0.0) -> np.ndarray | None:
        """(T, R): the best precision at each recall or any higher one; 0 for a recall that is not reached.

        draw: (I,) int64, how often each image is in a bootstrap resample; None: once. epsilon: added to the number of
        detections, as in pycocotools. Returns None if there are no true boxes.
        The copies of an image that was drawn several times need not be ranked one by one: copies of a detection have
        adjacent ranks, and precision between copies of a correct one is below that after the last, so their number can
        be used as a weight.
        """
        draw = np.ones(len(self.to_find), dtype=np.int64) if draw is None else draw
        to_find = int(draw @ self.to_find)
        if to_find == 0:
            return None
        levels = np.zeros((len(self.correct), len(self.recall_steps)))
        if not len(self.places):
            return levels
        weights = draw[self.images]
        seen = np.cumsum(self.counted * weights, axis=1)[:, self.places]  # (T or 1, C)
        correct = np.cumsum(self.correct * weights[self.places], axis=1)  # (T, C)
        precision = correct / (np.maximum(seen, 1) + epsilon)
        best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for level, line, reached in zip(levels, best_from_here, correct / to_find):
            places = np.searchsorted(reached, self.recall_steps)
            attained = places < len(line)
            level[attained] = line[places[attained]]
        return levels
