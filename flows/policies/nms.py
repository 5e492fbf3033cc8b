"""Non-maximum suppression, within a category and by distractors.

N boxes (N, 4) float64, x1, y1, x2, y2 in pixels, best first.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from formats.boxes import pairwise_iou
from formats.record import Record


def suppress_duplicates(boxes: np.ndarray, labels: np.ndarray, iou: float) -> np.ndarray:
    """Greedy NMS, class by class: (N, 4) and (N,) labels -> (N,) True for the boxes to keep.

    With one label for all boxes, it works across classes.
    """
    stays = np.ones(len(boxes), dtype=bool)
    for best in range(len(boxes)):
        if not stays[best]:
            continue
        duplicates = (labels == labels[best]) & (pairwise_iou(boxes[best : best + 1], boxes)[0] > iou)
        duplicates[: best + 1] = False
        stays &= ~duplicates
    return stays


def record_without_duplicates(record: Record, iou: float) -> Record:
    """A record's instances, best first, after greedy NMS; a box without a score comes last."""
    ranked = sorted(record.instances or (), key=lambda instance: -(instance.score or 0.0))
    boxes = np.array([instance.box for instance in ranked], dtype=np.float64).reshape(-1, 4)
    stays = suppress_duplicates(boxes, np.array([instance.label for instance in ranked], dtype=np.int64), iou)
    return replace(record, instances=tuple(instance for instance, kept in zip(ranked, stays) if kept))


def suppressed_by_distractor(boxes: np.ndarray, distractor: np.ndarray, iou: float) -> np.ndarray:
    """(N, 4), (N,) bool -> (N,) True for boxes that a better box of a distractor overlaps by more than `iou`.

    Boxes of distractors themselves are False. Of equal scores the first counts as better.

    The idea of querying additional categories to recognise confusions is from arXiv 2401.00094.
    """
    suppressed = (pairwise_iou(boxes, boxes) > iou) & distractor[None, :]
    return np.tril(suppressed, -1).any(axis=1) & ~distractor
