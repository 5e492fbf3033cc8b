"""Metrics of referring expressions: precision@k of RefCOCO, and those of gRefCOCO for no or several targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask

from formats.boxes import MATCH_IOU
from formats.io.errors import InputError
from formats.record import Box, Record, Region
from grounding_model.metrics.coco import aligned
from grounding_model.metrics.pairing import paired_captions, regions_to_find
from grounding_model.metrics.phrases import best_first, rank_of_first_hit, shares, with_sizes

EXPRESSION_SCORE = 0.7  # minimum score of a box in gRefCOCO, as in the reference


def expression_precision(
    truth: Sequence[Record], predictions: Sequence[Record], ks: Sequence[int] = (1, 5, 10), iou: float = MATCH_IOU
) -> dict[int, float]:
    """Precision@k as on RefCOCO: the share of expressions for which one of the best k boxes has IoU >= iou with the
    target.

    A record is one expression: its ground truth has one region; the predicted regions are pooled. Expressions without
    a target do not count. Raises InputError as recall_at does, and for ground truth with several regions.
    """
    ranks = expression_ranks(truth, predictions, iou)
    return shares([rank for of_image in ranks for rank in of_image], ks, "no expression has a box")


def expression_ranks(
    truth: Sequence[Record], predictions: Sequence[Record], iou: float = MATCH_IOU
) -> list[list[int | None]]:
    """For each true record, [rank of the first matching box], or [] without a target. See expression_precision."""
    ranks = []
    for record, found in paired_captions(truth, predictions):
        regions = regions_to_find(record)
        if len(regions) > 1:
            raise InputError(
                record.filename, f"'{record.caption}' has {len(regions)} regions", "expected one expression"
            )
        ranks.append([rank_of_first_hit(best_first(found), region.boxes, iou) for region in regions])
    return ranks


class GeneralizedResult(NamedTuple):
    """Metrics of gRefCOCO, each 0..1. f1: the share of expressions with F1 = 1, including those without a target.

    no_target: N-acc, the share of expressions without a target for which nothing was found; None if there are none.
    target: T-acc, the share of the others for which anything was found, right or wrong; None if there are none.
    """

    f1: float
    no_target: float | None
    target: float | None

    def as_dict(self) -> dict[str, Any]:
        """The metrics as a dict for JSON."""
        return self._asdict()

    def table(self) -> str:
        """A human-readable table, one line per metric."""
        return aligned([("Pr@(F1=1)", self.f1), ("N-acc", self.no_target), ("T-acc", self.target)])


class ExpressionMatch(NamedTuple):
    """targets, found: numbers of boxes. f1: 2 TP / (2 TP + FP + FN); 1 if there is no target and nothing was found."""

    targets: int
    found: int
    f1: float


def evaluate_generalized_expressions(
    truth: Sequence[Record],
    predictions: Sequence[Record],
    *,
    score_threshold: float = EXPRESSION_SCORE,
    f1_threshold: float = 1.0,
    iou: float = MATCH_IOU,
) -> GeneralizedResult:
    """gRefCOCO's metrics (He et al. 2023, GREC), in which an expression may have no target, one or several.

    A record is one expression; all boxes of its regions are targets. Predicted boxes below score_threshold do not
    count; the others are matched one to one with targets, highest IoU first. The reference uses only the first true
    box, so that finding another target counts as wrong; keep_first_boxes reproduces that.
    Raises InputError as expression_precision does, and if there are no records.
    """
    found = expression_matches(truth, predictions, score_threshold=score_threshold, iou=iou)
    if not found:
        raise InputError("truth", "no expression", "expected at least one")
    absent = [each for each in found if not each.targets]
    present = [each for each in found if each.targets]
    return GeneralizedResult(
        f1=sum(each.f1 >= f1_threshold for each in found) / len(found),
        no_target=sum(not each.found for each in absent) / len(absent) if absent else None,
        target=sum(each.found > 0 for each in present) / len(present) if present else None,
    )


def expression_matches(
    truth: Sequence[Record],
    predictions: Sequence[Record],
    *,
    score_threshold: float = EXPRESSION_SCORE,
    iou: float = MATCH_IOU,
) -> list[ExpressionMatch]:
    """The match of each true record; arguments as in evaluate_generalized_expressions."""
    matches = []
    for record, regions in paired_captions(truth, predictions):
        targets = [box for region in regions_to_find(record) for box in region.boxes]
        found = best_first(regions, score_threshold)
        right = _matched(found, targets, iou)
        matches.append(ExpressionMatch(len(targets), len(found), _f1(right, len(found), len(targets))))
    return matches


def keep_first_boxes(truth: Sequence[Record]) -> list[Record]:
    """Keeps only the first box of every expression, as mmdet 3.3.0 does when it scores gRefCOCO."""
    return [replace(record, regions=_first_box(regions_to_find(record))) for record in truth]


def _first_box(regions: Sequence[Region]) -> tuple[Region, ...]:
    return tuple(replace(region, boxes=region.boxes[:1], scores=()) for region in regions[:1])


def _matched(found: Sequence[Box], targets: Sequence[Box], iou: float) -> int:
    """The number of one-to-one matches of predicted boxes with targets, highest IoU first."""
    if not found or not targets:
        return 0
    overlaps = np.array(mask.iou(with_sizes(found), with_sizes(targets), [0] * len(targets)))  # (found, targets)
    pairs = 0
    while overlaps.max() >= iou:
        row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
        overlaps[row, :] = overlaps[:, column] = -1.0
        pairs += 1
    return pairs


def _f1(right: int, found: int, targets: int) -> float:
    return 2 * right / (found + targets) if found + targets else 1.0
