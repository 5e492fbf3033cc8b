"""Compares two sets of boxes of one image: which are the same, gained, lost, moved or relabelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from browse.review.index import LabelLines, LineIndex
from browse.review.line_facts import hash_of
from browse.review.page_json import box_words, boxes_to_page
from formats.boxes import best_pairs, pairwise_iou
from formats.io.errors import InputError
from formats.odvg_lines import is_quarantined
from formats.record import Record

MATCHED = 0.5  # two boxes with at least this IoU show the same object, as for AP50
MOVED = 0.9  # a matched box with a lower IoU counts as moved

LOOKED_AT = 20  # lines of the other file that are read before anything is drawn

CHANGES = ("gained", "lost", "moved", "relabelled")
_SAME, _GAINED, _LOST, _MOVED, _RELABELLED = range(5)


class OtherLabels:
    """Another label file about the same images: an earlier round, or the truth.

    Raises InputError for a file that is none of labels, as its first lines show.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = LabelLines(path)
        if not any(_is_line(lines, number) for number in range(min(len(lines), LOOKED_AT))):
            raise InputError(path, "contains no labels", "expected an ODVG file about the same images")
        self._index = LineIndex(lines, None)
        self._index.start()
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None  # hashes, and the line of each

    @property
    def is_truth(self) -> bool:
        """Whether no box has a score, as in labels made by a person; then our boxes count as right or wrong.

        Waits for the file to be read.
        """
        return bool(np.isnan(self._index.scores).all())

    @property
    def is_known_truth(self) -> bool:
        """Whether that is known already: a long file is still being read when the page opens."""
        return self._index.done.is_set() and self.is_truth

    def raw(self, hashes: np.ndarray) -> list[bytes | None]:
        """The raw lines of some images. hashes: (K,) int64, of their keys."""
        return [None if number < 0 else self._index.lines.raw(number) for number in self._lines_of(hashes).tolist()]

    def record(self, key: bytes) -> Record | None:
        """The line of an image; None if there is none or it cannot be read. Waits for the file to be read."""
        [number] = self._lines_of(np.array([hash_of(key)])).tolist()
        try:
            return None if number < 0 else self._index.lines.record(number)
        except InputError:
            return None

    def _lines_of(self, hashes: np.ndarray) -> np.ndarray:
        """(K,) int64: the line with each hash, the last one of several; -1 if there is none."""
        self._index.done.wait()
        if self._sorted is None:
            lines = np.flatnonzero(~self._index.broken)
            lines = lines[np.argsort(self._index.hashes[lines], kind="stable")]
            self._sorted = self._index.hashes[lines], lines
        known, lines = self._sorted
        position = np.searchsorted(known, hashes, "right") - 1
        if not len(known):
            return np.full(len(hashes), -1)
        return np.where((position >= 0) & (known[position] == hashes), lines[position], -1)


def _is_line(lines: LabelLines, number: int) -> bool:
    try:
        lines.record(number)
    except InputError:
        return is_quarantined(lines.raw(number))
    return True


def compared(ours: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The change of each box: {"ours": [...], "others": [...]}, a change or "same" for each, in their order.

    ours, others: [{"box", "name"}]. A box is paired with the box of the same name that it overlaps most, then with one
    of another name. Boxes without a partner are "gained" (ours) or "lost" (the others').
    """
    our_changes, other_changes = ["gained"] * len(ours), ["lost"] * len(others)
    if ours and others:
        iou = pairwise_iou(_boxes(ours), _boxes(others))
        same_name = np.array([[a["name"] == b["name"] for b in others] for a in ours])
        for allowed in (same_name, ~same_name):
            _pair(np.where(allowed, iou, 0.0), same_name, our_changes, other_changes)
    return {"ours": our_changes, "others": other_changes}


def _pair(iou: np.ndarray, same_name: np.ndarray, our_changes: list[str], other_changes: list[str]) -> None:
    """Pairs boxes that are still unpaired, in order of IoU."""
    free = np.outer([each == "gained" for each in our_changes], [each == "lost" for each in other_changes])
    for one, other in best_pairs(np.where(free, iou, 0.0), MATCHED):
        change = "relabelled" if not same_name[one, other] else "same" if iou[one, other] >= MOVED else "moved"
        our_changes[one] = other_changes[other] = change


def _boxes(entries: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([each["box"] for each in entries], float).reshape(-1, 4)


def named_boxes(record: Record) -> list[dict[str, Any]]:
    """The boxes of a record in the form of the page, with their names, for `compared`."""
    return [{**each, "name": box_words(record, each["of"])} for each in boxes_to_page(record)]


# The same comparison for many lines at once


@dataclass(frozen=True)
class _Boxes:
    """The boxes of some lines. line: (B,) of each, ascending. box: (B, 4). name: (B,) number of its name."""

    line: np.ndarray
    box: np.ndarray
    name: np.ndarray


def changed_lines(
    ours: Sequence[bytes], others: Sequence[bytes | None], names: Mapping[int, str]
) -> dict[str, np.ndarray]:
    """Change -> (K,) bool, whether a line has a box with it; the same result as `compared` on each of K lines.

    ours, others: raw lines of the files. names: of our labels; empty if the lines contain the names.
    Raises KeyError, TypeError or ValueError for an invalid line, and for a caption.
    """
    numbers: dict[str, int] = {}
    our_boxes, other_boxes = _boxes_of(ours, names, numbers), _boxes_of(others, {}, numbers)
    of_ours, of_others = _matched(our_boxes, other_boxes)
    found = {change: np.zeros(len(ours), bool) for change in CHANGES}
    for boxes, changes in ((our_boxes, of_ours), (other_boxes, of_others)):
        for number, change in enumerate(CHANGES, start=_GAINED):
            found[change][boxes.line[changes == number]] = True
    return found


def _boxes_of(lines: Sequence[bytes | None], names: Mapping[int, str], numbers: dict[str, int]) -> _Boxes:
    """Parses lines. numbers: name -> number, shared by both sides; new names are added."""
    line, box, name, sizes = list[int](), list[Sequence[float]](), list[int](), list[tuple[int, int]]()
    for position, raw in enumerate(lines):
        entry = {} if raw is None else orjson.loads(raw)
        if entry.get("grounding"):
            raise ValueError("a caption")
        for each in (entry.get("detection") or {"instances": ()})["instances"]:
            line.append(position)
            box.append(each["bbox"])
            words = names[each["label"]] if names else each["category"]
            name.append(numbers.setdefault(words, len(numbers)))
            sizes.append((entry["width"], entry["height"]))
    sides = np.array(box, float).reshape(-1, 4)
    limits = np.array(sizes, float).reshape(-1, 2)[:, [0, 1, 0, 1]]
    cut = np.clip(sides, 0, limits)
    outside = (cut[:, 2:] <= cut[:, :2]).any(axis=1)
    return _Boxes(np.array(line, np.int64), np.where(outside[:, None], sides, cut), np.array(name, np.int64))


def _matched(ours: _Boxes, others: _Boxes) -> tuple[np.ndarray, np.ndarray]:
    """The change of each box, (A,) and (B,), matched as in `compared`."""
    one, other = _pairs_of_lines(ours.line, others.line)
    iou = _iou_of_pairs(ours.box[one], others.box[other])
    same_name = ours.name[one] == others.name[other]
    of_ours, of_others = np.full(len(ours.line), _GAINED), np.full(len(others.line), _LOST)
    for allowed in (same_name, ~same_name):
        left = np.flatnonzero(allowed & (iou >= MATCHED))
        while len(left := left[(of_ours[one[left]] == _GAINED) & (of_others[other[left]] == _LOST)]):
            best = left[_are_best(one[left], iou[left]) & _are_best(other[left], iou[left])]
            best = best[np.unique(one[best], return_index=True)[1]]  # of two that are equal, the first
            best = best[np.unique(other[best], return_index=True)[1]]
            change = np.where(same_name[best], np.where(iou[best] >= MOVED, _SAME, _MOVED), _RELABELLED)
            of_ours[one[best]] = of_others[other[best]] = change
    return of_ours, of_others


def _pairs_of_lines(ours: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of boxes of the same line. ours, others: the lines of the boxes, ascending."""
    starts = np.searchsorted(others, ours, "left")
    counts = np.searchsorted(others, ours, "right") - starts
    one = np.repeat(np.arange(len(ours)), counts)
    within = np.arange(len(one)) - np.repeat(np.cumsum(counts) - counts, counts)
    return one, np.repeat(starts, counts) + within


def _iou_of_pairs(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    sides = np.clip(np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2]), 0, None)
    common = sides.prod(axis=1)
    joint = (one[:, 2:] - one[:, :2]).prod(axis=1) + (other[:, 2:] - other[:, :2]).prod(axis=1) - common
    return np.divide(common, joint, out=np.zeros_like(common), where=joint > 0)


def _are_best(box: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """(P,) bool: whether no other pair of the same box has a higher IoU."""
    best = np.zeros(int(box.max()) + 1)
    np.maximum.at(best, box, iou)
    return iou == best[box]
