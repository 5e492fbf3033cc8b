"""How far two labellings of one image (views, rounds, models) agree: where they do not, a person should review it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flows.policies.calibration import judge_boxes
from formats.boxes import MATCH_IOU, pairwise_iou
from formats.record import Box


def image_agreement(
    boxes: Mapping[str, Sequence[Box]], others: Mapping[str, Sequence[Box]], iou: float = MATCH_IOU
) -> float:
    """0..1: twice the boxes that both have, over all boxes of both (Dice); 1 where both have none.

    boxes, others: by name, as formats.boxes has them, best first. Both have a box where names are equal and the IoU is
    at least `iou`, each box counted once; it counts as much as it overlaps.
    """
    total = sum(map(len, (*boxes.values(), *others.values())))
    if not total:
        return 1.0
    shared = 0.0
    for name, boxes_of_name in boxes.items():
        others_of_name = others.get(name, ())
        found = judge_boxes(boxes_of_name, others_of_name, iou)
        if found.any():
            shared += float(pairwise_iou(boxes_of_name, others_of_name)[found].max(axis=1).sum())
    return 2 * shared / total
