"""Which query is matched with which box: the assignment of minimum cost (DETR, arXiv 2005.12872, section 3.1).

Shapes: B images, Q queries, T boxes of the image with most boxes, L tokens of the longest caption, M pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from grounding_model.model import boxes as box_maths
from grounding_model.model.targets import Matching, PaddedTargets
from grounding_model.training.settings import REFERENCE_COSTS, MatchingCosts


class QueriesToMatch(NamedTuple):
    """One set of queries: logits (B, Q, L) before the sigmoid, anything at padded tokens; boxes (B, Q, 4) cx, cy, w, h
    in fractions of the content; with how many of them a box is matched, or with as many as are available (one-to-many
    matching of H-DETR, arXiv 2207.13080)."""

    logits: Tensor
    boxes: Tensor
    repeats: int = 1


def match_queries(
    logits: Tensor,
    boxes: Tensor,
    padded: PaddedTargets,
    token_mask: Tensor,
    costs: MatchingCosts = REFERENCE_COSTS,
    repeats: int = 1,
) -> Matching:
    """match_sets of one set."""
    return match_sets([QueriesToMatch(logits, boxes, repeats)], padded, token_mask, costs)[0]


@torch.no_grad()
def match_sets(
    sets: Sequence[QueriesToMatch],
    padded: PaddedTargets,
    token_mask: Tensor,
    costs: MatchingCosts = REFERENCE_COSTS,
) -> list[Matching]:
    """Matches every image of a batch and every set separately; a GPU is waited for once.

    token_mask (B, L) bool, False for padding. Boxes marked ignore are not matched. Where boxes outnumber queries, the
    most expensive boxes stay unmatched.

    Raises FloatingPointError, naming the image and the part of the cost that is not finite.
    """
    device = token_mask.device
    with torch.autocast(device.type, enabled=False):  # a cost in bfloat16 would tie queries that differ
        parts = [cost_parts(each.logits.float(), each.boxes.float(), padded, token_mask, costs) for each in sets]
    totals = [torch.stack(list(each.values())).sum(0) for each in parts]  # (B, Q, T)
    downloaded = [*(total.to("cpu", non_blocking=True) for total in totals), padded.wanted.to("cpu", non_blocking=True)]
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    *on_cpu, to_match = (tensor.numpy() for tensor in downloaded)
    pairs = [_pairs(total, to_match, each.repeats, costs_of) for total, each, costs_of in zip(on_cpu, sets, parts)]
    uploaded = torch.from_numpy(np.concatenate(pairs, axis=1)).to(device, non_blocking=True)
    return [Matching(*each) for each in uploaded.split([rows.shape[1] for rows in pairs], dim=1)]


def _pairs(total: np.ndarray, to_match: np.ndarray, repeats: int, parts: dict[str, Tensor]) -> np.ndarray:
    """(B, Q, T) costs, (B, T) bool -> (3, M): image, query and box of each pair."""
    from scipy.optimize import linear_sum_assignment  # half a second, which labelling before a training need not wait

    pairs = []
    for image, cost in enumerate(total):
        rows = np.flatnonzero(to_match[image])
        cost = cost[:, rows]
        if not np.isfinite(cost).all():
            raise FloatingPointError(_broken_part(parts, image, rows))
        copies = max(1, min(repeats, len(cost) // max(1, len(rows))))
        queries, columns = linear_sum_assignment(np.tile(cost, copies))
        pairs.append(np.stack([np.full_like(queries, image), queries, np.tile(rows, copies)[columns]]))
    return np.concatenate(pairs, axis=1)


def cost_parts(
    logits: Tensor, boxes: Tensor, padded: PaddedTargets, token_mask: Tensor, costs: MatchingCosts
) -> dict[str, Tensor]:
    """The weighted parts of the cost by name, (B, Q, T) each; columns of padding hold some finite number."""
    corners = box_maths.cxcywh_to_xyxy(boxes) * padded.scale
    true_corners = box_maths.cxcywh_to_xyxy(padded.boxes) * padded.scale
    return {
        "classification": costs.classification * focal_cost(logits, padded.tokens, token_mask, costs),
        "box": costs.box * torch.cdist(boxes, padded.boxes, p=1),
        "giou": -costs.giou * box_maths.pairwise_giou(corners, true_corners),
    }


def focal_cost(logits: Tensor, tokens: Tensor, token_mask: Tensor, costs: MatchingCosts, eps: float = 1e-12) -> Tensor:
    """(B, Q, L), (B, T, L), (B, L) -> (B, Q, T): focal loss of each query if it stood for each box, over real tokens.

    A token counts as positive or as negative, so the sum over negatives is taken once and only the difference at the
    box's tokens depends on the box.
    """
    probability = logits.sigmoid()
    positive = -(probability + eps).log() * costs.focal_alpha * (1 - probability) ** costs.focal_gamma
    negative = -(1 - probability + eps).log() * (1 - costs.focal_alpha) * probability**costs.focal_gamma
    padding = ~token_mask[:, None]  # filled, not multiplied: a padded token may hold anything
    difference = (positive - negative).masked_fill(padding, 0) @ tokens.float().transpose(1, 2)
    return negative.masked_fill(padding, 0).sum(-1, keepdim=True) + difference


def _broken_part(parts: dict[str, Tensor], image: int, rows: np.ndarray) -> str:
    broken = [name for name, cost in parts.items() if not cost[image][:, rows].isfinite().all()]
    return (
        f"matching cost of image {image} of the batch: {' and '.join(broken) or 'sum of the parts'} not finite; "
        "the model's outputs have diverged (lower the learning rate or clip gradients) or a target box is broken"
    )
