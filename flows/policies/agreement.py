"""How far two looks at one image agree: two views, two rounds, two models. Where they do not, a person should look."""

from __future__ import annotations

import numpy as np

from flows.boxes import pairwise_iou
from flows.policies.calibration import judge


def image_agreement(
    boxes: np.ndarray, labels: np.ndarray, others: np.ndarray, other_labels: np.ndarray, iou: float = 0.5
) -> float:
    """0..1: twice the boxes that both have, over all boxes of both (Dice); 1 where both have none.

    boxes (N, 4) and others (M, 4) pixels, best first; labels (N,), other_labels (M,). Both have a box where labels are
    equal and the IoU is at least `iou`, each box counted once; it counts as much as it overlaps.
    """
    total = len(boxes) + len(others)
    if not total:
        return 1.0
    shared = 0.0
    for label in np.intersect1d(labels, other_labels):
        mine, theirs = boxes[labels == label], others[other_labels == label]
        found = judge(mine, theirs, iou)
        if found.any():
            shared += float(pairwise_iou(mine[found], theirs).max(axis=1).sum())
    return 2 * shared / total
