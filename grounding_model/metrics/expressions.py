"""Referring expressions: precision as on RefCOCO, and with none or several things meant as on gRefCOCO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask

from formats.io.errors import InputError
from formats.record import Box, Record, Region
from grounding_model.metrics.coco import aligned
from grounding_model.metrics.pairing import paired_captions, regions_to_find
from grounding_model.metrics.phrases import best_first, rank_of_first_hit, shares, with_sizes


def expression_precision(
    truth: Sequence[Record], predictions: Sequence[Record], ks: Sequence[int] = (1, 5, 10), iou: float = 0.5
) -> dict[int, float]:
    """Precision@k of referring expressions as on RefCOCO: the share of expressions of which one of the best k boxes
    meets the thing that is meant with IoU >= iou.

    A record is one expression: its truth has one region, its prediction's regions count together. Expressions that
    mean nothing in their image do not count. Raises InputError as recall_at, and for a truth of several regions.
    """
    ranks = expression_ranks(truth, predictions, iou)
    return shares([rank for own in ranks for rank in own], ks, "no expression has a box")


def expression_ranks(
    truth: Sequence[Record], predictions: Sequence[Record], iou: float = 0.5
) -> list[list[int | None]]:
    """Of each true record, the place of the first box that hits, [] where nothing is meant; as expression_precision."""
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
    """Each 0..1. f1: share of expressions found without a mistake (F1 = 1), those that mean nothing included.

    no_target: N-acc, the share of expressions that mean nothing for which nothing was found; None where there are none.
    target: T-acc, the share of the others for which something was found, right or wrong; None where there are none.
    """

    f1: float
    no_target: float | None
    target: float | None

    def as_dict(self) -> dict[str, Any]:
        """The numbers as JSON takes them."""
        return self._asdict()

    def table(self) -> str:
        """A line a number, for people."""
        return aligned([("Pr@(F1=1)", self.f1), ("N-acc", self.no_target), ("T-acc", self.target)])


class FoundExpression(NamedTuple):
    """meant, found: how many boxes. f1: 2 TP / (2 TP + FP + FN); 1 where nothing is meant and nothing found."""

    meant: int
    found: int
    f1: float


def evaluate_generalized_expressions(
    truth: Sequence[Record],
    predictions: Sequence[Record],
    *,
    score_threshold: float = 0.7,
    f1_threshold: float = 1.0,
    iou: float = 0.5,
) -> GeneralizedResult:
    """gRefCOCO's numbers (He et al. 2023, GREC): an expression may mean nothing, one thing or several.

    A record is one expression: all boxes of its regions are meant. Found boxes below score_threshold do not count;
    the others meet true ones one to one, the best overlap first. The reference looks at the first true box alone,
    which counts every other box that is rightly found as wrong: see truth_as_the_reference.
    Raises InputError as expression_precision, and for a truth without a record.
    """
    found = found_expressions(truth, predictions, score_threshold=score_threshold, iou=iou)
    if not found:
        raise InputError("truth", "no expression", "expected at least one")
    absent = [each for each in found if not each.meant]
    present = [each for each in found if each.meant]
    return GeneralizedResult(
        f1=sum(each.f1 >= f1_threshold for each in found) / len(found),
        no_target=sum(not each.found for each in absent) / len(absent) if absent else None,
        target=sum(each.found > 0 for each in present) / len(present) if present else None,
    )


def found_expressions(
    truth: Sequence[Record], predictions: Sequence[Record], *, score_threshold: float = 0.7, iou: float = 0.5
) -> list[FoundExpression]:
    """How each true record was met; settings as evaluate_generalized_expressions."""
    outcomes = []
    for record, regions in paired_captions(truth, predictions):
        meant = [box for region in regions_to_find(record) for box in region.boxes]
        found = best_first(regions, score_threshold)
        right = _pairs(found, meant, iou)
        outcomes.append(FoundExpression(len(meant), len(found), _f1(right, len(found), len(meant))))
    return outcomes


def truth_as_the_reference(truth: Sequence[Record]) -> list[Record]:
    """Every expression with its first box alone: mmdet 3.3.0 judges gRefCOCO so."""
    return [replace(record, regions=_first_box_alone(regions_to_find(record))) for record in truth]


def _first_box_alone(regions: Sequence[Region]) -> tuple[Region, ...]:
    return tuple(replace(region, boxes=region.boxes[:1], scores=()) for region in regions[:1])


def _pairs(found: Sequence[Box], meant: Sequence[Box], iou: float) -> int:
    """How many found boxes meet a box that is meant, one to one, the best overlap first."""
    if not found or not meant:
        return 0
    overlaps = np.array(mask.iou(with_sizes(found), with_sizes(meant), [0] * len(meant)))  # (found, meant)
    pairs = 0
    while overlaps.max() >= iou:
        row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
        overlaps[row, :] = overlaps[:, column] = -1.0
        pairs += 1
    return pairs


def _f1(right: int, found: int, meant: int) -> float:
    return 2 * right / (found + meant) if found + meant else 1.0
