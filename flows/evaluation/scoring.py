"""What a benchmark's metric says about predictions: numbers, categories, curves, samples for intervals, mistakes.

T IoU thresholds, R recall steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.evaluation.benchmarks import Benchmark, Metric
from flows.evaluation.queries import Answers
from formats.boxes import MATCH_IOU, best_pairs, pairwise_iou
from formats.io.errors import InputError
from formats.record import Instance, Record
from grounding_model.inputs.defaults import SCORE_THRESHOLD
from grounding_model.metrics.bootstrap import Shares
from grounding_model.metrics.coco import aligned, judge_coco
from grounding_model.metrics.described_objects import described
from grounding_model.metrics.expressions import (
    evaluate_generalized_expressions,
    expression_precision,
    expression_ranks,
    found_expressions,
)
from grounding_model.metrics.lvis import judge_lvis
from grounding_model.metrics.phrases import phrase_ranks, recall_at

if TYPE_CHECKING:
    from grounding_model.metrics.bootstrap import Samples

SHOWN_SCORE = SCORE_THRESHOLD  # boxes below it are neither drawn nor counted as mistakes


@dataclass(frozen=True)
class Measurement:
    """numbers: as JSON takes them. table: for people. headline: the name of the one number among them that the
    samples are of. per_category: AP of each, {} for captions. precision_recall: (T, R), None for captions.
    """

    headline: str
    numbers: Mapping[str, Any]
    table: str
    samples: Samples
    per_category: Mapping[str, float]
    precision_recall: np.ndarray | None = None


def measure(
    benchmark: Benchmark, predictions: Sequence[Record], metric: Metric, score_threshold: float = 0.7
) -> Measurement:
    """score_threshold: of generalized expressions alone. Raises InputError for a metric that does not fit the truth."""
    captions = metric in ("phrases", "expressions", "generalized_expressions")
    if captions == bool(benchmark.names):
        raise InputError("metric", f"'{metric}' does not fit this truth", f"expected '{benchmark.metric}'")
    if captions:
        return _measure_captions(benchmark.records, predictions, metric, score_threshold)
    return _measure_boxes(benchmark, predictions, metric)


def _measure_boxes(benchmark: Benchmark, predictions: Sequence[Record], metric: Metric) -> Measurement:
    truth, names, areas = benchmark.records, benchmark.names, benchmark.areas
    found = predictions.found_boxes() if isinstance(predictions, Answers) else predictions
    if metric == "lvis":
        if benchmark.federation is None:
            raise InputError(
                "metric", "'lvis' needs to know what was looked for in each image", "expected kind = 'lvis'"
            )
        federal, samples = judge_lvis(truth, found, names, benchmark.federation, areas=areas)
        return Measurement(
            "ap", federal.as_dict(), federal.table(), samples, federal.per_category, federal.precision_recall
        )
    box, rankings = judge_coco(truth, found, names, areas=areas)
    shown = described(box, benchmark.absence) if metric == "described_objects" else box
    return Measurement("ap", shown.as_dict(), shown.table(), rankings, box.per_category, box.precision_recall)


def _measure_captions(
    truth: Sequence[Record], predictions: Sequence[Record], metric: Metric, score_threshold: float
) -> Measurement:
    if metric == "generalized_expressions":
        result = evaluate_generalized_expressions(truth, predictions, score_threshold=score_threshold)
        found = found_expressions(truth, predictions, score_threshold=score_threshold)
        right = [[each.f1 >= 1] for each in found]
        return Measurement("f1", result.as_dict(), result.table(), _shares(truth, right), {})
    if metric == "phrases":
        shares, ranks, name = recall_at(truth, predictions), phrase_ranks(truth, predictions), "recall"
    else:
        shares, ranks, name = (
            expression_precision(truth, predictions),
            expression_ranks(truth, predictions),
            "precision",
        )
    numbers: dict[str, Any] = {f"{name}@{k}": value for k, value in shares.items()}
    rows = list(numbers.items())
    if metric == "phrases":
        merged = recall_at(truth, predictions, merge_boxes=True)
        numbers |= {f"merged_{name}@{k}": value for k, value in merged.items()}
        rows += [(f"{name}@{k}, merged boxes", value) for k, value in merged.items()]
    first = [[rank == 1 for rank in own] for own in ranks]
    return Measurement(f"{name}@1", numbers, aligned(rows), _shares(truth, first), {})


def _shares(truth: Sequence[Record], right: Sequence[Sequence[bool]]) -> Samples:
    """right: of each record, whether each of its phrases was found. Captions of one image are drawn together."""
    places: dict[str, int] = {}
    owners = [places.setdefault(record.filename, len(places)) for record in truth]
    return Shares(
        np.repeat(np.array(owners, dtype=np.int64), [len(own) for own in right]),
        np.array([each for own in right for each in own], dtype=bool),
        len(places),
    )


def mistakes_of(
    truth: Sequence[Record], predictions: Sequence[Record], metric: Metric, score_threshold: float = SHOWN_SCORE
) -> list[int]:
    """How much is wrong with each record: boxes missed, invented or named wrongly; phrases not found at once.

    predictions: one for each record of the truth, in its order.
    """
    if metric == "generalized_expressions":
        outcomes = found_expressions(truth, predictions, score_threshold=score_threshold)
        return [int(each.f1 < 1) for each in outcomes]
    if metric in ("phrases", "expressions"):
        return [sum(rank != 1 for rank in own) for own in phrase_ranks(truth, predictions)]
    return [_mistakes(record, found) for record, found in zip(truth, predictions, strict=True)]


def _mistakes(truth: Record, found: Record) -> int:
    pairs = match_boxes(truth, found)
    return sum(true is None or guess is None or true.category != guess.category for true, guess in pairs)


def match_boxes(truth: Record, found: Record) -> list[tuple[Instance | None, Instance | None]]:
    """Every true and every found box once: pairs of the best overlap first, whatever their categories, then the rest.

    Boxes below SHOWN_SCORE and what the truth ignores are left out.
    """
    true = [each for each in truth.instances or () if not each.ignore]
    guesses = [each for each in found.instances or () if (each.score or 0.0) >= SHOWN_SCORE]
    ious = pairwise_iou([each.box for each in true], [each.box for each in guesses])
    # Of boxes that lie alike, the one that is named rightly is the match.
    same = np.array([[one.category == other.category for other in guesses] for one in true]).reshape(ious.shape)
    worth = np.where(ious >= MATCH_IOU, ious + same, 0.0)
    matched = best_pairs(worth, MATCH_IOU)
    rows, columns = {row for row, _ in matched}, {column for _, column in matched}
    pairs: list[tuple[Instance | None, Instance | None]] = [(true[row], guesses[column]) for row, column in matched]
    pairs += [(each, None) for row, each in enumerate(true) if row not in rows]
    return pairs + [(None, each) for column, each in enumerate(guesses) if column not in columns]


def confusion(truth: Sequence[Record], predictions: Sequence[Record], names: Sequence[str]) -> np.ndarray:
    """(K + 1, K + 1) int64: row the true category, column the found one; the last of each is nothing.

    predictions: one for each record of the truth, in its order.
    """
    places = {name: place for place, name in enumerate(names)}
    table = np.zeros((len(names) + 1, len(names) + 1), dtype=np.int64)
    for record, found in zip(truth, predictions, strict=True):
        for true, guess in match_boxes(record, found):
            row = places.get(true.category) if true else len(names)
            column = places.get(guess.category) if guess else len(names)
            if row is not None and column is not None:
                table[row, column] += 1
    return table
