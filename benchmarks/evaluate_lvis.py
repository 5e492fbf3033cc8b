"""Time and memory of judging LVIS val: `python benchmarks/evaluate_lvis.py`.

Draws a truth of the size of LVIS v1 val (19,809 images, 1,203 categories, about 12 boxes an image) and the candidates
of a detector that found 300 boxes in each image, as shards of a labelling that is done. Then `evaluate_benchmark` reads
and judges them in a process of its own, which prints its seconds of processor time and its peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from flows.benchmarks import PublishedData, open_benchmark
from flows.evaluation import EvaluateConfig, evaluate_benchmark, plan_benchmark
from formats.candidates import Candidates, ImageCandidates, write_candidates

SIDE = 640.0


def main() -> None:
    """Draws everything into a temporary folder and measures in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=19_809, metavar="N")
    parser.add_argument("--categories", type=int, default=1203, metavar="N")
    parser.add_argument("--detections", type=int, default=300, metavar="N", help="an image (default 300)")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        measure(options.here)
        return
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), options.images, options.categories, options.detections)
        subprocess.run([sys.executable, __file__, "--here", folder], check=True)


def truth_of(folder: Path) -> PublishedData:
    """What `draw` drew."""
    return PublishedData("lvis", folder / "lvis.json", folder)


def configuration(folder: Path) -> EvaluateConfig:
    """Without an interval, as configs/evaluate_lvis_val.toml."""
    weights = str(folder / "model.safetensors")
    return EvaluateConfig(truth_of(folder), weights=weights, work_dir=folder / "work", resamples=0, shard_size=64)


def draw(folder: Path, images: int, categories: int, detections: int) -> None:
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
                "coco_url": f"http://images.cocodataset.org/val2017/{image:012}.jpg",
                "neg_category_ids": (absent + 1).tolist(),
                "not_exhaustive_category_ids": (labels[:1] + 1).tolist(),
            }
        )
    (folder / "lvis.json").write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(b"none")
    config = configuration(folder)
    config.work_dir.mkdir()
    benchmark = open_benchmark(truth_of(folder), config.work_dir)
    manifest = plan_benchmark(config, benchmark, "lvis")
    manifest.shard_path(0).parent.mkdir(parents=True, exist_ok=True)
    places = {name: place for place, name in enumerate(benchmark.names)}
    for shard in manifest.shards:
        own = []
        for line in range(shard.first_line, shard.first_line + shard.lines):
            record = benchmark.records[line]
            true = [(each.box, places[each.category]) for each in record.instances or ()]
            own.append(found(rng, line, record.filename, true, categories, detections))
        write_candidates(manifest.shard_path(shard.index), Candidates.of_images(own), manifest.key)


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) corners."""
    corner = rng.uniform(0, SIDE - 40, (count, 2))
    return np.concatenate([corner, np.minimum(corner + rng.uniform(20, 300, (count, 2)), SIDE)], axis=1)


def found(
    rng: np.random.Generator, line: int, filename: str, true: list, categories: int, count: int
) -> ImageCandidates:
    """Half of the boxes round true ones, most of them named rightly; the rest anywhere."""
    near = rng.integers(0, len(true), count // 2)
    labels = rng.integers(0, categories, count)
    labels[: len(near)] = [true[place][1] if rng.random() < 0.8 else label for place, label in zip(near, labels)]
    where = boxes(rng, count)
    where[: len(near)] = np.array([true[place][0] for place in near]) + rng.normal(0, 12, (len(near), 4))
    scores = np.sort(rng.beta(0.5, 4, count))[::-1]
    return ImageCandidates(line, filename, labels, where, scores)


def measure(folder: Path) -> None:
    """Judges what lies in the folder, and prints what that took."""
    start, before = time.process_time(), peak_megabytes()
    result = evaluate_benchmark(configuration(folder))
    seconds = time.process_time() - start
    peak = peak_megabytes()
    size = (folder / "lvis.json").stat().st_size / 2**20
    print(result.table)
    print(f"{result.numbers['images']} images, annotation file of {size:.0f} MB")
    print(f"{seconds:.0f} s of processor time, peak memory {peak:.0f} MB, {before:.0f} MB of it before the first step")


def peak_megabytes() -> float:
    """The most memory that this process has held, where the system tells it in KiB (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    main()
