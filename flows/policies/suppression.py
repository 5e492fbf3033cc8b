"""Boxes that mean the same object: the better scored stays.

N boxes (N, 4) float64, x1, y1, x2, y2 in pixels, best first.
"""

from __future__ import annotations

import numpy as np

from flows.boxes import pairwise_iou


def suppress_duplicates(boxes: np.ndarray, labels: np.ndarray, iou: float) -> np.ndarray:
    """Greedy NMS, class by class: (N, 4) and (N,) labels -> (N,) True for the boxes that stay.

    One label for all boxes makes it cross-class.
    """
    stays = np.ones(len(boxes), dtype=bool)
    for best in range(len(boxes)):
        if not stays[best]:
            continue
        duplicates = (labels == labels[best]) & (pairwise_iou(boxes[best : best + 1], boxes)[0] > iou)
        duplicates[: best + 1] = False
        stays &= ~duplicates
    return stays


def won_by_distractor(boxes: np.ndarray, distractor: np.ndarray, iou: float) -> np.ndarray:
    """(N, 4), (N,) bool -> (N,) True for a box of no distractor that a better one of a distractor overlaps more
    than `iou`. Of equal scores the one that stands first is the better.

    Asking for more than is wanted, to know what it is not, is from arXiv 2401.00094.
    """
    beaten = (pairwise_iou(boxes, boxes) > iou) & distractor[None, :]
    return np.tril(beaten, -1).any(axis=1) & ~distractor
