"""One image through a policy: which of its candidates become labels, and why the others do not.

1. Each view by itself: boxes of distractors, boxes won by one, duplicates ("of a distractor", "distractor",
   "duplicate").
2. Views are merged by weighted boxes fusion ("merged": a box has become part of another's; "lonely": too few views).
3. Scores and sizes ("score", "small"), duplicates of a category, then across categories ("duplicate",
   "other category"), and what is over the limit.
4. What stays below its threshold, or in an image without one confident box, is marked to be ignored.

With one view, step 1 is done among what step 3 lets through: the same result, and far fewer boxes to compare.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from flows.policies.box_fusion import Boxes, fuse_views
from flows.policies.nms import suppress_duplicates, won_by_distractor
from flows.policies.policy import Policy

# Why a candidate becomes no label, in the order of the steps; docs/pipeline.md lists them.
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
    """A candidate that stays. ignore: neither positive nor negative in training. weight: factor on its loss."""

    candidate: Candidate
    ignore: bool
    weight: float = 1.0


class Reasons(Counter[str]):
    """How many candidates were dropped, by reason."""

    def drop(self, candidates: Sequence[Candidate], reason: Reason) -> None:
        """Counts candidates that become no labels."""
        self[reason] += len(candidates)


class DropLog(Reasons):
    """Keeps the dropped candidates too, for the explanation of one image."""

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
    """The labels among one image's candidates, best first. names: of each candidate's region, its category or phrase.

    Every dropped candidate is reported to `reasons`.
    """
    ranked = _ranked(candidates)
    strong = [
        each for each in ranked if not (_too_weak(each, names, policy, reasons) or _too_small(each, policy, reasons))
    ]
    unique = _without_duplicates(_undisputed(strong, names, policy, reasons), policy, reasons)
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
    """The candidates of one image from several views of it; those of a single view as they are.

    Distractors are rejected view by view, so that one view's error is outvoted; fused boxes are of wanted categories.
    """
    if len(views) == 1:
        return list(views[0])
    alone = [_without_duplicates(_undisputed(_ranked(view), names, policy, reasons), policy, reasons) for view in views]
    fused = fuse_views([_as_boxes(view) for view in alone], policy.consensus.iou)
    reasons["merged"] += sum(map(len, alone)) - len(fused.share)
    found = fused.share >= policy.consensus.least_share - 1e-9
    merged = [
        Candidate(label, (x1, y1, x2, y2), score)
        for label, (x1, y1, x2, y2), score in zip(*(part.tolist() for part in fused.boxes))
    ]
    return _kept(merged, found, "lonely", reasons)


def _ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: -candidate.score)


def _too_weak(candidate: Candidate, names: Sequence[str], policy: Policy, reasons: Reasons) -> bool:
    """Below its threshold, and below the ignore band if there is one."""
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


def _undisputed(ranked: Sequence[Candidate], names: Sequence[str], policy: Policy, reasons: Reasons) -> list[Candidate]:
    """Without the boxes of distractors and those that one of them has won."""
    if not policy.distractors:
        return list(ranked)
    distractor = np.array([names[each.region] in policy.distractors for each in ranked], dtype=bool)
    lost = won_by_distractor(_boxes(ranked), distractor, policy.distractor_iou)
    wanted = _kept(ranked, ~distractor, "of a distractor", reasons)
    return _kept(wanted, ~lost[~distractor], "distractor", reasons)


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
