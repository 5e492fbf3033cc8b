"""The detections of one category ranked by score, and the precision at each recall.

T IoU thresholds, R recall steps, I images, N detections of the category, C of them correct at some threshold.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BLOCK = 1 << 17  # numbers processed at once: few enough for a processor's cache


class Ranking(NamedTuple):
    """The detections of one category in all images, best first."""

    images: np.ndarray  # (N,) int64, index of the image of each detection
    counted: np.ndarray  # (T, N) bool, False if it matched something ignored; (1, N) if equal at every threshold
    ranks: np.ndarray  # (C,) int64, ranks of those correct at some threshold; recall changes only there
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
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(len(order))
        rows_in_order = np.argsort(ranks[rows])
        rows, matched, on_ignored = rows[rows_in_order], matched[:, rows_in_order], on_ignored[:, rows_in_order]
        counted = ~unmatched_ignored[order][None]
        counted_rows = np.where(matched, ~on_ignored, ~unmatched_ignored[rows])  # (T, M)
        if (counted_rows != counted_rows[:1]).any():
            counted = np.repeat(counted, len(matched), axis=0)
        counted[:, ranks[rows]] = counted_rows[: len(counted)]
        correct = matched & ~on_ignored
        found = correct.any(0)
        return cls(
            images[order].astype(np.int64), counted, ranks[rows][found], correct[:, found], to_find, recall_steps
        )

    def precision_at_recall(self, epsilon: float = 0.0) -> np.ndarray | None:
        """(T, R): the best precision at each recall or any higher one; 0 for a recall that is not reached.

        epsilon: is added to the number of detections, as pycocotools does. Returns None where there is no box to find.
        """
        to_find = int(self.to_find.sum())
        if to_find == 0:
            return None
        levels = np.zeros((len(self.correct), len(self.recall_steps)))
        if not len(self.ranks):
            return levels
        seen = np.cumsum(self.counted, axis=1)[:, self.ranks]  # (T or 1, C)
        correct = np.cumsum(self.correct, axis=1)  # (T, C)
        precision = correct / (np.maximum(seen, 1) + epsilon)
        best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for level, line, reached in zip(levels, best_from_here, correct / to_find):
            steps = np.searchsorted(reached, self.recall_steps)
            attained = steps < len(line)
            level[attained] = line[steps[attained]]
        return levels

    def average_precisions(self, draws: np.ndarray) -> np.ndarray:
        """(S,): AP in each of some draws of images, NaN where a draw has no box to find. draws: (S, I) int64.

        The mean of `precision_at_recall`, with images drawn more than once or not at all. Copies of a detection rank
        next to each other, and precision between two copies of a correct one is below that after them: so their number
        is a weight, and nothing is repeated. A correct box raises recall past some recall steps, and the precision
        there counts that many times.
        """
        with_boxes = np.flatnonzero(self.to_find)
        to_find = draws[:, with_boxes] @ self.to_find[with_boxes]  # (S,)
        values = np.where(to_find > 0, 0.0, np.nan)
        if not len(self.ranks):
            return values
        last = self.ranks[-1] + 1  # what ranks lower changes nothing
        together = max(1, BLOCK // (len(self.counted) * last + self.correct.size))
        for start in range(0, len(draws), together):
            part = slice(start, start + together)
            weights = np.take(draws[part].astype(np.int32), self.images[:last], axis=1)
            sums = self._sums_over_steps(weights, to_find[part])
            values[part] += sums / (len(self.correct) * len(self.recall_steps))
        return values

    def _sums_over_steps(self, weights: np.ndarray, to_find: np.ndarray) -> np.ndarray:
        """(S,): the sum of precisions over recall steps and thresholds. weights: (S, n), of each detection."""
        counted = self.counted[:, : weights.shape[1]]
        weighed = weights[:, None] if counted.all() else counted * weights[:, None]  # (S, T or 1, n)
        after_the_one_before = np.concatenate([[0], self.ranks[:-1] + 1])
        seen = np.cumsum(np.add.reduceat(weighed, after_the_one_before, axis=2), axis=2)  # (S, T or 1, C)
        correct = np.cumsum(self.correct * weights[:, None, self.ranks], axis=2)  # (S, T, C)
        precision = correct / np.maximum(seen, 1)
        best_from_here = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
        passed = _steps_passed(to_find, int(correct.max()), self.recall_steps)  # (S, number of correct ones + 1)
        after = passed[np.arange(len(correct))[:, None, None], correct]
        return np.einsum("stc,stc->s", best_from_here, np.diff(after, axis=2, prepend=0))


def _steps_passed(to_find: np.ndarray, max_found: int, recall_steps: np.ndarray) -> np.ndarray:
    """(S, max_found + 1): how many recall steps are reached once 0 … max_found boxes are found. to_find: (S,)."""
    recall = np.arange(max_found + 1) / np.maximum(to_find, 1)[:, None]
    return np.searchsorted(recall_steps, recall, side="right")
