"""The boxes of a record by what they show, how far boxes overlap, and which of them belong together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from formats.record import Box, Record

MATCH_IOU = 0.5  # the least overlap of a box that counts as found, as in PASCAL VOC


def boxes_by_name(record: Record, with_ignored: bool = False) -> dict[str, list[Box]]:
    """Category or phrase -> its boxes, in the record's order. with_ignored: those too that are to be ignored.

    A phrase without a box has an empty list.
    """
    boxes: dict[str, list[Box]] = {}
    for instance in record.instances or ():
        if with_ignored or not instance.ignore:
            boxes.setdefault(instance.category, []).append(instance.box)
    for region in record.regions or ():
        if with_ignored or not region.ignore:
            boxes.setdefault(" ".join(region.phrase), []).extend(region.boxes)
    return boxes


def pairwise_iou(boxes: Sequence[Box] | np.ndarray, others: Sequence[Box] | np.ndarray) -> np.ndarray:
    """(N, 4), (M, 4) in one unit, x2 and y2 exclusive -> (N, M) float64; 0 where both boxes are empty."""
    one = np.asarray(boxes, dtype=np.float64).reshape(-1, 1, 4)
    other = np.asarray(others, dtype=np.float64).reshape(1, -1, 4)
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    overlap = np.clip(sides, 0.0, None).prod(axis=-1)
    union = (one[..., 2:] - one[..., :2]).prod(axis=-1) + (other[..., 2:] - other[..., :2]).prod(axis=-1) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def best_pairs(worth: np.ndarray, min_worth: float) -> list[tuple[int, int]]:
    """(N, M) numbers above 0 -> (row, column) pairs, best first, each row and column once, none below `min_worth`."""
    left = worth.copy()
    pairs: list[tuple[int, int]] = []
    while left.size and left.max() >= min_worth:
        row, column = divmod(int(left.argmax()), left.shape[1])
        pairs.append((row, column))
        left[row, :] = left[:, column] = -1.0
    return pairs
