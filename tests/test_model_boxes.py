"""Non-maximum suppression of the answers: which boxes of a label are the same one."""

from __future__ import annotations

import torch
from torchvision.ops import batched_nms

from grounding_model.model.boxes import suppress_overlaps


def test_duplicates_are_those_of_torchvision() -> None:
    draws = torch.Generator().manual_seed(0)
    for count in (0, 1, 300):
        corners = torch.rand(count, 4, generator=draws) * 60
        boxes = torch.cat((corners[:, :2], corners[:, :2] + 20 + corners[:, 2:]), 1)
        labels = torch.randint(0, 5, (count,), generator=draws)
        scores = torch.linspace(1, 0, count)
        for iou in (0.3, 0.6):
            assert suppress_overlaps(boxes, labels, iou).tolist() == batched_nms(boxes, scores, labels, iou).tolist()


def test_boxes_of_another_label_are_no_duplicates() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 3)
    assert suppress_overlaps(boxes, torch.tensor([1, 0, 1]), 0.5).tolist() == [0, 1]
