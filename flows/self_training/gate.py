"""The gate between rounds: does the new model hold what the best one knew, and are its labels about the same?

A round falls when even the upper end of the interval of its gain over the best round before it is below zero, both
judged on the same draws of test images (grounding_model.metrics.bootstrap). Its labels drift too far when too many
images changed, or a category's boxes multiplied or vanished: the marks of a model that confirms itself.
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

    Bounds of drift hold between the labels of two rounds, and are wide: in six rounds of the glyph world, whose AP went
    from -0.02 to +0.05, labels changed in 30 to 54 % of the images, and boxes became up to 2.4 times fewer.
    """

    enabled: bool = True
    confidence: float = CONFIDENCE  # of the interval of the gain
    resamples: Count = RESAMPLES  # draws of test images
    max_changed_images: float = 0.9  # share of images whose labels differ from the round before
    max_count_ratio: float = 3.0  # boxes of a category against the round before, either way; also of all boxes
    min_boxes_per_image: Factor = 0.01  # labels with fewer teach a model that there is nothing to find
    min_count: CountOrZero = 20  # with fewer images, or fewer boxes of a category in both rounds, drift is not checked
    audit_precision: float | None = None  # that a person's audit has to show with 95 % confidence; None asks for none
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
    """What the gate says of a round.

    passed: the loop may continue from this round. reasons: why not; empty where passed. over: the best round before it,
    that it is compared with. gain, interval: of its headline number over that round's; None without evaluation data.
    """

    passed: bool
    reasons: tuple[str, ...] = ()
    over: int | None = None
    gain: float | None = None
    interval: tuple[float, float] | None = None
    drift: Drift | None = None


@dataclass(frozen=True)
class Evaluation:
    """A round's held-out figure. headline: its name. samples: the file of matches that the evaluation wrote."""

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
    """counts: of the round's labels: "lines", "kept", "reviewed_boxes". drift: against the round before; None for the
    first. found, best: of this round and the best before it. audit: as the .meta.json of the labels has it.

    Raises InputError when the samples of an evaluation are not there.
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
    """What is wrong with labels that hold next to nothing."""
    boxes, lines = counts["kept"] + counts.get("reviewed_boxes", 0), counts["lines"]
    if boxes < gate.min_boxes_per_image * lines:
        yield (
            f"{many(boxes, 'box')} in {many(lines, 'image')} are hardly any (gate.min_boxes_per_image): "
            "the model does not know what the prompt "
            "means; expected other weights, or a lower policy.score_threshold (and policy.ignore_from)"
        )


def drifted(gate: Gate, drift: Drift) -> Iterator[str]:
    """Every bound that is broken, in words."""
    if drift.images >= gate.min_count and drift.changed_share > gate.max_changed_images:
        yield (
            f"labels changed in {drift.changed_share:.0%} of the images, more than {gate.max_changed_images:.0%} "
            "(gate.max_changed_images)"
        )
    totals = tuple(sum(pair[side] for pair in drift.counts.values()) for side in (0, 1))
    judged = {"all": totals} | ({} if len(drift.counts) == 1 or drift.of_captions else dict(drift.counts))
    for name, (before, after) in judged.items():
        if max(before, after) >= gate.min_count and count_ratio(before, after) > gate.max_count_ratio:
            yield (
                f"boxes of {name} went from {before} to {after}, more than {gate.max_count_ratio:g}-fold "
                "(gate.max_count_ratio)"
            )


def audited(gate: Gate, audit: Mapping[str, Any] | None) -> Iterator[str]:
    """What a person's audit of the labels does not show, of what the gate asks for."""
    for kind in ("precision", "recall"):
        wanted = getattr(gate, f"audit_{kind}")
        if wanted is None:
            continue
        if audit is None:
            yield f"{kind} of the labels is not audited (gate.audit_{kind}): run `groundhog audit` on them"
        elif (found := audit.get(kind)) is None or found["low"] < wanted:
            interval = (
                "unknown" if found is None else f"{found['value']:.3f} ({found['low']:.3f} … {found['high']:.3f})"
            )
            yield (
                f"{kind} of the labels is {interval} from {audit['reviews']} reviews, not surely {wanted:g} "
                f"(gate.audit_{kind})"
            )


def count_ratio(before: int, after: int) -> float:
    """The larger number against the smaller; infinite where one of them is none."""
    return max(before, after) / min(before, after) if min(before, after) else float("inf")


def payload_of(verdict: Verdict) -> dict[str, Any]:
    """For JSON; of the drift's counts the hundred that changed most."""
    payload = asdict(verdict)
    if verdict.drift is not None:
        counts = sorted(verdict.drift.counts.items(), key=lambda item: -abs(item[1][0] - item[1][1]))
        payload["drift"]["counts"] = {name: list(pair) for name, pair in counts[:100]}
    return payload
