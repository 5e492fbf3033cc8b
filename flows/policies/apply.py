"""Applies a policy to one image: which of its candidates become labels, and why the others are dropped.

1. In each view, boxes of distractors, boxes that a distractor suppresses, and duplicates are dropped
   ("of a distractor", "distractor", "duplicate").
2. Views are merged by weighted boxes fusion ("merged": into a box of another view; "lonely": found by too few views).
3. Boxes with low scores and small boxes are dropped ("score", "small"), then duplicates within a category and across
   categories ("duplicate", "other category"), then boxes over the limit of an image ("over the limit").
4. Remaining boxes below the threshold, or in an image without a confident box, are marked `ignore`.

With a single view, step 1 is done in step 3, after the low scores: the result is the same, with far fewer boxes to
compare.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from flows.policies.box_fusion import Boxes, fuse_views
from flows.policies.nms import suppress_duplicates, suppressed_by_distractor
from flows.policies.policy import Policy

# Why a candidate is dropped, in the order of the steps; docs/pipeline.md explains them.
Reason = Literal[
    "merged", "lonely", "score", "small", "of a distractor", "distractor", "duplicate", "other category",
    "over the limit",
]  # fmt: skip


class Candidate(NamedTuple):
    """One box of one image. region: index of its category in the prompt, or of its phrase. box: pixels."""

    region: int
    box: tuple[float, float, float, float]
    score: float


class Label(NamedTuple):
    """A candidate that was kept. ignore: neither positive nor negative in training. weight: factor on its loss."""

    candidate: Candidate
    ignore: bool
    weight: float = 1.0


class Reasons(Counter[str]):
    """Number of dropped candidates by reason."""

    def drop(self, candidates: Sequence[Candidate], reason: Reason) -> None:
        """Counts dropped candidates."""
        self[reason] += len(candidates)


class DropLog(Reasons):
    """Also keeps the dropped candidates, to explain the result for an image."""

    def __init__(self) -> None:
        super().__init__()
        self.dropped: list[tuple[Candidate, Reason]] = []

    def drop(self, candidates: Sequence[Candidate], reason: Reason) -> None:
        """Counts the candidates, and keeps each with its reason."""
        super().drop(candidates, reason)
        self.dropped += [(candidate, reason) for candidate in candidates]


def apply_policy(
    candidates: Sequence[Candidate], names: Sequence[str], policy: Policy, reasons: Reasons
) -> list[Label]:
    """The labels among one image's candidates, best first. names: category or phrase by region index.

    Every dropped candidate is reported to `reasons`.
    """
    ranked = _ranked(candidates)
    strong = [
        each for each in ranked if not (_too_weak(each, names, policy, reasons) or _too_small(each, policy, reasons))
    ]
    unique = _without_duplicates(_without_distractors(strong, names, policy, reasons), policy, reasons)
    if policy.cross_class_iou is not None:
        one_class = np.zeros(len(unique), dtype=np.int64)
        stays = suppress_duplicates(_boxes(unique), one_class, policy.cross_class_iou)
        unique = _kept(unique, stays, "other category", reasons)
    reasons.drop(unique[policy.max_per_image :], "over the limit")
    unique = unique[: policy.max_per_image]
    trusted = policy.confident_from is None or any(each.score >= policy.confident_from for each in unique)
    return [
        Label(
            each,
            ignore=not trusted or each.score <= policy.threshold(names[each.region]),
            weight=each.score if policy.soft_weights else 1.0,
        )
        for each in unique
    ]


def merge_views(
    views: Sequence[Sequence[Candidate]], names: Sequence[str], policy: Policy, reasons: Reasons
) -> list[Candidate]:
    """Merges the candidates of an image from several views; those of a single view are returned unchanged.

    Distractors are rejected in each view, before merging, so that the error of one view does not decide.
    """
    if len(views) == 1:
        return list(views[0])
    cleaned = [
        _without_duplicates(_without_distractors(_ranked(view), names, policy, reasons), policy, reasons)
        for view in views
    ]
    fused = fuse_views([_as_boxes(view) for view in cleaned], policy.consensus.iou)
    reasons["merged"] += sum(map(len, cleaned)) - len(fused.share)
    found = fused.share >= policy.consensus.least_share - 1e-9
    merged = [
        Candidate(label, (x1, y1, x2, y2), score)
        for label, (x1, y1, x2, y2), score in zip(*(part.tolist() for part in fused.boxes))
    ]
    return _kept(merged, found, "lonely", reasons)


def _ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: -candidate.score)


def _too_weak(candidate: Candidate, names: Sequence[str], policy: Policy, reasons: Reasons) -> bool:
    """Whether its score is below the threshold, and below the ignore band if there is one."""
    weak = candidate.score <= policy.min_score(names[candidate.region])
    if weak:
        reasons.drop([candidate], "score")
    return weak


def _too_small(candidate: Candidate, policy: Policy, reasons: Reasons) -> bool:
    x1, y1, x2, y2 = candidate.box
    small = min(x2 - x1, y2 - y1) < policy.min_size
    if small:
        reasons.drop([candidate], "small")
    return small


def _without_distractors(
    ranked: Sequence[Candidate], names: Sequence[str], policy: Policy, reasons: Reasons
) -> list[Candidate]:
    """Drops the boxes of distractors, and those that a better box of a distractor overlaps."""
    if not policy.distractors:
        return list(ranked)
    distractor = np.array([names[each.region] in policy.distractors for each in ranked], dtype=bool)
    suppressed = suppressed_by_distractor(_boxes(ranked), distractor, policy.distractor_iou)
    wanted = _kept(ranked, ~distractor, "of a distractor", reasons)
    return _kept(wanted, ~suppressed[~distractor], "distractor", reasons)


def _without_duplicates(ranked: Sequence[Candidate], policy: Policy, reasons: Reasons) -> list[Candidate]:
    labels = np.array([each.region for each in ranked], dtype=np.int64)
    return _kept(ranked, suppress_duplicates(_boxes(ranked), labels, policy.nms_iou), "duplicate", reasons)


def _kept(candidates: Sequence[Candidate], stays: np.ndarray, reason: Reason, reasons: Reasons) -> list[Candidate]:
    reasons.drop([each for each, kept in zip(candidates, stays) if not kept], reason)
    return [each for each, kept in zip(candidates, stays) if kept]


def _boxes(candidates: Sequence[Candidate]) -> np.ndarray:
    """(N, 4) float64."""
    return np.array([each.box for each in candidates], dtype=np.float64).reshape(-1, 4)


def _as_boxes(candidates: Sequence[Candidate]) -> Boxes:
    label = np.array([each.region for each in candidates], dtype=np.int64)
    return Boxes(label, _boxes(candidates), np.array([each.score for each in candidates], dtype=np.float64))
