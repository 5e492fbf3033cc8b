"""Teacher and student beside each other: AP on the same truth, time of an image on this machine, size."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from flows.distillation.config import DistillConfig
from flows.evaluation.evaluate import evaluate
from formats.images import safe_join
from formats.io.errors import InputError
from formats.odvg import read_odvg
from grounding_model.checkpoints.locations import locate
from grounding_model.detector import load_detector
from grounding_model.inputs.image import read_image
from grounding_model.students.export import OnnxSession

BATCH = 8  # images at once where time does not count
TIMED = 10  # images; the first pass over them does not count
MEGABYTE = 1e6


@dataclass(frozen=True)
class Row:
    """One model. ap: on the truth, None without one. milliseconds: median of an image, one at a time, on the CPU."""

    name: str
    ap: float | None
    milliseconds: float
    megabytes: float


def compare(config: DistillConfig, names: Sequence[str], student: Path, onnx: Path | None) -> list[Row]:
    """The teacher, where one is named, the student in PyTorch, and in ONNX Runtime where it was exported."""
    images = _images(config)
    rows = []
    if config.teacher:
        teacher = load_detector(config.teacher, config.text_encoder, "cpu")
        ap = _average_precision(config, config.teacher, names)
        rows.append(Row("teacher, PyTorch", ap, _milliseconds(_one(teacher, names), images), _size(config.teacher)))
    ap = _average_precision(config, student, names)
    taken = _milliseconds(_one(load_detector(student, device="cpu"), names), images)
    rows.append(Row("student, PyTorch", ap, taken, _size(student)))
    if onnx is not None:
        session = OnnxSession(onnx)
        taken = _milliseconds(lambda image: session(image[None]), images)
        rows.append(Row("student, ONNX Runtime", ap, taken, _size(onnx)))
    return rows


def table(rows: Sequence[Row]) -> str:
    """As Markdown."""
    lines = ["| model | AP | ms an image | MB |", "|:--|--:|--:|--:|"]
    for row in rows:
        ap = "-" if row.ap is None else f"{row.ap:.3f}"
        lines.append(f"| {row.name} | {ap} | {row.milliseconds:.1f} | {row.megabytes:.1f} |")
    return "\n".join(lines)


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def _average_precision(config: DistillConfig, weights: str | Path, names: Sequence[str]) -> float | None:
    if config.truth is None:
        return None
    detector = load_detector(weights, config.text_encoder if str(weights) == config.teacher else None, "cpu")
    return float(evaluate(config.truth, detector, list(names), batch_size=BATCH).ap)


def _one(detector: Any, names: Sequence[str]) -> Callable[[np.ndarray], object]:
    return lambda image: detector.predict([image], list(names))


def _milliseconds(work: Callable[[np.ndarray], object], images: Sequence[np.ndarray]) -> float:
    for image in images[:2]:
        work(image)
    taken = []
    for image in images:
        began = time.perf_counter()
        work(image)
        taken.append(time.perf_counter() - began)
    return 1000 * median(taken)


def _images(config: DistillConfig) -> list[np.ndarray]:
    images = []
    for record in read_odvg(config.labels, on_problem=lambda problem: None):
        try:
            images.append(read_image(safe_join(config.images, record.filename)))
        except InputError:
            continue
        if len(images) == TIMED:
            break
    if not images:
        raise InputError(config.images, "has no image of the labels", "expected the folder that they are relative to")
    return images


def _size(weights: str | Path) -> float:
    """Megabytes of a model's weights."""
    path = locate(weights)
    files = [path] if path.is_file() else [each for each in path.iterdir() if each.suffix in (".safetensors", ".bin")]
    return sum(file.stat().st_size for file in files) / MEGABYTE
