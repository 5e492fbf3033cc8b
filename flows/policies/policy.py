"""All settings of a policy. Settings that would have no effect are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from formats.io.errors import InputError
from formats.io.settings import setting
from grounding_model.inputs.defaults import MAX_PER_IMAGE, SCORE_THRESHOLD


@dataclass(frozen=True)
class Quantile:
    """A threshold per category at which it gets the expected number of boxes (LabelMatch, arXiv 2206.06608).

    boxes_per_image: mean number of objects of a category per image; of_class: the same for single categories, by name.
    """

    boxes_per_image: float
    of_class: dict[str, float] = field(default_factory=dict)
    kind: Literal["quantile"] = "quantile"

    def __post_init__(self) -> None:
        for name, value in {"boxes_per_image": self.boxes_per_image, **self.of_class}.items():
            if not value > 0:
                raise InputError(f"policy.adaptive.{name}", f"{value}", "expected more than 0 objects per image")


@dataclass(frozen=True)
class Mixture:
    """A threshold per category from a mixture of two normal distributions of its scores (Consistent-Teacher,
    arXiv 2209.01589).

    share: of the upper distribution in the density at the threshold. least: minimum number of candidates; with fewer,
    score_threshold is used.
    """

    share: float = 0.5
    least: int = 30
    kind: Literal["mixture"] = "mixture"

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise InputError("policy.adaptive.share", f"{self.share}", "expected a fraction between 0 and 1")
        if self.least < 2:
            raise InputError("policy.adaptive.least", f"{self.least}", "expected at least 2; a few dozen are sensible")


@dataclass(frozen=True)
class TargetPrecision:
    """The lowest threshold per category at which this share of the labels is expected to be right.

    Scores are calibrated on reviewed images by isotonic regression (arXiv 2405.20459). reviewed: ODVG file of images of
    this source that a person reviewed; None: the corrections passed to the filter. In a round of a loop, only the lines
    that apply to it are used.
    least: minimum number of candidates of a category in those images; with fewer, score_threshold is used.
    """

    reviewed: Path | None = None
    precision: float = 0.9
    iou: float = 0.5  # minimum IoU of a correct candidate with a reviewed box of its category
    least: int = 30
    kind: Literal["precision"] = "precision"

    def __post_init__(self) -> None:
        for name in ("precision", "iou"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise InputError(f"policy.adaptive.{name}", f"{getattr(self, name)}", "expected a fraction above 0")
        if self.least < 1:
            raise InputError("policy.adaptive.least", f"{self.least}", "expected 1 or more")


@dataclass(frozen=True)
class Consensus:
    """Several views of an image merged by weighted boxes fusion (arXiv 1910.13302), see box_fusion.py."""

    iou: float = 0.55  # minimum IoU with the fused box for a box of another view to be the same object
    least_share: float = 0.0  # minimum share of the views that must find an object
    kind: Literal["consensus"] = "consensus"

    def __post_init__(self) -> None:
        for name in ("iou", "least_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(
                    f"policy.consensus.{name}", f"{getattr(self, name)} is outside 0..1", "expected a fraction"
                )


@dataclass(frozen=True)
class Policy:
    """The rules by which candidates become labels; apply.py has the order of the steps."""

    score_threshold: float = setting(SCORE_THRESHOLD, "score above which a candidate becomes a label", metavar="S")
    class_thresholds: dict[str, float] = field(default_factory=dict)  # by category name, instead of score_threshold
    adaptive: Quantile | Mixture | TargetPrecision | None = None  # for categories without a threshold above
    confident_from: float | None = setting(  # OWL-ST
        None, "ignore the boxes of an image in training unless one has this score", metavar="S"
    )
    ignore_from: float | None = setting(
        None, "boxes between this score and the threshold are ignored in training", metavar="S"
    )
    soft_weights: bool = setting(False, "weight the training loss of a box by its score")
    nms_iou: float = setting(0.5, "of boxes of one category with a higher IoU, keep the best", metavar="IOU")
    cross_class_iou: float | None = setting(None, "as --nms-iou, across categories", metavar="IOU")
    distractors: tuple[str, ...] = ()  # categories of the prompt that are rejected
    distractor_iou: float = setting(
        0.5, "drop boxes that a better box of one of --distractors overlaps by a higher IoU", metavar="IOU"
    )
    consensus: Consensus = field(default_factory=Consensus)  # used if there are several views
    min_size: float = setting(  # training would drop smaller boxes anyway
        1.0, "drop boxes whose shorter side has fewer pixels", metavar="PX"
    )
    max_per_image: int = setting(MAX_PER_IMAGE, "maximum number of boxes per image", flag="--max-per-img", metavar="N")

    def __post_init__(self) -> None:
        fractions = {
            "score_threshold": self.score_threshold,
            "nms_iou": self.nms_iou,
            "distractor_iou": self.distractor_iou,
            **self.class_thresholds,
        }
        for name in ("ignore_from", "confident_from", "cross_class_iou"):
            if (value := getattr(self, name)) is not None:
                fractions[name] = value
        for name, value in fractions.items():
            if not 0.0 <= value <= 1.0:
                raise InputError(f"policy.{name}", f"{value} is outside 0..1", "expected a fraction")
        self._check_order()
        if both := sorted(set(self.distractors) & set(self.class_thresholds)):
            raise InputError(
                "policy.distractors",
                f"{', '.join(both)} also has a threshold",
                "expected each name in only one of the two",
            )
        if not self.min_size >= 0:
            raise InputError("policy.min_size", f"{self.min_size}", "expected a number of pixels, 0 or more")
        if self.max_per_image < 1:
            raise InputError(
                "policy.max_per_image", f"{self.max_per_image} is less than one", "expected a positive number"
            )

    def _check_order(self) -> None:
        """Checks that the ignore band is below a threshold, and confident_from above one."""
        thresholds = [self.score_threshold, *self.class_thresholds.values()]
        if self.ignore_from is not None and self.adaptive is None and self.ignore_from >= max(thresholds):
            raise InputError(
                "policy.ignore_from",
                f"{self.ignore_from} is not below {max(thresholds)}",
                "expected it below policy.score_threshold",
            )
        if self.confident_from is not None and self.adaptive is None and self.confident_from <= min(thresholds):
            raise InputError(
                "policy.confident_from",
                f"{self.confident_from} is not above {min(thresholds)}",
                "expected a score above every threshold",
            )

    def threshold(self, category: str) -> float:
        """The score that a label of this category must exceed."""
        return self.class_thresholds.get(category, self.score_threshold)

    def min_score(self, category: str) -> float:
        """The score that a box of this category must exceed to be written: the threshold or, if lower, ignore_from."""
        threshold = self.threshold(category)
        return threshold if self.ignore_from is None else min(threshold, self.ignore_from)

    def with_thresholds(self, found: Mapping[str, float]) -> Policy:
        """The same policy with the thresholds that `adaptive` computed; those in class_thresholds take precedence."""
        return replace(self, class_thresholds={**found, **self.class_thresholds}, adaptive=None)

    def without_thresholds(self) -> Policy:
        """The same policy without thresholds: every candidate that the other steps keep becomes a label."""
        return replace(
            self, score_threshold=0.0, class_thresholds={}, adaptive=None, confident_from=None, ignore_from=None
        )
