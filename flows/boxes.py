"""How far boxes overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from formats.record import Box


def pairwise_iou(boxes: Sequence[Box] | np.ndarray, others: Sequence[Box] | np.ndarray) -> np.ndarray:
    """(N, 4), (M, 4) in one unit, x2 and y2 exclusive -> (N, M) float64; 0 where both boxes are empty."""
    one = np.asarray(boxes, dtype=np.float64).reshape(-1, 1, 4)
    other = np.asarray(others, dtype=np.float64).reshape(1, -1, 4)
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    overlap = np.clip(sides, 0.0, None).prod(axis=-1)
    union = (one[..., 2:] - one[..., :2]).prod(axis=-1) + (other[..., 2:] - other[..., :2]).prod(axis=-1) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
