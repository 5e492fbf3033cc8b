"""Box maths.

Shapes: N, M boxes; ... any leading dimensions.
xyxy   x1, y1, x2, y2; x2 and y2 are exclusive
cxcywh centre x, centre y, width, height
Both in any one unit: pixels, or fractions of the image's content.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) -> (..., 4)."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat((centre - size / 2, centre + size / 2), dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) -> (..., 4)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def area(boxes: Tensor) -> Tensor:
    """xyxy (..., 4) -> (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou_and_giou(first: Tensor, second: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """xyxy (..., 4), (..., 4), broadcast against each other -> (...), (...): IoU and generalised IoU
    (arXiv 1902.09630). eps is the lower bound of the denominators, as in the reference."""
    overlap_low = torch.maximum(first[..., :2], second[..., :2])
    overlap_high = torch.minimum(first[..., 2:], second[..., 2:])
    overlap = (overlap_high - overlap_low).clamp(min=0).prod(dim=-1)
    union = (area(first) + area(second) - overlap).clamp(min=eps)
    hull_low = torch.minimum(first[..., :2], second[..., :2])
    hull_high = torch.maximum(first[..., 2:], second[..., 2:])
    hull = (hull_high - hull_low).clamp(min=0).prod(dim=-1).clamp(min=eps)
    iou = overlap / union
    return iou, iou - (hull - union) / hull


def giou(first: Tensor, second: Tensor) -> Tensor:
    """xyxy (..., 4), (..., 4) -> (...), pair by pair."""
    return iou_and_giou(first, second)[1]


def iou_matrix(first: Tensor, second: Tensor) -> Tensor:
    """xyxy (..., N, 4), (..., M, 4) -> (..., N, M)."""
    return iou_and_giou(first[..., :, None, :], second[..., None, :, :])[0]


def pairwise_giou(first: Tensor, second: Tensor) -> Tensor:
    """xyxy (..., N, 4), (..., M, 4) -> (..., N, M)."""
    return iou_and_giou(first[..., :, None, :], second[..., None, :, :])[1]


def inverse_sigmoid(x: Tensor, eps: float) -> Tensor:
    """(...) in 0..1 -> (...): the logit, finite because x and 1 - x are clamped to at least eps."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def suppress_overlaps(boxes: Tensor, labels: Tensor, iou: float) -> Tensor:
    """xyxy (N, 4), labels (N,), both sorted best first -> ascending indices of the boxes kept: no box overlaps a better
    one with the same label by more than iou (greedy non-maximum suppression, arXiv 1311.2524, appendix B)."""
    kept = torch.ones(len(boxes), dtype=torch.bool)
    for label in labels.unique():
        places = (labels == label).nonzero().flatten()
        covers = (iou_matrix(boxes[places], boxes[places]) > iou).triu(1).numpy()
        alive = np.ones(len(places), dtype=bool)
        for index in range(len(places)):
            if alive[index]:
                alive &= ~covers[index]
        kept[places] = torch.from_numpy(alive)
    return kept.nonzero().flatten()
