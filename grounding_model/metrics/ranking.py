"""Everything found of one category, best first, and the precision that it has at each recall.

T IoU thresholds, R recall steps, I images, D detections of one category in one image, N in all images, C of them
correct at some threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Match(NamedTuple):
    """What was found of one category in one image, best first.

    image: index of the image. scores: (D,) float64. matched: (T, D) bool, True where it met a true box.
    ignored: (T, D) bool, True where it is neither right nor wrong. to_find: number of true boxes.
    """

    image: int
    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    to_find: int


class Ranking(NamedTuple):
    """What was found of one category in all images, best first."""

    images: np.ndarray  # (N,) int64, the image that each is in
    counted: np.ndarray  # (T, N) bool, False where it met something ignored; (1, N) where that is so at every threshold
    places: np.ndarray  # (C,) int64, which of the N are correct at some threshold: only there does recall change
    correct: np.ndarray  # (T, C) bool
    to_find: np.ndarray  # (I,) int64, true boxes an image
    recall_steps: np.ndarray  # (R,) float64

    @classmethod
    def of(cls, matches: Sequence[Match], images: int, recall_steps: np.ndarray) -> Ranking:
        """matches: in the order of their images, none for an image with neither truth nor detections.

        images: I. Equal scores stay in the order of their images, as in COCO's evaluation.
        """
        to_find = np.zeros(images, dtype=np.int64)
        for match in matches:
            to_find[match.image] = match.to_find
        if not matches:
            nothing, nowhere = np.zeros((1, 0), dtype=bool), np.zeros(0, dtype=np.int64)
            return cls(nowhere, nothing, nowhere, nothing, to_find, recall_steps)
        order = np.argsort(-np.concatenate([match.scores for match in matches]), kind="stable")
        owners = np.repeat([match.image for match in matches], [len(match.scores) for match in matches])[order]
        counted = ~np.concatenate([match.ignored for match in matches], axis=1)[:, order]
        correct = np.concatenate([match.matched for match in matches], axis=1)[:, order] & counted
        places = np.flatnonzero(correct.any(0))
        if (counted == counted[:1]).all():
            counted = counted[:1]
        return cls(owners, counted, places, correct[:, places], to_find, recall_steps)

    def precision_at_recall(self, draw: np.ndarray | None = None) -> np.ndarray | None:
        """(T, R): the best precision at each recall or a higher one, 0 where it is not reached.

        draw: (I,) int64, how often each image stands in the data set; None: once. None is given back where there is
        no box to find. Copies of a detection rank next to each other, and precision between two copies of a correct
        one is below that after them: so their number is a weight, and nothing has to be repeated.
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
        precision = correct / np.maximum(seen, 1)
        best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for level, line, reached in zip(levels, best_from_here, correct / to_find):
            places = np.searchsorted(reached, self.recall_steps)
            attained = places < len(line)
            level[attained] = line[places[attained]]
        return levels
