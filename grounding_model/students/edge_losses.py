"""D-FINE's losses on box edges (arXiv 2410.13842), whose positions are predicted as distributions over offsets.

Every decoder layer but the first predicts for each edge a distribution over N + 1 offsets from a reference box.
Fine-grained localization (equation 6) pulls the two offsets beside the true edge up; self-distillation (equation 7)
trains earlier layers to predict the last layer's distributions. Factors and temperature are those of the published
training. Its union of the layers' matchings is left out: each layer uses its own matching, as in its other losses.

Shapes: D layers with distributions, B images, Q queries, N + 1 offsets, M matched pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from grounding_model.model.boxes import cxcywh_to_xyxy, iou_and_giou
from grounding_model.model.targets import Matching, PaddedTargets

LOCALIZATION = 0.15  # factor of the fine-grained localization loss
DISTILLATION = 1.5  # factor of the self-distillation
TEMPERATURE = 5.0  # of its distributions


class EdgeDistributions(NamedTuple):
    """logits: for the left, top, right and bottom edge. references: cx, cy, w, h in fractions of the image.

    offsets: ascending, outwards from an edge at half the scale, in units of the reference's width or height / scale.
    """

    logits: Tensor  # (D, B, Q, 4, N + 1)
    references: Tensor  # (D, B, Q, 4)
    offsets: Tensor  # (N + 1,)
    scale: float


def edge_losses(
    edges: EdgeDistributions,
    boxes: Tensor,
    scores: Tensor,
    padded: PaddedTargets,
    matchings: Sequence[Matching],
    divisors: Sequence[Tensor],
) -> list[dict[str, Tensor]]:
    """The weighted losses to be minimised: `loss_fgl` of each of the D layers, `loss_ddf` of all but the last.

    boxes: (D, B, Q, 4) cx, cy, w, h predicted by the layers. scores: (B, Q) of the last layer's predictions.
    matchings, divisors: of each layer, as in its box losses. The weight of a label is a factor here too.
    """
    losses: list[dict[str, Tensor]] = []
    for layer, (matching, divisor) in enumerate(zip(matchings, divisors, strict=True)):
        trust = padded.weights[matching.images, matching.targets] * _overlap(boxes[layer], padded, matching)
        localization = _localization(edges, layer, padded, matching) * trust
        losses.append({"loss_fgl": LOCALIZATION * localization.sum() / divisor})
        if layer < len(matchings) - 1:
            last = edges.logits[-1].detach()
            distilled = _distillation(edges.logits[layer], last, scores.detach(), matching, trust)
            losses[-1]["loss_ddf"] = DISTILLATION * distilled
    return losses


def _overlap(boxes: Tensor, padded: PaddedTargets, matching: Matching) -> Tensor:
    """(M,) IoU of the matched queries' boxes with the true boxes, without gradient."""
    images, rows, columns = matching
    sides = (boxes[images, rows].detach().float(), padded.boxes[images, columns])
    predicted, truth = (cxcywh_to_xyxy(side) * padded.scale[images, 0] for side in sides)
    return iou_and_giou(predicted, truth)[0]


def _localization(edges: EdgeDistributions, layer: int, padded: PaddedTargets, matching: Matching) -> Tensor:
    """(M,) cross entropy of the two offsets next to each true edge, weighted by proximity, over the four edges."""
    images, rows, columns = matching
    wanted = true_offsets(edges.references[layer][images, rows], padded.boxes[images, columns], edges.scale)
    offsets = edges.offsets
    below = (torch.searchsorted(offsets, wanted.contiguous(), right=True) - 1).clamp(0, len(offsets) - 2)  # (M, 4)
    above_share = ((wanted - offsets[below]) / (offsets[below + 1] - offsets[below])).clamp(0, 1)
    likelihood = edges.logits[layer][images, rows].float().log_softmax(-1)  # (M, 4, N + 1)
    at_below, at_above = (likelihood.gather(-1, index[..., None])[..., 0] for index in (below, below + 1))
    return -(at_below * (1 - above_share) + at_above * above_share).sum(-1)


def true_offsets(references: Tensor, boxes: Tensor, scale: float) -> Tensor:
    """(M, 4), (M, 4) cx, cy, w, h -> (M, 4): offsets of left, top, right and bottom edge that yield the true box."""
    references = references.detach().float()
    centre, size = references[..., :2], references[..., 2:].clamp(min=1e-6)
    low, high = cxcywh_to_xyxy(boxes).split(2, dim=-1)
    return torch.cat([(centre - low) / size, (high - centre) / size], dim=-1) * scale - scale / 2


def _distillation(logits: Tensor, last: Tensor, scores: Tensor, matching: Matching, trust: Tensor) -> Tensor:
    """Mean divergence over edges of a layer's distributions (B, Q, 4, N + 1) from the last layer's.

    Matched queries are weighted by trust (M,), the others by the last layer's score; the means of the two groups are
    weighted by the square roots of their sizes.
    """
    taught, teacher = ((each.float() / TEMPERATURE).log_softmax(-1) for each in (logits, last))
    divergence = TEMPERATURE**2 * (teacher.exp() * (teacher - taught)).sum(-1).mean(-1)  # (B, Q)
    weights = scores.clone()
    weights[matching.images, matching.queries] = trust.to(weights.dtype)
    matched = torch.zeros_like(weights)
    matched[matching.images, matching.queries] = 1
    counts = matched.sum(), (1 - matched).sum()
    means = [
        (divergence * weights * chosen).sum() / n.clamp(min=1) for chosen, n in zip((matched, 1 - matched), counts)
    ]
    roots = [n.sqrt() for n in counts]
    return (means[0] * roots[0] + means[1] * roots[1]) / (roots[0] + roots[1])
