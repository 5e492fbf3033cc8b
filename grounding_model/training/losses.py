"""The training objective: classification of query-token pairs, distance and overlap of boxes, for every decoder layer,
for the encoder's proposals and for denoising queries (Grounding DINO, arXiv 2303.05499, section 3.4; DINO, 2203.03605).

Shapes: D decoder layers, B images, Q queries, N denoising queries, T boxes of the image with most boxes,
L tokens of the longest caption, M matched pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from grounding_model.model import boxes as box_maths
from grounding_model.model.targets import Matching, PaddedTargets, Target, pad_targets
from grounding_model.training.distributed import mean_over_processes
from grounding_model.training.matcher import QueriesToMatch, match_sets
from grounding_model.training.settings import REFERENCE_LOSSES, LossSettings


class Denoised(Protocol):
    """Predictions for denoising queries: (D, B, N, L), (D, B, N, 4), and which query has to reconstruct which box."""

    @property
    def logits(self) -> Tensor: ...
    @property
    def boxes(self) -> Tensor: ...
    @property
    def positives(self) -> Matching: ...


class Predictions(Protocol):
    """Predictions to score: model.grounding.Grounding, or those of a closed-set detector, whose tokens are classes."""

    @property
    def logits(self) -> Tensor: ...
    @property
    def boxes(self) -> Tensor: ...
    @property
    def encoder_logits(self) -> Tensor: ...
    @property
    def encoder_boxes(self) -> Tensor: ...
    @property
    def denoising(self) -> Denoised | None: ...
    @property
    def token_mask(self) -> Tensor: ...


def grounding_losses(
    grounding: Predictions, targets: Sequence[Target], settings: LossSettings = REFERENCE_LOSSES
) -> dict[str, Tensor]:
    """The weighted parts of the loss by the reference's names; their sum is to be minimised.

    `loss_cls`, `loss_bbox`, `loss_iou` of the last decoder layer; the others have `d0.`, `d1.`, … before the name, the
    encoder's proposals `enc_`, denoising `dn_`. Every set of queries is matched separately. A part is divided by the
    number of matched boxes in the batch, averaged over the processes of a distributed run, at least one.

    A target's weight is a factor on the box losses of the query matched to it and on that query's row of the
    classification loss (soft pseudo-labels; Soft Teacher, arXiv 2106.09018, weighs negatives, here it is positives).
    It does not enter the divisor: a box of half the weight pulls half as much, whatever else is in the batch.
    Ignored boxes are not matched, and an unmatched query is taken out of the classification loss where its
    best overlap with an ignored box reaches ignore_iou and exceeds that with any true box.

    A detection transformer predicts each object once because a second prediction is penalised. Focal weights penalise
    it only weakly: the scores of k similar queries settle far above 1/k. duplicate_weight increases the penalty. (DDQ,
    arXiv 2303.12776, shows that one-to-one matching needs distinct queries, and removes the others before the decoder.)

    Raises FloatingPointError where the cost of a match is not finite; see match_queries.
    """
    padded = pad_targets(targets)
    return set_losses(matched_sets(grounding, padded, settings), padded, grounding.token_mask, settings)


def set_losses(
    sets: Sequence[QuerySet], padded: PaddedTargets, token_mask: Tensor, settings: LossSettings
) -> dict[str, Tensor]:
    """The losses of all sets of queries by their names."""
    losses: dict[str, Tensor] = {}
    for queries, divisor in zip(sets, divisors_of(sets, padded.boxes.device)):
        losses |= _set_losses(queries, padded, token_mask, divisor, settings)
    return losses


def divisors_of(sets: Sequence[QuerySet], device: torch.device) -> Tensor:
    """The number of matched boxes by which the losses of each set are divided."""
    return loss_divisors([len(queries.matching.queries) for queries in sets], device)


@dataclass(frozen=True)
class QuerySet:
    """One set of queries with their matches."""

    prefix: str
    logits: Tensor  # (B, Q, L)
    boxes: Tensor  # (B, Q, 4)
    matching: Matching
    one_to_one: bool = False  # an object must be detected by only one query


def matched_sets(grounding: Predictions, padded: PaddedTargets, settings: LossSettings) -> list[QuerySet]:
    """The queries of each decoder layer, of the encoder and of denoising, with their matches."""
    last = len(grounding.logits) - 1
    to_match = {
        "" if layer == last else f"d{layer}.": QueriesToMatch(
            logits, boxes, settings.last_repeats if layer == last else settings.auxiliary_repeats
        )
        for layer, (logits, boxes) in enumerate(zip(grounding.logits, grounding.boxes))
    }
    to_match["enc_"] = QueriesToMatch(grounding.encoder_logits, grounding.encoder_boxes, settings.encoder_repeats)
    matchings = match_sets(list(to_match.values()), padded, grounding.token_mask, settings.matching)
    sets = []
    for layer, ((prefix, each), matching) in enumerate(zip(to_match.items(), matchings)):
        one_to_one = prefix != "enc_" and each.repeats == 1
        sets.append(QuerySet(prefix, each.logits, each.boxes, matching, one_to_one))
        if grounding.denoising is not None and prefix != "enc_":
            denoised = grounding.denoising
            sets.append(QuerySet(f"{prefix}dn_", denoised.logits[layer], denoised.boxes[layer], denoised.positives))
    return sets


def _set_losses(
    queries: QuerySet, padded: PaddedTargets, token_mask: Tensor, divisor: Tensor, settings: LossSettings
) -> dict[str, Tensor]:
    boxes = queries.boxes.float()
    images, rows, columns = queries.matching
    predicted, truth = boxes[images, rows], padded.boxes[images, columns]  # (M, 4)
    corners, true_corners = (box_maths.cxcywh_to_xyxy(side) * padded.scale[images, 0] for side in (predicted, truth))
    iou, giou = box_maths.iou_and_giou(corners, true_corners)
    weights = padded.weights[images, columns]

    named = torch.zeros_like(queries.logits, dtype=torch.float32)  # (B, Q, L)
    named[images, rows] = padded.tokens[images, columns].float()
    row_weights = _negative_weights(boxes.detach(), padded, queries.one_to_one, settings)
    row_weights[images, rows] = weights
    logits = finite_logits(queries.logits, token_mask)
    if settings.iou_aware:
        named[images, rows] *= iou.detach()[:, None]
        by_token = varifocal_loss(logits, named, settings.varifocal_alpha, settings.focal_gamma)
    else:
        by_token = focal_loss(logits, named, settings.focal_alpha, settings.focal_gamma)

    classification = (by_token * token_mask[:, None] * row_weights[..., None]).sum()
    return {
        f"{queries.prefix}loss_cls": settings.classification * classification / divisor,
        f"{queries.prefix}loss_bbox": settings.box * ((predicted - truth).abs().sum(-1) * weights).sum() / divisor,
        f"{queries.prefix}loss_iou": settings.giou * ((1 - giou) * weights).sum() / divisor,
    }


def _negative_weights(boxes: Tensor, padded: PaddedTargets, one_to_one: bool, settings: LossSettings) -> Tensor:
    """(B, Q, 4) cx, cy, w, h -> (B, Q): weight of the classification loss of each unmatched query."""
    weights = boxes.new_ones(boxes.shape[:2])
    penalised = one_to_one and settings.duplicate_weight != 1 and padded.wanted_count > 0
    if not penalised and not padded.any_ignored:
        return weights
    iou = box_maths.iou_matrix(
        box_maths.cxcywh_to_xyxy(boxes) * padded.scale, box_maths.cxcywh_to_xyxy(padded.boxes) * padded.scale
    )
    ignored = (iou * padded.ignored[:, None]).amax(-1)
    wanted = (iou * padded.wanted[:, None]).amax(-1)
    if penalised:
        weights = weights.masked_fill(wanted >= settings.duplicate_iou, settings.duplicate_weight)
    return weights.masked_fill((ignored >= settings.ignore_iou) & (ignored > wanted), 0)


def focal_loss(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """Sigmoid focal loss (arXiv 1708.02002), element by element; targets 0 or 1."""
    probability = logits.sigmoid()
    miss = targets * (1 - probability) + (1 - targets) * probability
    balance = targets * alpha + (1 - targets) * (1 - alpha)
    return balance * miss**gamma * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def varifocal_loss(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """Varifocal loss (arXiv 2008.13367, equation 2; used so for detection transformers by RT-DETR, arXiv 2304.08069).

    targets: the IoU as target score at positive tokens, 0 elsewhere. Positives are weighted by their target.
    """
    factor = torch.where(targets > 0, targets, alpha * logits.detach().sigmoid() ** gamma)
    return factor * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def finite_logits(logits: Tensor, token_mask: Tensor) -> Tensor:
    """(B, Q, L) -> (B, Q, L) float32 with zeros at padded tokens: minus infinity times a mask would be NaN."""
    return logits.float().masked_fill(~token_mask[:, None], 0)


def loss_divisors(counts: Sequence[int], device: torch.device) -> Tensor:
    """Boxes of this process -> their means over all, at least one each; plus float eps, as the reference adds it."""
    return mean_over_processes(counts, device).clamp(min=1) + torch.finfo(torch.float32).eps
