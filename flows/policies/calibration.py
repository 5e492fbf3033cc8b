"""Calibrates scores on candidates that a person reviewed, by isotonic regression, which arXiv 2405.20459 finds as good
for detectors as calibration methods that need training. N candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from formats.boxes import pairwise_iou
from formats.record import Box


class Calibration(NamedTuple):
    """A box with a score from score[i] to below score[i + 1] is right with probability[i]; both (K,) and ascending."""

    score: np.ndarray
    probability: np.ndarray

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """(N,) scores -> (N,) probabilities; for scores below all reviewed ones, that of the lowest."""
        step = np.searchsorted(self.score, scores, side="right") - 1
        return self.probability[np.maximum(step, 0)]


def calibrate(scores: np.ndarray, right: np.ndarray) -> Calibration:
    """(N,) scores and (N,) bool, N >= 1 -> the ascending steps with least squared error (pool adjacent violators)."""
    levels, rows = np.unique(scores, return_inverse=True)  # equal scores get one probability
    counts = np.bincount(rows).astype(np.float64)
    hits = np.bincount(rows, weights=right.astype(np.float64))
    pools: list[tuple[float, float, float]] = []  # lowest score, hits, candidates
    for level, hit, count in zip(levels, hits, counts):
        pools.append((level, hit, count))
        while len(pools) > 1 and pools[-2][1] * pools[-1][2] >= pools[-1][1] * pools[-2][2]:
            (low, first, of_first), (_, second, of_second) = pools[-2:]
            pools[-2:] = [(low, first + second, of_first + of_second)]
    lowest, hit, count = (np.array(column) for column in zip(*pools))
    return Calibration(lowest, hit / count)


def precision_threshold(scores: np.ndarray, calibration: Calibration, precision: float) -> float:
    """The lowest threshold above which this precision is expected; 1 if there is none.

    scores: (N,) of all candidates to be labelled. The threshold is halfway between the lowest kept score and the next.
    """
    ranked = np.sort(scores)[::-1]
    expected = np.cumsum(calibration(ranked)) / np.arange(1, len(ranked) + 1)
    reached = np.flatnonzero(expected >= precision)
    if not len(reached):
        return 1.0
    last = int(reached[-1])
    return float((ranked[last] + ranked[last + 1]) / 2) if last + 1 < len(ranked) else 0.0


def correct_boxes(boxes: Sequence[Box] | np.ndarray, truth: Sequence[Box] | np.ndarray, iou: float) -> np.ndarray:
    """(N, 4) boxes of a category, best first, and (M, 4) true ones -> (N,) bool, which are right.

    Each true box is matched only once, as in COCO's evaluation.
    """
    overlaps = pairwise_iou(boxes, truth)
    right = np.zeros(len(boxes), dtype=bool)
    for row in range(len(boxes) if len(truth) else 0):
        best = int(np.argmax(overlaps[row]))
        if overlaps[row, best] >= iou:
            right[row] = True
            overlaps[:, best] = -1.0
    return right
