"""The number of boxes over all images at every threshold, which the page shows while a slider moves.

C categories of the plan; L levels, the scores 0, 0.01 … 1
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import numpy as np

from browse.review.candidates import DUPLICATE, CandidateBoxes
from formats.candidates import Candidates, read_candidates
from formats.io.errors import InputError

LEVELS = 101
MOST_BOXES = 100  # of a category in an image, best first, that are checked for duplicates; the rest are all counted


class CandidateCounts:
    """The counts of a plan, computed in the background, one shard at a time, from the first request on."""

    def __init__(self, candidates: CandidateBoxes) -> None:
        self._candidates = candidates
        names = candidates.names or ()
        self._places = {name: row for row, name in enumerate(names)}
        self._boxes = np.zeros((len(names), LEVELS), np.int64)  # histogram of the scores of boxes
        self._images = np.zeros((len(names), LEVELS), np.int64)  # histogram of the best score per image
        self._read = 0
        self._started = False
        self._stopped = False
        self._lock = threading.Lock()

    def of(self, name: str) -> dict[str, Any]:
        """{"boxes", "images", "read", "shards"}: for each level, the number of boxes of a category with at least this
        score and of images that have one; and how many shards have been read. Empty lists for an unknown name.
        """
        with self._lock:
            if not self._started:
                self._started = True
                threading.Thread(target=self._count, name="counts of candidates", daemon=True).start()
        row = self._places.get(name)
        found = {"read": self._read, "shards": self._candidates.shards}
        if row is None:
            return {"boxes": [], "images": [], **found}
        return {"boxes": _at_least(self._boxes[row]), "images": _at_least(self._images[row]), **found}

    def stop(self) -> None:
        """Stops reading in the background."""
        self._stopped = True

    def _count(self) -> None:
        for shard in range(self._candidates.shards):
            if self._stopped:
                return
            with suppress(InputError):  # it is being labelled again
                self._add(read_candidates(self._candidates.shard_path(shard)))
            self._read = shard + 1

    def _add(self, shard: Candidates) -> None:
        inside = (shard.region >= 0) & (shard.region < len(self._boxes))
        order = np.lexsort((-shard.score, shard.region, shard.line))
        order = order[inside[order]]
        region, score = shard.region[order], shard.score[order]
        same = (np.diff(shard.line[order]) == 0) & (np.diff(region) == 0)
        group = np.concatenate([[0], np.cumsum(~same)]) if len(order) else np.zeros(0, np.int64)
        level = np.clip(np.floor(score.astype(float) * (LEVELS - 1) + 1e-4), 0, LEVELS - 1).astype(int)
        keep = ~_duplicates(shard.box[order].astype(float), group)
        best = np.diff(group, prepend=-1) > 0
        np.add.at(self._boxes, (region[keep], level[keep]), 1)
        np.add.at(self._images, (region[best], level[best]), 1)


def _at_least(counts: np.ndarray) -> list[int]:
    return counts[::-1].cumsum()[::-1].tolist()


def _duplicates(box: np.ndarray, group: np.ndarray) -> np.ndarray:
    """(N,) bool: duplicates of a better box of the same group. group: (N,), each group's best box first."""
    found = np.zeros(len(box), bool)
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    rows = np.arange(len(box))
    for back in range(1, MOST_BOXES):
        rows = rows[rows >= back]
        rows = rows[group[rows] == group[rows - back]]
        if not len(rows):
            break
        one, other = box[rows], box[rows - back]
        sides = np.clip(np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2]), 0, None)
        common = sides.prod(axis=1)
        found[rows] |= common >= DUPLICATE * (area[rows] + area[rows - back] - common)
    return found
