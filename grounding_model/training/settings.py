"""Settings of a training that its parts declare for the configuration: losses, matching, optimizer. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from formats.io.ranges import Count, CountOrZero, Factor, Rate, Share, check_ranges


@dataclass(frozen=True)
class MatchingCosts:
    """Weights of the parts of the cost, and the focal parameters of the first."""

    classification: Factor = 2.0  # binary focal cost, summed over the caption's tokens, not averaged
    box: Factor = 5.0  # L1 of cx, cy, w, h in fractions of the content
    giou: Factor = 2.0  # minus the generalised IoU, in pixels
    focal_alpha: Share = 0.25
    focal_gamma: Factor = 2.0


@dataclass(frozen=True)
class LossSettings:
    """Weights of the parts, and extensions of the reference, which are off by default."""

    classification: Factor = 1.0
    box: Factor = 5.0  # L1 of cx, cy, w, h in fractions of the content
    giou: Factor = 2.0  # 1 - generalised IoU, in pixels
    focal_alpha: Share = 0.25
    focal_gamma: Factor = 2.0
    matching: MatchingCosts = field(default_factory=MatchingCosts)
    ignore_iou: Share = 0.5  # an unmatched query that overlaps an ignored box this much is not a negative
    duplicate_weight: Factor = 1.0  # factor on the negatives of a decoder query that duplicates a detection
    duplicate_iou: Share = 0.7  # an unmatched query that overlaps a true box this much is a duplicate
    iou_aware: bool = False  # the target of positive tokens is the IoU of the predicted box, see varifocal_loss
    varifocal_alpha: Share = 0.75  # factor on negative tokens then
    encoder_repeats: Count = 1  # encoder proposals matched with each box
    auxiliary_repeats: Count = 1  # the same in every decoder layer but the last
    last_repeats: Count = field(default=1, repr=False)  # the same in the last; 1 unless the model has nms_iou

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class OptimizerConfig:
    """The default is the reference's: AdamW, a tenth of the rate for backbone and text encoder, clipped gradients.

    multipliers: the learning rate of parameters whose name contains the key; the longest matching key decides.
    """

    learning_rate: Rate = 1e-4
    base_batch_size: Count | None = None  # images a step that learning_rate is for; scaled linearly for others
    weight_decay: Factor = 1e-4
    decay_vectors: bool = True  # whether norms and biases decay too, as in the reference
    betas: tuple[Share, Share] = (0.9, 0.999)
    multipliers: dict[str, Factor] = field(default_factory=lambda: {"backbone": 0.1, "text_encoder.bert": 0.1})
    clip_norm: Factor = 0.1  # gradients are clipped to this norm; 0: no clipping
    schedule: Literal["cosine", "step", "constant"] = "step"
    warmup_steps: CountOrZero = 0  # the rate grows linearly
    warmup_from: Share = 0.0  # from this fraction of the rate
    step_at: tuple[Share, ...] = (0.67, 0.92)  # "step": fractions of the run after which the rate falls
    step_factor: Share = 0.1  # "step": by this factor
    final_fraction: Share = 0.0  # "cosine": fraction of the rate at the end

    def __post_init__(self) -> None:
        check_ranges(self)


REFERENCE_COSTS = MatchingCosts()
REFERENCE_LOSSES = LossSettings()
