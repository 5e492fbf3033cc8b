"""Settings of a training that its parts declare for the configuration: losses, matching, optimizer. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class MatchingCosts:
    """Weights of the parts of the cost, and the focal parameters of the first."""

    classification: float = 2.0  # binary focal cost, summed over the caption's tokens, not averaged
    box: float = 5.0  # L1 of cx, cy, w, h in fractions of the content
    giou: float = 2.0  # minus the generalised IoU, in pixels
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0


@dataclass(frozen=True)
class LossSettings:
    """Weights of the parts, and extensions of the reference, which are off by default."""

    classification: float = 1.0
    box: float = 5.0  # L1 of cx, cy, w, h in fractions of the content
    giou: float = 2.0  # 1 - generalised IoU, in pixels
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    matching: MatchingCosts = field(default_factory=MatchingCosts)
    ignore_iou: float = 0.5  # an unmatched query that overlaps an ignored box this much is not a negative
    duplicate_weight: float = 1.0  # factor on the negatives of a decoder query that duplicates a detection
    duplicate_iou: float = 0.7  # an unmatched query that overlaps a true box this much is a duplicate
    iou_aware: bool = False  # the target of positive tokens is the IoU of the predicted box, see varifocal_loss
    varifocal_alpha: float = 0.75  # factor on negative tokens then
    encoder_repeats: int = 1  # encoder proposals matched with each box
    auxiliary_repeats: int = 1  # the same in every decoder layer but the last, which must be one-to-one


@dataclass(frozen=True)
class OptimizerConfig:
    """The default is the reference's: AdamW, a tenth of the rate for backbone and text encoder, clipped gradients.

    multipliers: the learning rate of parameters whose name contains the key; the longest matching key decides.
    """

    learning_rate: float = 1e-4
    base_batch_size: int | None = None  # images a step that learning_rate is for; scaled linearly for others
    weight_decay: float = 1e-4
    decay_vectors: bool = True  # whether norms and biases decay too, as in the reference
    betas: tuple[float, float] = (0.9, 0.999)
    multipliers: dict[str, float] = field(default_factory=lambda: {"backbone": 0.1, "text_encoder.bert": 0.1})
    clip_norm: float = 0.1  # gradients are clipped to this norm; 0: no clipping
    schedule: Literal["cosine", "step", "constant"] = "step"
    warmup_steps: int = 0  # the rate grows linearly
    warmup_from: float = 0.0  # from this fraction of the rate
    step_at: tuple[float, ...] = (0.67, 0.92)  # "step": fractions of the run after which the rate falls
    step_factor: float = 0.1  # "step": by this factor
    final_fraction: float = 0.0  # "cosine": fraction of the rate at the end


REFERENCE_COSTS = MatchingCosts()
REFERENCE_LOSSES = LossSettings()
