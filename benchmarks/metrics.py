"""Speed of COCO AP, compared with pycocotools and faster-coco-eval: `python benchmarks/metrics.py`.

A random data set: --images images with 1 to 14 true boxes of 80 categories, --boxes predicted boxes in each, half of
them near a true one. The implementations run in turns in one process; the table has medians of CPU seconds, and the AP
of each. pycocotools and faster-coco-eval get dictionaries in memory (no JSON is read), ours gets records for the truth
and arrays for the predictions, as in an evaluation. faster-coco-eval is left out if it is not installed.
The last row is LVIS's fixed AP of the same predictions, with all categories annotated in every image.
The last ratios, from metrics.json, are printed beside the new ones; --keep writes the new ones there.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from formats.record import Instance, Record
from grounding_model.metrics.coco import evaluate_coco
from grounding_model.metrics.lvis import Federation, evaluate_lvis
from grounding_model.metrics.predicted_boxes import PredictedBoxes

KEPT = Path(__file__).with_name("metrics.json")
CATEGORIES = tuple(f"thing {label}" for label in range(80))
SIDE = 640
JUDGE, PEER, OURS, OURS_LVIS = "pycocotools", "faster-coco-eval", "ours", "ours, LVIS fixed AP"


class Drawn(NamedTuple):
    """The same data set in the form that each implementation takes."""

    truth: list[Record]
    predictions: PredictedBoxes
    true_entries: list[dict[str, Any]]
    found_entries: list[dict[str, Any]]


def main() -> None:
    """Generates the data, measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="default 1000")
    parser.add_argument("--boxes", type=int, default=300, metavar="N", help="predicted boxes per image (default 300)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default 5")
    parser.add_argument("--keep", action="store_true", help="write the new ratios into metrics.json")
    options = parser.parse_args()
    seconds, aps = measure(evaluators(draw(options.images, options.boxes)), options.rounds)
    last = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    ratios = {name: seconds[JUDGE] / value for name, value in seconds.items()}
    print(f"| {options.images:,} images x {options.boxes} boxes | CPU s | times pycocotools' speed | AP |")
    print("|:--|--:|--:|--:|")
    for name, ratio in ratios.items():
        before = f" (last: {last[name]:.1f})" if name in last else ""
        print(f"| {name} | {seconds[name]:.2f} | {ratio:.1f}{before} | {aps[name]:.12f} |")
    if options.keep:
        KEPT.write_text(json.dumps({name: round(ratio, 2) for name, ratio in ratios.items()}, indent=1) + "\n")


def draw(images: int, boxes: int) -> Drawn:
    """Predictions are float32, as candidates on the disk are."""
    rng = np.random.default_rng(0)
    truth, true_entries, columns = [], [], []
    for image in range(images):
        count = int(rng.integers(1, 15))
        corners = rng.uniform(0, SIDE - 140, (count, 2))
        true = np.concatenate([corners, corners + rng.uniform(8, 200, (count, 2))], axis=1)
        labels = rng.integers(0, len(CATEGORIES), count)
        rows = list(zip(true.tolist(), labels.tolist()))
        truth.append(
            Record(f"{image}.jpg", SIDE, SIDE, tuple(Instance(tuple(b), k, CATEGORIES[k]) for b, k in rows))  # type: ignore[arg-type]
        )
        true_entries += [_entry(len(true_entries) + number, image, b, k) for number, (b, k) in enumerate(rows)]
        near = rng.integers(0, count, boxes)
        right = rng.random(boxes) < 0.5
        columns.append(
            (
                np.full(boxes, image, dtype=np.int32),
                np.where(right, labels[near], rng.integers(0, len(CATEGORIES), boxes)).astype(np.int32),
                (true[near] + rng.normal(0, 8, (boxes, 4))).astype(np.float32),
                rng.random(boxes).astype(np.float32),
            )
        )
    predictions = PredictedBoxes(*(np.concatenate(column) for column in zip(*columns)))
    found_entries = [
        _entry(number, image, box, label) | {"score": score}
        for number, (image, label, box, score) in enumerate(zip(*(column.tolist() for column in predictions)))
    ]
    return Drawn(truth, predictions, true_entries, found_entries)


def _entry(number: int, image: int, box: list[float], label: int) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    size = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
    return {"id": number + 1, "image_id": image, "category_id": label + 1} | size


def evaluators(drawn: Drawn) -> dict[str, Callable[[], float]]:
    """Name -> function that computes the AP."""
    everywhere = frozenset(CATEGORIES)
    federation = Federation({record.filename: everywhere for record in drawn.truth}, {}, {})
    found = {
        JUDGE: lambda: _by_entries(drawn, "pycocotools.coco", "COCO", "pycocotools.cocoeval", "COCOeval"),
        OURS: lambda: evaluate_coco(drawn.truth, drawn.predictions, CATEGORIES).ap,
        OURS_LVIS: lambda: evaluate_lvis(drawn.truth, drawn.predictions, CATEGORIES, federation).ap,
    }
    if importlib.util.find_spec("faster_coco_eval"):
        found[PEER] = lambda: _by_entries(drawn, "faster_coco_eval", "COCO", "faster_coco_eval", "COCOeval_faster")
    return found


def _by_entries(drawn: Drawn, data_module: str, data_class: str, module: str, judge_class: str) -> float:
    """By an interface like that of pycocotools."""
    sides = []
    for entries in (drawn.true_entries, drawn.found_entries):
        side = getattr(importlib.import_module(data_module), data_class)()
        side.dataset = {
            "images": [{"id": image, "width": SIDE, "height": SIDE} for image in range(len(drawn.truth))],
            "annotations": [dict(entry) for entry in entries],
            "categories": [{"id": label + 1, "name": name} for label, name in enumerate(CATEGORIES)],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            side.createIndex()
        sides.append(side)
    with contextlib.redirect_stdout(io.StringIO()):
        judge = getattr(importlib.import_module(module), judge_class)(*sides, iouType="bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0])


def measure(running: dict[str, Callable[[], float]], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median CPU seconds of each, and its AP."""
    seconds: dict[str, list[float]] = {name: [] for name in running}
    aps = {}
    for _ in range(rounds):
        for name, run in running.items():
            start = time.process_time()
            aps[name] = run()
            seconds[name].append(time.process_time() - start)
    return {name: median(values) for name, values in seconds.items()}, aps


if __name__ == "__main__":
    main()
