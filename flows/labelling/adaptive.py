"""The thresholds that an adaptive policy finds, category by category, in the candidates of a whole plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from flows.labelling.candidate_lines import decide, lines_with_candidates, names_of_regions
from flows.labelling.manifest import Manifest
from flows.policies.apply import Reasons
from flows.policies.calibration import calibrate, correct_boxes, precision_threshold
from flows.policies.policy import Mixture, Policy, Quantile, TargetPrecision
from flows.policies.thresholds import mixture_threshold, quantile_threshold
from formats.boxes import MATCH_IOU, boxes_by_name
from formats.io.errors import InputError
from formats.record import Record
from formats.reviewed import Correction, Key, corrections_for


class _Scores(NamedTuple):
    """The scores of a category over all images, after all steps of the policy except thresholds."""

    all: np.ndarray  # (N,)
    reviewed: np.ndarray  # (K,) those in reviewed images
    right: np.ndarray  # (K,) bool


def reviewed_truth(
    policy: Policy, corrections: Mapping[Key, Record], number: int | None, check: Callable[[list[Correction]], None]
) -> Mapping[Key, Record]:
    """The reviewed lines for calibrating a target precision: those of its own file, else the corrections.

    Only corrections that apply to the round are used, although later ones are also true of their images. Otherwise
    correcting a later round would change the labels of this one, and the training on them.
    """
    if not isinstance(policy.adaptive, TargetPrecision):
        return {}
    reviewed = policy.adaptive.reviewed
    truth = corrections if reviewed is None else corrections_for(reviewed, number, check)
    if not truth:
        until = "" if number is None else f" up to round {number}"
        raise InputError("policy.adaptive", f"no reviewed labels of this source{until}", "expected a file of them")
    return truth


def adaptive_thresholds(views: Sequence[Manifest], policy: Policy, truth: Mapping[Key, Record]) -> dict[str, float]:
    """Category -> adaptive threshold, without categories that keep the global one."""
    if policy.adaptive is None:
        return {}
    images, scores = _scores(views, policy, truth)
    found = {
        name: _threshold(policy.adaptive, name, images, values)
        for name, values in scores.items()
        if name not in policy.class_thresholds
    }
    return {name: threshold for name, threshold in sorted(found.items()) if threshold is not None}


def _threshold(adaptive: Quantile | Mixture | TargetPrecision, name: str, images: int, scores: _Scores) -> float | None:
    if isinstance(adaptive, Quantile):
        expected = adaptive.of_class.get(name, adaptive.boxes_per_image)
        return quantile_threshold(scores.all, expected * images)
    if isinstance(adaptive, Mixture):
        return mixture_threshold(scores.all, adaptive)
    if len(scores.reviewed) < adaptive.least:
        return None
    return precision_threshold(scores.all, calibrate(scores.reviewed, scores.right), adaptive.precision)


def _scores(views: Sequence[Manifest], policy: Policy, truth: Mapping[Key, Record]) -> tuple[int, dict[str, _Scores]]:
    """The number of images, and the scores by category or phrase."""
    iou = policy.adaptive.iou if isinstance(policy.adaptive, TargetPrecision) else MATCH_IOU
    everything = policy.without_thresholds()
    images, seen = 0, Reasons()
    every: dict[str, list[float]] = {}
    reviewed: dict[str, list[tuple[float, bool]]] = {}
    for line in lines_with_candidates(views):
        if line.record is None:
            continue
        images += 1
        names = names_of_regions(views[0], line.record)
        labels = decide(line.views, names, everything, seen)
        corrected = truth.get((line.record.filename, line.record.caption))
        true = {} if corrected is None else boxes_by_name(corrected, with_ignored=True)
        for region, name in enumerate(names):
            of_region = [label.candidate for label in labels if label.candidate.region == region]
            every.setdefault(name, []).extend(each.score for each in of_region)
            if corrected is not None:
                right = correct_boxes([each.box for each in of_region], true.get(name, ()), iou)
                reviewed.setdefault(name, []).extend(zip((each.score for each in of_region), right.tolist()))
    return images, {
        name: _Scores(
            np.array(scores),
            np.array([score for score, _ in reviewed.get(name, ())]),
            np.array([right for _, right in reviewed.get(name, ())], dtype=bool),
        )
        for name, scores in every.items()
        if name not in policy.distractors
    }
