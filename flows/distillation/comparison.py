"""Compares teacher and student: AP on the same images, time per image on this machine, and size."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from flows.distillation.config import DistillConfig
from flows.evaluation.benchmarks import file_hashes
from flows.evaluation.config import EvaluateConfig
from flows.evaluation.evaluate import evaluate_benchmark
from flows.evaluation.predictions import location_of
from flows.evaluation.readers import open_benchmark
from flows.labelling.detector_pool import Predictor
from formats.images import safe_join
from formats.io.errors import InputError
from formats.io.files import sha256_of
from formats.odvg import read_odvg
from grounding_model.checkpoints.locations import checkpoint_hash, locate
from grounding_model.data.sources import TrainingData
from grounding_model.detector import load_detector
from grounding_model.inputs.image import read_image
from grounding_model.students.onnx_detector import OnnxDetector, OnnxSession

BATCH = 8  # batch size when time is not measured
TIMED = 10  # images for the measurement of time
MEGABYTE = 1e6
EVALUATION_FOLDER = "evaluation"  # in the work_dir


@dataclass(frozen=True)
class ModelRow:
    """One model. ap: None without labelled images. milliseconds: median for single images on the CPU."""

    name: str
    ap: float | None
    milliseconds: float
    megabytes: float


def check_comparison(config: DistillConfig, names: Sequence[str]) -> None:
    """Raises the InputErrors of compare_models that can be detected before training."""
    if config.teacher:
        locate(config.teacher)
    if config.truth is not None:
        _categories(config, config.truth, names)
    _images(config)


def comparison_key(config: DistillConfig, student: Path, onnx: Path | None) -> str:
    """SHA-256 of everything that determines the rows, except the machine."""
    made_from = {
        "teacher": checkpoint_hash(config.teacher) if config.teacher else None,
        "text_encoder": checkpoint_hash(config.text_encoder) if config.text_encoder else None,
        "student": checkpoint_hash(student),
        "onnx": sha256_of(onnx) if onnx else None,
        "truth": [repr(config.truth), *(file_hashes(config.truth) if config.truth else [])],
        "images": str(config.images),
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def compare_models(config: DistillConfig, names: Sequence[str], student: Path, onnx: Path | None) -> list[ModelRow]:
    """Rows for the teacher, if there is one, for the student in PyTorch, and in ONNX Runtime, if it was exported.

    With labelled images (config.truth), each is evaluated in WORK_DIR/evaluation, and interrupted evaluations resume.
    """
    images = _images(config)
    rows = []
    if config.teacher:
        teacher = load_detector(config.teacher, config.text_encoder, "cpu")
        ap = _average_precision(config, names, "teacher", config.teacher, teacher)
        rows.append(
            ModelRow("teacher, PyTorch", ap, _milliseconds(_one(teacher, names), images), _size(config.teacher))
        )
    detector = load_detector(student, device="cpu")
    ap = _average_precision(config, names, "student", student, detector)
    rows.append(ModelRow("student, PyTorch", ap, _milliseconds(_one(detector, names), images), _size(student)))
    if onnx is not None:
        session = OnnxSession(onnx)
        ap = _average_precision(config, names, "student-onnx", onnx, OnnxDetector(session))
        taken = _milliseconds(lambda image: session(image[None]), images)
        rows.append(ModelRow("student, ONNX Runtime", ap, taken, _size(onnx)))
    return rows


def comparison_table(rows: Sequence[ModelRow]) -> str:
    """The rows as a Markdown table."""
    lines = ["| model | AP | ms per image | MB |", "|:--|--:|--:|--:|"]
    for row in rows:
        ap = "-" if row.ap is None else f"{row.ap:.3f}"
        lines.append(f"| {row.name} | {ap} | {row.milliseconds:.1f} | {row.megabytes:.1f} |")
    return "\n".join(lines)


def as_json(rows: Sequence[ModelRow]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def _average_precision(
    config: DistillConfig, names: Sequence[str], name: str, weights: str | Path, detector: Predictor
) -> float | None:
    """AP of one model; None without labelled images. name: of its evaluation folder."""
    if config.truth is None:
        return None
    evaluation = EvaluateConfig(
        config.truth,
        metric="coco",
        weights=str(weights),
        text_encoder=str(config.text_encoder) if name == "teacher" and config.text_encoder else None,
        categories=_categories(config, config.truth, names),
        work_dir=config.work_dir / EVALUATION_FOLDER / name,
        overwrite=True,
        batch_size=BATCH,
    )
    return float(evaluate_benchmark(evaluation, detector=detector).numbers["ap"])


def _categories(config: DistillConfig, truth: TrainingData, names: Sequence[str]) -> tuple[str, ...]:
    """The student's classes that are annotated in the labelled images."""
    known = open_benchmark(truth, config.work_dir / EVALUATION_FOLDER).names
    if chosen := shared_classes(known, names):
        return chosen
    what = f"its categories are {', '.join(known) or 'none'}"
    raise InputError(location_of(truth), what, f"expected some of the student's: {', '.join(names)}")


def shared_classes(known: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The known names that are among the others, upper and lower case alike."""
    folded = {name.casefold() for name in names}
    return tuple(name for name in known if name.casefold() in folded)


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
