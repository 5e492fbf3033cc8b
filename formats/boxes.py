"""Boxes of a record by name, overlap of boxes (IoU), and matching of boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from formats.record import Box, Record

MATCH_IOU = 0.5  # from this IoU on, two boxes count as the same object, as in PASCAL VOC


def boxes_by_name(record: Record, with_ignored: bool = False) -> dict[str, list[Box]]:
    """Category or phrase -> its boxes, in the order of the record. with_ignored: include boxes marked `ignore`.

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
    """(N, 4) and (M, 4) boxes in the same unit, x2 and y2 exclusive -> (N, M) float64 IoU; 0 for two empty boxes."""
    one = np.asarray(boxes, dtype=np.float64).reshape(-1, 1, 4)
    other = np.asarray(others, dtype=np.float64).reshape(1, -1, 4)
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    overlap = np.clip(sides, 0.0, None).prod(axis=-1)
    union = (one[..., 2:] - one[..., :2]).prod(axis=-1) + (other[..., 2:] - other[..., :2]).prod(axis=-1) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def best_pairs(worth: np.ndarray, min_worth: float) -> list[tuple[int, int]]:
    """Greedy matching: (N, M) positive scores -> (row, column) pairs, best first, none below `min_worth`.

    Each row and each column is used at most once.
    """
    left = worth.copy()
    pairs: list[tuple[int, int]] = []
    while left.size and left.max() >= min_worth:
        row, column = divmod(int(left.argmax()), left.shape[1])
        pairs.append((row, column))
        left[row, :] = left[:, column] = -1.0
    return pairs
