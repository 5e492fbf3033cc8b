"""Two sets of boxes of one image: which agree, which were gained, lost, moved or relabelled.

iou: common area over joint area of two boxes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from browse.review.index import LabelLines, LineIndex
from browse.review.page_json import boxes_to_page, name_of
from formats.boxes import best_pairs, pairwise_iou
from formats.io.errors import InputError
from formats.record import Record

MATCHED = 0.5  # IoU from which two boxes show the same object, as AP50 has it
MOVED = 0.9  # IoU below which a box that was found again counts as moved

CHANGES = ("gained", "lost", "moved", "relabelled")


class OtherLabels:
    """Another label file about the same images: an earlier round, or the truth."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index = LineIndex(LabelLines(path), None)
        self._index.start()
        self._numbers: dict[int, int] | None = None

    def record(self, key: bytes) -> Record | None:
        """The line of an image; None where it has none, or one that cannot be read. Waits for the file to be read."""
        self._index.done.wait()
        if self._numbers is None:
            hashes, broken = self._index.hashes.tolist(), self._index.broken
            self._numbers = {each: number for number, each in enumerate(hashes) if not broken[number]}
        number = self._numbers.get(hash(key))
        try:
            return None if number is None else self._index.lines.record(number)
        except InputError:
            return None


def compared(ours: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """What became of each box: {"ours": [...], "others": [...]}, a change or "same" for each, in their order.

    ours, others: [{"box", "name"}]. A box is paired with the one of its name that it overlaps most, then with one of
    another name. Ours are "gained" and the others' "lost" where they have no partner.
    """
    mine, theirs = ["gained"] * len(ours), ["lost"] * len(others)
    if ours and others:
        iou = pairwise_iou(_boxes(ours), _boxes(others))
        same_name = np.array([[a["name"] == b["name"] for b in others] for a in ours])
        for allowed in (same_name, ~same_name):
            _pair(np.where(allowed, iou, 0.0), same_name, mine, theirs)
    return {"ours": mine, "others": theirs}


def _pair(iou: np.ndarray, same_name: np.ndarray, mine: list[str], theirs: list[str]) -> None:
    """Takes the best pairs first, of those that are still free."""
    free = np.outer([each == "gained" for each in mine], [each == "lost" for each in theirs])
    for one, other in best_pairs(np.where(free, iou, 0.0), MATCHED):
        change = "relabelled" if not same_name[one, other] else "same" if iou[one, other] >= MOVED else "moved"
        mine[one] = theirs[other] = change


def _boxes(entries: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([each["box"] for each in entries], float).reshape(-1, 4)


def named_boxes(record: Record) -> list[dict[str, Any]]:
    """The boxes of a record as the page has them, with their names: the other side of a comparison."""
    return [{**each, "name": name_of(record, each["of"])} for each in boxes_to_page(record)]
