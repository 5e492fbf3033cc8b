"""The effect of duplicate detections on a model's AP.

    python benchmarks/duplicates.py glyph-tiny work_dirs/…/model.safetensors [--seed 1000] [--scenes 150]
    python benchmarks/duplicates.py --config configs/evaluate_raccoon.toml work_dirs/…/model.safetensors

prints a Markdown table, one model per row: COCO AP of the model's output, and after greedy NMS at an IoU of 0.7; then
the number of duplicates of the best box of an image: boxes on the same object with more than half of its score. The
prompt is "cat" on scenes of the glyph world, or the categories of an evaluation's configuration. A detection
transformer is trained to detect each object once and evaluated without NMS; a large difference means that it does not.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from flows.evaluation.benchmarks import Benchmark, OdinwSuite
from flows.evaluation.config import EvaluateConfig
from flows.evaluation.readers import open_benchmark
from flows.policies.nms import record_without_duplicates
from formats.boxes import pairwise_iou
from formats.images import safe_join
from formats.io.toml_config import read_config
from formats.record import Record
from grounding_model import load_detector
from grounding_model.data.sources import GlyphData
from grounding_model.metrics.coco import CocoResult, evaluate_coco

IOU = 0.7
BATCH = 8
FLOOR = 0.01


def further_answers(record: Record) -> int:
    """The number of duplicates of the best box: other boxes on its object with more than half of its score."""
    if not record.instances:
        return 0
    best = max(record.instances, key=lambda instance: instance.score or 0.0)
    near = pairwise_iou([best.box], [instance.box for instance in record.instances])[0] > IOU
    sure = [(instance.score or 0.0) > 0.5 * (best.score or 0.0) for instance in record.instances]
    same = [instance.label == best.label for instance in record.instances]
    return int((near & sure & same).sum()) - 1


def measured(weights: str, benchmark: Benchmark) -> tuple[CocoResult, CocoResult, float]:
    """AP of the model's output and without duplicates; mean number of duplicates of an image's best box."""
    truth, names = list(benchmark.records), benchmark.names
    images = [safe_join(benchmark.image_root, record.filename) for record in truth]
    answers = load_detector(weights).predict(images, list(names), score_threshold=FLOOR, batch_size=BATCH)
    found = [replace(answer, filename=record.filename) for answer, record in zip(answers, truth)]
    single = [record_without_duplicates(record, IOU) for record in found]
    further = fmean(map(further_answers, found))
    return evaluate_coco(truth, found, names), evaluate_coco(truth, single, names), further


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="+")
    parser.add_argument("--config", type=Path, help="a TOML file of groundhog evaluate, whose truth is taken")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--scenes", type=int, default=150)
    options = parser.parse_args()
    truth = GlyphData("cats", count=options.scenes, seed=options.seed)
    if options.config is not None:
        truth = read_config(options.config, EvaluateConfig).truth
        if isinstance(truth, OdinwSuite):
            parser.error(f"{options.config}: several sets; expected a configuration of one")
    with TemporaryDirectory(prefix="groundhog-") as folder:
        benchmark = open_benchmark(truth, Path(folder))
        print("| model | AP | AP50 | AP without duplicates | AP50 | further answers |\n|:--|--:|--:|--:|--:|--:|")
        for weights in options.weights:
            plain, single, further = measured(weights, benchmark)
            figures = " | ".join(f"{figure:.3f}" for figure in (plain.ap, plain.ap50, single.ap, single.ap50))
            print(f"| {weights} | {figures} | {further:.1f} |", flush=True)


if __name__ == "__main__":
    main()
