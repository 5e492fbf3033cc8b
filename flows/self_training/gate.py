"""The gate between rounds: is the new model at least as good as the best one, and are its labels similar?

A round fails if its score is significantly lower than that of the best earlier round: the confidence interval of the
difference, from a paired bootstrap over the test images (grounding_model.metrics.bootstrap), lies below zero. Its
labels drift too far if too many images changed, or the boxes of a category multiplied or vanished: signs of a model
that reinforces its own mistakes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.self_training.drift import Drift
from formats.io.errors import InputError
from formats.io.plurals import many
from formats.io.ranges import Count, CountOrZero, Factor, check_ranges
from grounding_model.metrics.bootstrap import CONFIDENCE, RESAMPLES, read_samples, samples_interval


@dataclass(frozen=True)
class Gate:
    """When another round may follow. enabled: False lets every round pass, but still checks and reports it.

    The bounds of drift compare the labels of two consecutive rounds, and are wide: in six rounds of the glyph world,
    whose AP changed by -0.02 to +0.05, labels changed in 30 to 54 % of the images, and the number of boxes fell by up
    to a factor of 2.4.
    """

    enabled: bool = True
    confidence: float = CONFIDENCE  # of the interval of the gain
    resamples: Count = RESAMPLES  # draws of test images
    max_changed_images: float = 0.9  # share of images whose labels differ from the round before
    max_count_ratio: float = 3.0  # factor by which the number of boxes may change, in total or of one category
    min_boxes_per_image: Factor = 0.01  # a model trained on fewer learns that there is nothing to find
    min_count: CountOrZero = 20  # with fewer images, or fewer boxes of a category in both rounds, drift is not checked
    audit_precision: float | None = None  # lower bound that an audit must show with 95 % confidence; None: no audit
    audit_recall: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("confidence", self.confidence), ("max_changed_images", self.max_changed_images)):
            if not 0.0 < value <= 1.0:
                raise InputError(f"gate.{name}", f"{value} is outside 0..1", "expected a share")
        if self.max_count_ratio < 1.0:
            raise InputError(
                "gate.max_count_ratio", f"{self.max_count_ratio} is less than 1", "expected at least 1, such as 3"
            )
        for name in ("audit_precision", "audit_recall"):
            if (value := getattr(self, name)) is not None and not 0.0 < value < 1.0:
                raise InputError(f"gate.{name}", f"{value} is outside 0..1", "expected a share")
        check_ranges(self)


@dataclass(frozen=True)
class Verdict:
    """The gate's decision on a round.

    passed: the loop may continue from this round. reasons: the checks that failed. over: the best earlier round, with
    which it is compared. gain, interval: the difference of their headline metrics, and its confidence interval; None
    without evaluation data.
    """

    passed: bool
    reasons: tuple[str, ...] = ()
    over: int | None = None
    gain: float | None = None
    interval: tuple[float, float] | None = None
    drift: Drift | None = None


@dataclass(frozen=True)
class Evaluation:
    """A round's held-out score. headline: name of the metric. samples: the matches that the evaluation wrote."""

    number: int
    headline: str
    value: float
    samples: Path


def judge_round(
    gate: Gate,
    counts: Mapping[str, int],
    drift: Drift | None = None,
    found: Evaluation | None = None,
    best: Evaluation | None = None,
    audit: Mapping[str, Any] | None = None,
) -> Verdict:
    """Decides whether another round may follow.

    counts: of the round's labels: "lines", "kept", "reviewed_boxes". drift: since the round before; None for the first.
    found, best: the evaluations of this round and of the best earlier one. audit: as in the .meta.json of the labels.
    Raises InputError if the samples of an evaluation are missing.
    """
    reasons = [*too_few(gate, counts), *(() if drift is None else drifted(gate, drift)), *audited(gate, audit)]
    over = gain = interval = None
    if found is not None and best is not None:
        over, gain = best.number, found.value - best.value
        interval = samples_interval(
            read_samples(found.samples),
            read_samples(best.samples),
            resamples=gate.resamples,
            confidence=gate.confidence,
        )
        if interval.high < 0:
            reasons.append(
                f"the held-out {found.headline} fell from {best.value:.3f} (v{over}) to {found.value:.3f} "
                f"({100 * gate.confidence:g} % interval of the change {interval.low:+.3f} … {interval.high:+.3f})"
            )
    passed = not reasons or not gate.enabled
    return Verdict(passed, tuple(reasons), over, gain, interval and (interval.low, interval.high), drift)


def too_few(gate: Gate, counts: Mapping[str, int]) -> Iterator[str]:
    """The failed check of labels with hardly any boxes."""
    boxes, lines = counts["kept"] + counts.get("reviewed_boxes", 0), counts["lines"]
    if boxes < gate.min_boxes_per_image * lines:
        yield (
            f"only {many(boxes, 'box')} in {many(lines, 'image')} (gate.min_boxes_per_image): "
            "the model does not know what the prompt "
            "means; expected other weights, or a lower policy.score_threshold (and policy.ignore_from)"
        )


def drifted(gate: Gate, drift: Drift) -> Iterator[str]:
    """A message for each bound of drift that is exceeded."""
    if drift.images >= gate.min_count and drift.changed_share > gate.max_changed_images:
        yield (
            f"labels changed in {drift.changed_share:.0%} of the images, more than {gate.max_changed_images:.0%} "
            "(gate.max_changed_images)"
        )
    totals = tuple(sum(pair[side] for pair in drift.counts.values()) for side in (0, 1))
    checked = {"all": totals} | ({} if len(drift.counts) == 1 or drift.of_captions else dict(drift.counts))
    for name, (before, after) in checked.items():
        if max(before, after) >= gate.min_count and count_ratio(before, after) > gate.max_count_ratio:
            yield (
                f"boxes of {name} went from {before} to {after}, by a factor of more than {gate.max_count_ratio:g} "
                "(gate.max_count_ratio)"
            )


def audited(gate: Gate, audit: Mapping[str, Any] | None) -> Iterator[str]:
    """A message for each bound that the gate sets and the audit of the labels does not show."""
    for kind in ("precision", "recall"):
        wanted = getattr(gate, f"audit_{kind}")
        if wanted is None:
            continue
        if audit is None:
            yield f"{kind} of the labels has not been audited (gate.audit_{kind}): run `groundhog audit` on them"
        elif (found := audit.get(kind)) is None or found["low"] < wanted:
            interval = (
                "unknown" if found is None else f"{found['value']:.3f} ({found['low']:.3f} … {found['high']:.3f})"
            )
            yield (
                f"{kind} of the labels is {interval} from {audit['reviews']} reviews, not significantly "
                f"above {wanted:g} "
                f"(gate.audit_{kind})"
            )


def count_ratio(before: int, after: int) -> float:
    """The larger number divided by the smaller; infinity if one of them is 0."""
    return max(before, after) / min(before, after) if min(before, after) else float("inf")


def payload_of(verdict: Verdict) -> dict[str, Any]:
    """The verdict as JSON values, with only the hundred categories whose counts changed most."""
    payload = asdict(verdict)
    if verdict.drift is not None:
        counts = sorted(verdict.drift.counts.items(), key=lambda item: -abs(item[1][0] - item[1][1]))
        payload["drift"]["counts"] = {name: list(pair) for name, pair in counts[:100]}
    return payload
