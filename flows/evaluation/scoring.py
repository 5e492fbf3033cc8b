"""Scores predictions with the metric of a benchmark, with the data for reports, intervals and pictures of mistakes.

T IoU thresholds, R recall steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.evaluation.benchmarks import Benchmark, Metric
from flows.evaluation.predictions import StoredPredictions
from formats.boxes import MATCH_IOU, best_pairs, pairwise_iou
from formats.io.errors import InputError
from formats.record import Instance, Record
from grounding_model.inputs.defaults import SCORE_THRESHOLD
from grounding_model.metrics.bootstrap import Samples, Shares
from grounding_model.metrics.coco import CocoResult, aligned, evaluate_coco_with_rankings
from grounding_model.metrics.described_objects import split_result
from grounding_model.metrics.expressions import (
    EXPRESSION_SCORE,
    evaluate_generalized_expressions,
    expression_matches,
    expression_precision,
    expression_ranks,
)
from grounding_model.metrics.lvis import MAX_PER_CATEGORY, LvisResult, evaluate_lvis_with_rankings
from grounding_model.metrics.phrases import phrase_ranks, recall_at
from grounding_model.metrics.predicted_boxes import PredictedBoxes

SHOWN_SCORE = SCORE_THRESHOLD  # boxes below it are neither drawn nor counted as mistakes


@dataclass(frozen=True)
class Measurement:
    """The scores of an evaluation. headline: name of the main score, to which the samples belong. numbers: for JSON.
    table: human-readable. per_category: AP by name, {} for captions. precision_recall: (T, R), None for captions.
    result: of COCO's or LVIS's metric, None for captions.
    """

    headline: str
    numbers: Mapping[str, Any]
    table: str
    samples: Samples
    per_category: Mapping[str, float]
    precision_recall: np.ndarray | None = None
    result: CocoResult | LvisResult | None = None


def measure(
    benchmark: Benchmark, predictions: Sequence[Record], metric: Metric, score_threshold: float = EXPRESSION_SCORE
) -> Measurement:
    """Computes the scores. score_threshold: only for generalized expressions.

    Raises InputError for a metric that does not fit the ground truth.
    """
    captions = metric in ("phrases", "expressions", "generalized_expressions")
    if captions == bool(benchmark.names):
        raise InputError("metric", f"'{metric}' does not fit this truth", f"expected '{benchmark.metric}'")
    if captions:
        return _measure_captions(benchmark.records, predictions, metric, score_threshold)
    return _measure_boxes(benchmark, predictions, metric)


def _measure_boxes(benchmark: Benchmark, predictions: Sequence[Record], metric: Metric) -> Measurement:
    truth, names, areas = benchmark.records, benchmark.names, benchmark.areas
    if metric == "lvis":
        if benchmark.federation is None:
            what = "'lvis' requires the categories that were annotated in each image"
            raise InputError("metric", what, "expected ground truth of kind = 'lvis'")
        boxes = _arrays(predictions, MAX_PER_CATEGORY)
        lvis, samples = evaluate_lvis_with_rankings(truth, boxes, names, benchmark.federation, areas=areas)
        return Measurement("ap", lvis.as_dict(), lvis.table(), samples, lvis.per_category, lvis.precision_recall, lvis)
    coco, rankings = evaluate_coco_with_rankings(truth, _arrays(predictions), names, areas=areas)
    shown = split_result(coco, benchmark.absence) if metric == "described_objects" else coco
    return Measurement("ap", shown.as_dict(), shown.table(), rankings, coco.per_category, coco.precision_recall, coco)


def _arrays(predictions: Sequence[Record], max_per_category: int | None = None) -> Sequence[Record] | PredictedBoxes:
    """Stored predictions as arrays, with at most max_per_category of the best boxes of each category."""
    return predictions.as_arrays(max_per_category) if isinstance(predictions, StoredPredictions) else predictions


def _measure_captions(
    truth: Sequence[Record], predictions: Sequence[Record], metric: Metric, score_threshold: float
) -> Measurement:
    if metric == "generalized_expressions":
        result = evaluate_generalized_expressions(truth, predictions, score_threshold=score_threshold)
        matches = expression_matches(truth, predictions, score_threshold=score_threshold)
        right = [[each.f1 >= 1] for each in matches]
        return Measurement("f1", result.as_dict(), result.table(), _shares(truth, right), {})
    if metric == "phrases":
        shares, ranks, name = recall_at(truth, predictions), phrase_ranks(truth, predictions), "recall"
    else:
        shares, ranks = expression_precision(truth, predictions), expression_ranks(truth, predictions)
        name = "precision"
    numbers: dict[str, Any] = {f"{name}@{k}": value for k, value in shares.items()}
    rows = list(numbers.items())
    if metric == "phrases":
        merged = recall_at(truth, predictions, merge_boxes=True)
        numbers |= {f"merged_{name}@{k}": value for k, value in merged.items()}
        rows += [(f"{name}@{k}, merged boxes", value) for k, value in merged.items()]
    first = [[rank == 1 for rank in record_ranks] for record_ranks in ranks]
    return Measurement(f"{name}@1", numbers, aligned(rows), _shares(truth, first), {})


def _shares(truth: Sequence[Record], right: Sequence[Sequence[bool]]) -> Samples:
    """right: for each record, whether each of its phrases was found. Captions of one image are resampled together."""
    images: dict[str, int] = {}
    owners = [images.setdefault(record.filename, len(images)) for record in truth]
    return Shares(
        np.repeat(np.array(owners, dtype=np.int64), [len(of_image) for of_image in right]),
        np.array([each for of_image in right for each in of_image], dtype=bool),
        len(images),
    )


def mistakes_of(
    truth: Sequence[Record], predictions: Sequence[Record], metric: Metric, score_threshold: float = SHOWN_SCORE
) -> list[int]:
    """The number of mistakes in each record.

    Mistakes are missed boxes, boxes without an object or of the wrong category, and phrases whose best box is wrong.
    predictions: one for each record of the ground truth, in order.
    """
    if metric == "generalized_expressions":
        matches = expression_matches(truth, predictions, score_threshold=score_threshold)
        return [int(each.f1 < 1) for each in matches]
    if metric in ("phrases", "expressions"):
        return [sum(rank != 1 for rank in ranks) for ranks in phrase_ranks(truth, predictions)]
    return [_mistakes(record, found) for record, found in zip(truth, predictions, strict=True)]


def _mistakes(truth: Record, found: Record) -> int:
    pairs = match_boxes(truth, found)
    return sum(true is None or guess is None or true.category != guess.category for true, guess in pairs)


def match_boxes(truth: Record, found: Record) -> list[tuple[Instance | None, Instance | None]]:
    """Matches true and predicted boxes: pairs of equal category first, then by descending IoU; then unmatched boxes.

    Boxes below SHOWN_SCORE, and true boxes marked `ignore`, are left out.
    """
    true = [each for each in truth.instances or () if not each.ignore]
    guesses = [each for each in found.instances or () if (each.score or 0.0) >= SHOWN_SCORE]
    ious = pairwise_iou([each.box for each in true], [each.box for each in guesses])
    # A box of the right category takes precedence.
    same = np.array([[one.category == other.category for other in guesses] for one in true]).reshape(ious.shape)
    worth = np.where(ious >= MATCH_IOU, ious + same, 0.0)
    matched = best_pairs(worth, MATCH_IOU)
    rows, columns = {row for row, _ in matched}, {column for _, column in matched}
    pairs: list[tuple[Instance | None, Instance | None]] = [(true[row], guesses[column]) for row, column in matched]
    pairs += [(each, None) for row, each in enumerate(true) if row not in rows]
    return pairs + [(None, each) for column, each in enumerate(guesses) if column not in columns]


def confusion(truth: Sequence[Record], predictions: Sequence[Record], names: Sequence[str]) -> np.ndarray:
    """(K + 1, K + 1) int64 confusion matrix: rows are true, columns predicted categories; the last one is no object.

    predictions: one for each record of the ground truth, in order.
    """
    labels = {name: label for label, name in enumerate(names)}
    table = np.zeros((len(names) + 1, len(names) + 1), dtype=np.int64)
    for record, found in zip(truth, predictions, strict=True):
        for true, guess in match_boxes(record, found):
            row = labels.get(true.category) if true else len(names)
            column = labels.get(guess.category) if guess else len(names)
            if row is not None and column is not None:
                table[row, column] += 1
    return table
