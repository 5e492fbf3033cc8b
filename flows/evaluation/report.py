"""The files of an evaluation besides its JSON: a CSV of categories, plots, and pictures of the worst images."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from browse.contact_sheet import side_by_side
from browse.draw import draw_record
from browse.images.pictures import write_jpeg
from flows.evaluation.benchmarks import Benchmark, Metric
from flows.evaluation.scoring import SHOWN_SCORE, Measurement, confusion, mistakes_of
from formats.images import safe_join
from formats.io.files import write_whole
from formats.io.plots import new_figure, write_figure
from formats.record import Record, Region
from grounding_model.inputs.image import read_image

MAX_CONFUSED = 25  # categories in the confusion matrix; more are not legible
MAX_PICTURES = 100


def write_evaluation_files(
    folder: Path, benchmark: Benchmark, predictions: Sequence[Record], measurement: Measurement
) -> list[Path]:
    """Writes per_category.csv, precision_recall.png and confusion.png, if the metric has them; returns their paths."""
    written = []
    if measurement.per_category:
        written.append(write_categories(folder / "per_category.csv", benchmark, measurement.per_category))
    if measurement.precision_recall is not None:
        written.append(plot_precision_recall(folder / "precision_recall.png", measurement.precision_recall))
    if benchmark.names and benchmark.federation is None:  # federated ground truth is not exhaustive
        table = confusion(benchmark.records, predictions, benchmark.names)
        written.append(plot_confusion(folder / "confusion.png", table, benchmark.names))
    return written


def write_categories(path: Path, benchmark: Benchmark, per_category: Mapping[str, float]) -> Path:
    """Writes a CSV with a line per category: AP (empty without a true box), and numbers of true boxes and images."""
    boxes = Counter(each.category for record in benchmark.records for each in record.instances or ())
    images = Counter(
        name for record in benchmark.records for name in {each.category for each in record.instances or ()}
    )
    with write_whole(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("category", "ap", "boxes", "images"))
        for name in benchmark.names:
            ap = f"{per_category[name]:.4f}" if name in per_category else ""
            writer.writerow((name, ap, boxes[name], images[name]))
    return path


def plot_precision_recall(path: Path, levels: np.ndarray) -> Path:
    """Plots precision against recall. levels: (T, R), mean over the categories, at IoU 0.5, 0.55 … 0.95."""
    figure = new_figure(5.0, 4.2)
    axes = figure.add_subplot()
    recall = np.linspace(0, 1, levels.shape[1])
    for row, iou in ((0, "0.50"), (5, "0.75"), (8, "0.90")):
        axes.plot(recall, levels[row], label=f"IoU {iou}: AP {levels[row].mean():.3f}")
    axes.plot(recall, levels.mean(0), color="black", linewidth=2, label=f"mean: AP {levels.mean():.3f}")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False)
    write_figure(path, figure)
    return path


def plot_confusion(path: Path, table: np.ndarray, names: Sequence[str]) -> Path:
    """Plots the confusion matrix of scoring.confusion; of many categories, those with the most mistakes."""
    wrong = table.sum(0) + table.sum(1) - 2 * table.diagonal()
    kept = sorted(np.argsort(-wrong[:-1], kind="stable")[:MAX_CONFUSED])
    table = table[np.ix_([*kept, len(names)], [*kept, len(names)])]
    labels = [names[index] for index in kept] + ["nothing"]
    side = 2.5 + 0.32 * len(labels)
    figure = new_figure(side, side)
    axes = figure.add_subplot()
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(table)):
        ink = "white" if shares[row, column] > 0.6 else "black"
        axes.text(column, row, str(table[row, column]), ha="center", va="center", fontsize=7, color=ink)
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set(xlabel=f"predicted (score of {SHOWN_SCORE} or more)", ylabel="true")
    if len(kept) < len(names):
        axes.set_title(f"the {len(kept)} of {len(names)} categories with the most mistakes", fontsize=9)
    write_figure(path, figure)
    return path


def draw_worst(
    folder: Path, benchmark: Benchmark, predictions: Sequence[Record], metric: Metric, score_threshold: float
) -> int:
    """Draws the images with the most mistakes, ground truth left and prediction right; returns their number."""
    min_score = score_threshold if metric == "generalized_expressions" else SHOWN_SCORE
    if benchmark.names:
        predictions = AnnotatedOnly(benchmark, predictions)
    wrong = mistakes_of(benchmark.records, predictions, metric, score_threshold)
    order = sorted(range(len(wrong)), key=lambda index: (-wrong[index], index))[:MAX_PICTURES]
    for rank, index in enumerate(order):
        record = benchmark.records[index]
        prediction = confident_boxes(predictions[index], metric, min_score)
        pixels = read_image(safe_join(benchmark.image_root, record.filename))
        picture = side_by_side(draw_record(pixels, record), draw_record(pixels, prediction))
        stem = re.sub(r"[^\w.-]+", "_", Path(record.filename).stem)
        write_jpeg(folder / f"{rank:03d}_{wrong[index]}_wrong_{stem}.jpg", picture)
    return len(order)


class AnnotatedOnly(Sequence[Record]):
    """Predictions without names that were not annotated for their image, computed when accessed."""

    def __init__(self, benchmark: Benchmark, predictions: Sequence[Record]) -> None:
        self._benchmark = benchmark
        self._predictions = predictions

    def __len__(self) -> int:
        return len(self._predictions)

    def __getitem__(self, index: Any) -> Any:
        prediction = self._predictions[index]
        names = self._benchmark.annotated_names(self._benchmark.records[index])
        instances = tuple(each for each in prediction.instances or () if each.category in names)
        return replace(prediction, instances=instances)


def confident_boxes(record: Record, metric: Metric, min_score: float) -> Record:
    """The boxes with at least this score; for a phrase, or an expression with one target, only the best box."""
    if record.caption is None:
        kept = tuple(each for each in record.instances or () if (each.score or 0.0) >= min_score)
        return replace(record, instances=kept)
    one = metric != "generalized_expressions"
    return replace(record, regions=tuple(_best_boxes(each, one, min_score) for each in record.regions or ()))


def _best_boxes(region: Region, one: bool, min_score: float) -> Region:
    ranked = sorted(zip(region.scores, region.boxes), key=lambda pair: -pair[0])
    kept = ranked[:1] if one else [pair for pair in ranked if pair[0] >= min_score]
    return replace(region, boxes=tuple(box for _, box in kept), scores=tuple(score for score, _ in kept))
