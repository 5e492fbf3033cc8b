"""evaluation.html: the report of an evaluation as one self-contained page.

Predictions and ground truth are also written as ODVG files, which the review page can show on top of each other.
"""

from __future__ import annotations

import functools
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from browse import page_parts as pages
from browse.changes import CORRECTNESS, CORRECTNESS_LEGEND, box_changes, draw_changes
from browse.contact_sheet import side_by_side
from browse.images.pictures import reduced_picture
from browse.page_style import headlines_of
from flows.evaluation.benchmarks import Benchmark, Metric
from flows.evaluation.config import EvaluateConfig
from flows.evaluation.report import AnnotatedOnly, confident_boxes
from flows.evaluation.scoring import SHOWN_SCORE, confusion, mistakes_of
from formats.dataset_names import label_map_beside
from formats.images import safe_join
from formats.io.errors import InputError
from formats.io.files import write_whole
from formats.io.plurals import many
from formats.label_map import write_label_map
from formats.odvg import write_odvg
from formats.record import Record

PAGE_NAME = "evaluation.html"
PREDICTIONS_NAME, TRUTH_NAME = "predictions_od.json", "truth_od.json"
PICTURES = 12
MAX_CATEGORIES = 100  # in the table; per_category.csv has all of them
MAX_CONFUSED = 12  # pairs
# Name of a number in evaluation.json -> its usual name.
HEADLINES = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "f1": "F1"}
SIZES = {"ap_small": "small, to 32 x 32 pixels", "ap_medium": "medium", "ap_large": "large, from 96 x 96 pixels"}
SETTINGS = """weights truth categories work_dir score_floor scale dtype max_per_image chunk_size max_per_chunk
score_threshold resamples""".split()


@dataclass(frozen=True)
class PageData:
    """The content of the page. numbers: as in evaluation.json. metric: the one that was used."""

    config: EvaluateConfig
    benchmark: Benchmark
    predictions: Sequence[Record]
    metric: Metric
    numbers: Mapping[str, Any]

    @property
    def min_score(self) -> float:
        """Boxes below it are neither drawn nor counted as mistakes."""
        return self.config.score_threshold if self.metric == "generalized_expressions" else SHOWN_SCORE

    @functools.cached_property
    def confusion(self) -> np.ndarray:
        """The result of scoring.confusion."""
        return confusion(self.benchmark.records, self.predictions, self.benchmark.names)

    @property
    def scored(self) -> Sequence[Record]:
        """The predictions, without names that were not annotated for their image."""
        return AnnotatedOnly(self.benchmark, self.predictions) if self.benchmark.names else self.predictions


def write_evaluation_page(data: PageData) -> Path:
    """Writes evaluation.html, predictions_od.json and truth_od.json into the work_dir; returns the page's path."""
    folder = data.config.work_dir
    _write_labels(folder, data)
    sections = [
        _figures(data),
        _review(data),
        _mistakes(data),
        _worst(data),
        _categories(data),
        _confused(data),
        _sizes(data),
        _plot(folder / "precision_recall.png", "Precision and recall"),
        _plot(folder / "confusion.png", "Confusion matrix"),
        _settings(data),
    ]
    title = f"Evaluation: {folder.resolve().name}"
    path = folder / PAGE_NAME
    with write_whole(path) as file:
        file.write(pages.page(title, "\n".join(filter(None, sections)), str(data.numbers["software"])))
    return path


def _write_labels(folder: Path, data: PageData) -> None:
    confident = (confident_boxes(each, data.metric, data.min_score) for each in data.scored)
    write_odvg(folder / PREDICTIONS_NAME, confident)
    write_odvg(folder / TRUTH_NAME, data.benchmark.records)
    if data.benchmark.names:
        write_label_map(label_map_beside(folder / PREDICTIONS_NAME), dict(enumerate(data.benchmark.names)))


def _figures(data: PageData) -> str:
    numbers, headline = data.numbers, str(data.numbers["headline"])
    low, high = numbers.get("interval") or (None, None)
    interval = "" if low is None else f"95 % interval {low:.3f} to {high:.3f}"
    figures = [(HEADLINES.get(headline, headline), f"{numbers[headline]:.3f}", interval)]
    others = [name for name in ("ap50", "ap75") if name in numbers] or [
        name for name, value in numbers.items() if isinstance(value, float) and name != headline
    ]
    for name in others[:2]:
        figures.append((HEADLINES.get(name, name.replace("_", " ")), pages.fraction(numbers[name]), ""))
    boxes = sum(len(record.instances or record.regions or ()) for record in data.benchmark.records)
    figures.append(("images", pages.number(numbers["images"]), f"{boxes:,} true {_unit(data)}"))
    return headlines_of(figures)


def _unit(data: PageData) -> str:
    return "boxes" if data.benchmark.names else "phrases"


def _review(data: PageData) -> str:
    """The command that shows predictions on top of the ground truth."""
    root, folder = data.benchmark.image_root.resolve(), data.config.work_dir
    words = ["groundhog", "browse", "serve", str(folder), PREDICTIONS_NAME, str(root), "--compare", TRUTH_NAME]
    shown = f"Predictions with a score of at least {data.min_score:g}"
    if data.metric in ("phrases", "expressions"):
        shown = "The best box of each phrase"
    return pages.review_command(f"{shown} on top of the ground truth, in the browser:", shlex.join(words))


def _mistakes(data: PageData) -> str:
    """A table of right, wrong and missed boxes with at least SHOWN_SCORE."""
    if not data.benchmark.names or data.benchmark.federation is not None:
        return ""
    table = data.confusion
    right, named = int(table[:-1, :-1].trace()), int(table[:-1, :-1].sum())
    missed, invented = int(table[:-1, -1].sum()), int(table[-1, :-1].sum())
    true, made = named + missed, named + invented
    cells = [
        ["right", f"{right:,}", _share(right, true)],
        ["found with a wrong category", f"{named - right:,}", _share(named - right, true)],
        ["missed", f"{missed:,}", _share(missed, true)],
        ["boxes without an object", f"{invented:,}", f"{_share(invented, made)} of the predictions"],
    ]
    intro = pages.paragraph(f"Boxes with a score of {SHOWN_SCORE:g} or more, at an IoU of 0.5.")
    return pages.section("What goes right and wrong?", intro + pages.page_table(["", "Boxes", "Share"], cells))


def _share(part: int, of: int) -> str:
    return f"{part / of:.1%}" if of else pages.fraction(None)


def _worst(data: PageData) -> str:
    """The images with the most mistakes, ground truth and prediction side by side."""
    records = data.benchmark.records
    wrong = mistakes_of(records, data.scored, data.metric, data.config.score_threshold)
    order = sorted((index for index, count in enumerate(wrong) if count), key=lambda index: (-wrong[index], index))
    drawings = []
    for index in order[:PICTURES]:
        truth, found = records[index], confident_boxes(data.scored[index], data.metric, data.min_score)
        try:
            image = reduced_picture(safe_join(data.benchmark.image_root, truth.filename), pages.DRAWN_SIDE)
        except (OSError, InputError):  # it has moved since it was labelled
            continue
        changes = box_changes(found, truth)
        left, right = (
            draw_changes(image, truth, changes.others, CORRECTNESS),
            draw_changes(image, found, changes.ours, CORRECTNESS),
        )
        drawings.append(pages.Drawing(side_by_side(left, right), truth.filename, many(wrong[index], "mistake")))
    if not drawings:
        return ""
    intro = f"{sum(map(bool, wrong)):,} of {len(wrong):,} have a mistake; ground truth left, prediction right."
    content = pages.paragraph(intro) + pages.legend(CORRECTNESS_LEGEND) + pages.gallery(drawings, "worst", wide=True)
    return pages.section("Which images are worst?", content)


def _categories(data: PageData) -> str:
    scores: Mapping[str, float] = data.numbers.get("per_category") or {}
    if len(scores) < 2:
        return ""
    boxes = Counter(each.category for record in data.benchmark.records for each in record.instances or ())
    lowest = sorted(scores, key=lambda name: (scores[name], name))
    rows = [(name, scores[name], [f"{boxes[name]:,}"]) for name in lowest[:MAX_CATEGORIES]]
    rest = len(scores) - len(rows)
    intro = "Lowest first." + (f" {rest:,} more are in per_category.csv." if rest > 0 else "")
    table = pages.bars(["", "AP", "True boxes"], rows)
    return pages.section("How good is it at each category?", pages.paragraph(intro) + table)


def _confused(data: PageData) -> str:
    """The pairs of categories that are confused most often."""
    names = data.benchmark.names
    if len(names) < 2 or data.benchmark.federation is not None:
        return ""
    table = data.confusion[:-1, :-1].copy()
    np.fill_diagonal(table, 0)
    order = [divmod(int(index), len(names)) for index in np.argsort(-table, axis=None, kind="stable")[:MAX_CONFUSED]]
    rows = [[names[true], names[guess], f"{table[true, guess]:,}"] for true, guess in order if table[true, guess]]
    if not rows:
        return ""
    return pages.section("Which categories are confused?", pages.page_table(["True", "Predicted", "Boxes"], rows))


def _sizes(data: PageData) -> str:
    none: list[str] = []
    rows = [(words, data.numbers[name], none) for name, words in SIZES.items() if data.numbers.get(name) is not None]
    return pages.section("How good is it at each size?", pages.bars(["", "AP"], rows)) if len(rows) > 1 else ""


def _plot(path: Path, title: str) -> str:
    if not path.is_file():
        return ""
    return pages.section(title, pages.inline(path.read_bytes(), "png", title, "plot"))


def _settings(data: PageData) -> str:
    config = data.config
    settings = {name: getattr(config, name) for name in SETTINGS if getattr(config, name) is not None}
    rows = [[name.replace("_", " "), pages.setting_in_words(value)] for name, value in settings.items()]
    rows += [["images", str(data.benchmark.image_root)], ["metric", data.metric]]
    rows.append(["truth SHA-256", str(data.numbers["truth_sha256"])[:16]])
    return pages.section("Settings", pages.page_table(["Setting", ""], rows, numbers=False))
