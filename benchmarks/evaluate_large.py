"""Time and memory of evaluating a large benchmark: `python benchmarks/evaluate_large.py [--metric coco]`.

Generates ground truth of the size of LVIS v1 val (19,809 images, 1,203 categories) or of COCO val2017 (5,000 and 80),
with about 12 boxes per image, and the candidates of a detector that found 300 boxes in each image, as shards of a
finished labelling. Then `evaluate_benchmark` evaluates them in a separate process, which prints its CPU seconds and
peak memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from read_odvg import peak_megabytes

from flows.evaluation.benchmarks import PublishedData
from flows.evaluation.config import EvaluateConfig
from flows.evaluation.evaluate import evaluate_benchmark
from flows.evaluation.predictions import plan_benchmark
from flows.evaluation.readers import open_benchmark
from formats.candidates import Candidates, ImageCandidates, write_candidates
from grounding_model.data.sources import CocoData

SIZES = {"lvis": (19_809, 1203), "coco": (5_000, 80)}  # images, categories
SIDE = 640.0


def main() -> None:
    """Generates everything in a temporary folder and measures in a separate process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metric", choices=SIZES, default="lvis")
    parser.add_argument("--images", type=int, metavar="N")
    parser.add_argument("--categories", type=int, metavar="N")
    parser.add_argument("--detections", type=int, default=300, metavar="N", help="an image (default 300)")
    parser.add_argument("--resamples", type=int, default=0, metavar="N", help="draws of the interval (default: none)")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        measure(options.here, options.metric, options.resamples)
        return
    images, categories = SIZES[options.metric]
    with tempfile.TemporaryDirectory() as folder:
        drawn = options.images or images, options.categories or categories, options.detections
        draw(Path(folder), options.metric, *drawn)
        again = ["--metric", options.metric, "--resamples", str(options.resamples), "--here", folder]
        subprocess.run([sys.executable, __file__, *again], check=True)


def truth_of(folder: Path, metric: str) -> PublishedData | CocoData:
    """The ground truth written by `draw`."""
    path = folder / "truth.json"
    return PublishedData("lvis", path, folder) if metric == "lvis" else CocoData(path, folder)


def configuration(folder: Path, metric: str, resamples: int = 0) -> EvaluateConfig:
    """The configuration; without an interval, like configs/evaluate_lvis_val.toml."""
    weights = str(folder / "model.safetensors")
    truth = truth_of(folder, metric)
    return EvaluateConfig(truth, weights=weights, work_dir=folder / "work", resamples=resamples, shard_size=64)


def draw(folder: Path, metric: Literal["lvis", "coco"], images: int, categories: int, detections: int) -> None:
    """The annotation file, the plan and its shards."""
    rng = np.random.default_rng(0)
    chances = 1 / np.arange(1, categories + 1)
    chances /= chances.sum()
    content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    for label in range(categories):
        frequency = "f" if label < categories // 3 else "c" if label < 2 * categories // 3 else "r"
        content["categories"].append({"id": label + 1, "name": f"thing {label}", "frequency": frequency})
    for image in range(images):
        labels = rng.choice(categories, int(rng.integers(4, 21)), p=chances)
        absent = np.setdiff1d(rng.integers(0, categories, 8), labels)
        for label, box in zip(labels, boxes(rng, len(labels))):
            x1, y1, x2, y2 = box.tolist()
            entry = {"image_id": image, "category_id": int(label) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            content["annotations"].append(entry | {"id": len(content["annotations"]), "area": (x2 - x1) * (y2 - y1)})
        content["images"].append(
            {
                "id": image,
                "width": int(SIDE),
                "height": int(SIDE),
                "file_name": f"{image:012}.jpg",
                "coco_url": f"http://images.cocodataset.org/val2017/{image:012}.jpg",
                "neg_category_ids": (absent + 1).tolist(),
                "not_exhaustive_category_ids": (labels[:1] + 1).tolist(),
            }
        )
    (folder / "truth.json").write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(b"none")
    config = configuration(folder, metric)
    config.work_dir.mkdir()
    benchmark = open_benchmark(truth_of(folder, metric), config.work_dir)
    manifest = plan_benchmark(config, benchmark, metric)
    manifest.shard_path(0).parent.mkdir(parents=True, exist_ok=True)
    places = {name: index for index, name in enumerate(benchmark.names)}
    for shard in manifest.shards:
        images_of_shard = []
        for line in range(shard.first_line, shard.first_line + shard.lines):
            record = benchmark.records[line]
            true = [(each.box, places[each.category]) for each in record.instances or ()]
            images_of_shard.append(found(rng, line, record.filename, true, categories, detections))
        write_candidates(manifest.shard_path(shard.index), Candidates.of_images(images_of_shard), manifest.key)


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) corners."""
    corner = rng.uniform(0, SIDE - 40, (count, 2))
    return np.concatenate([corner, np.minimum(corner + rng.uniform(20, 300, (count, 2)), SIDE)], axis=1)


def found(
    rng: np.random.Generator, line: int, filename: str, true: list, categories: int, count: int
) -> ImageCandidates:
    """Half of the boxes near true ones, most of them with the right name; the rest anywhere."""
    near = rng.integers(0, len(true), count // 2)
    labels = rng.integers(0, categories, count)
    labels[: len(near)] = [true[index][1] if rng.random() < 0.8 else label for index, label in zip(near, labels)]
    where = boxes(rng, count)
    moved = np.array([true[index][0] for index in near]) + rng.normal(0, 12, (len(near), 4))
    where[: len(near)] = np.sort(moved.reshape(-1, 2, 2), axis=1).reshape(-1, 4)  # a small one may be turned round
    scores = np.sort(rng.beta(0.5, 4, count))[::-1]
    return ImageCandidates(line, filename, labels, where, scores)


def measure(folder: Path, metric: str, resamples: int) -> None:
    """Evaluates the data in the folder, and prints time and memory."""
    start, before = time.process_time(), peak_megabytes()
    result = evaluate_benchmark(configuration(folder, metric, resamples))
    seconds = time.process_time() - start
    peak = peak_megabytes()
    size = (folder / "truth.json").stat().st_size / 2**20
    print(result.table)
    print(f"{result.numbers['images']} images, annotation file of {size:.0f} MB")
    print(f"{seconds:.0f} s of processor time, peak memory {peak:.0f} MB, {before:.0f} MB of it before the first step")


if __name__ == "__main__":
    main()
