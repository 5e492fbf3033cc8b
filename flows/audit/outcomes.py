"""Compares the labels of an image with its review: which boxes are right, and how many objects there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from flows.audit import defaults
from flows.policies.calibration import correct_boxes
from formats.boxes import best_pairs, boxes_by_name, pairwise_iou
from formats.record import Box, Record


class Outcome(NamedTuple):
    """The labels of one category or phrase in one image. K labels, best score first.

    score: (K,), or NaN. right: (K,) bool. objects: number that the reviewer found, labelled or not.
    """

    score: np.ndarray
    right: np.ndarray
    objects: int

    @property
    def hits(self) -> int:
        return int(self.right.sum())

    @property
    def labels(self) -> int:
        return len(self.right)


class ScoredBox(NamedTuple):
    box: Box
    score: float | None


def labels_by_name(record: Record) -> dict[str, list[ScoredBox]]:
    """Category or phrase -> its boxes without `ignore`, best score first, those without a score last."""
    boxes: dict[str, list[ScoredBox]] = {}
    for each in record.instances or ():
        if not each.ignore:
            boxes.setdefault(each.category, []).append(ScoredBox(each.box, each.score))
    for region in record.regions or ():
        if not region.ignore:
            scores = region.scores or (None,) * len(region.boxes)
            boxes.setdefault(" ".join(region.phrase), []).extend(map(ScoredBox, region.boxes, scores))
    return {name: sorted(scored, key=_best_first) for name, scored in boxes.items()}


def _best_first(box: ScoredBox) -> float:
    return 1.0 if box.score is None else -box.score


def label_outcomes(labels: Record, reviewed: Record, iou: float = defaults.IOU) -> dict[str, Outcome]:
    """Compares labels with the reviewed record of the image; an outcome for each category with labels or objects.

    A label is right if its IoU with an object of its category is at least `iou`; each object is matched once, as in
    COCO's evaluation. Labels on boxes that the reviewer marked `ignore` count neither as right nor as wrong.
    """
    labelled, objects = labels_by_name(labels), boxes_by_name(reviewed)
    everything = boxes_by_name(reviewed, with_ignored=True)
    return {
        name: _outcome(labelled.get(name, []), objects.get(name, []), everything.get(name, []), iou)
        for name in labelled.keys() | objects.keys()
        if labelled.get(name) or objects.get(name)
    }


def confused_labels(labels: Record, reviewed: Record, iou: float = defaults.IOU) -> Counter[tuple[str, str]]:
    """(category of a label, category of the object there) -> number of labels whose only error is their category.

    Such a label matches no object of its category, but an object of another category that no label matches.
    """
    labelled, objects = labels_by_name(labels), boxes_by_name(reviewed)
    wrong: list[tuple[str, Box]] = []
    missed: list[tuple[str, Box]] = []
    for name in sorted(labelled.keys() | objects.keys()):
        boxes, there = [each.box for each in labelled.get(name, [])], objects.get(name, [])
        right = correct_boxes(boxes, there, iou)
        found = correct_boxes(there, [box for box, ok in zip(boxes, right) if ok], iou)
        wrong += [(name, box) for box, ok in zip(boxes, right) if not ok]
        missed += [(name, box) for box, ok in zip(there, found) if not ok]
    overlap = pairwise_iou([box for _, box in wrong], [box for _, box in missed])
    pairs = [(wrong[row][0], missed[column][0]) for row, column in best_pairs(overlap, iou)]
    return Counter(pair for pair in pairs if pair[0] != pair[1])


def _outcome(labels: list[ScoredBox], objects: list[Box], everything: list[Box], iou: float) -> Outcome:
    boxes = [each.box for each in labels]
    right = correct_boxes(boxes, objects, iou)
    counts = right | ~_on_ignored(boxes, objects, everything, iou)
    scores = np.array([np.nan if each.score is None else each.score for each in labels], float)
    return Outcome(scores[counts], right[counts], len(objects))


def _on_ignored(boxes: list[Box], objects: list[Box], everything: list[Box], iou: float) -> np.ndarray:
    """(K,) bool: whether each box overlaps a box marked `ignore`, and no object."""
    if len(objects) == len(everything):
        return np.zeros(len(boxes), bool)
    ignored = [box for box in everything if box not in objects]
    overlap, known = pairwise_iou(boxes, ignored), pairwise_iou(boxes, objects)
    return np.logical_and((overlap >= iou).any(1), ~(known >= iou).any(1))


def totals(outcomes: Mapping[str, Outcome]) -> tuple[int, int, int]:
    """(right labels, labels, objects) of an image, over all categories."""
    each = outcomes.values()
    return sum(one.hits for one in each), sum(one.labels for one in each), sum(one.objects for one in each)
