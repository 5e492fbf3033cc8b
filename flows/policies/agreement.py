"""Agreement between two sets of labels of an image (views, rounds, models); low agreement should be reviewed first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flows.policies.calibration import correct_boxes
from formats.boxes import MATCH_IOU, pairwise_iou
from formats.record import Box


def image_agreement(
    boxes: Mapping[str, Sequence[Box]], others: Mapping[str, Sequence[Box]], iou: float = MATCH_IOU
) -> float:
    """0..1: twice the sum of the IoUs of matched boxes, divided by the number of all boxes (Dice); 1 if there are none.

    boxes, others: by name, as in formats.boxes, best first. Boxes of equal names match if their IoU is at least `iou`;
    each box is matched once.
    """
    total = sum(map(len, (*boxes.values(), *others.values())))
    if not total:
        return 1.0
    shared = 0.0
    for name, boxes_of_name in boxes.items():
        others_of_name = others.get(name, ())
        found = correct_boxes(boxes_of_name, others_of_name, iou)
        if found.any():
            shared += float(pairwise_iou(boxes_of_name, others_of_name)[found].max(axis=1).sum())
    return 2 * shared / total
