"""The held-out scores of a round's model, cached by weights, truth and settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flows.distillation.comparison import shared_classes
from flows.evaluation.benchmarks import BenchmarkData, GlyphQuestionData, file_hashes
from flows.evaluation.config import SAMPLES_NAME, EvaluateConfig
from flows.evaluation.evaluate import evaluate_benchmark
from flows.evaluation.predictions import location_of
from flows.evaluation.readers import open_benchmark, select_categories
from flows.labelling.manifest import Manifest
from flows.labelling.settings import Workers
from formats.images import check_images_exist
from formats.io.errors import InputError
from formats.io.files import write_json
from formats.io.plurals import first_of
from formats.io.storage import is_address
from grounding_model.data.sources import GlyphData

NAMED = 10  # categories in an error message


def evaluate_weights(
    truth: BenchmarkData, manifest: Manifest, device: str, out: Path, **settings: Any
) -> dict[str, Any]:
    """Evaluates a plan's model, unless `out` has its scores for the same weights, truth and settings.

    The matches are written to the folder with the name of `out`. settings: as in EvaluateConfig.
    """
    cache_key = json.loads(json.dumps({"truth": repr(truth), "settings": settings}, default=str))
    cache_key["weights_sha256"] = manifest.weights_sha256
    cache_key["truth_sha256"] = file_hashes(truth)
    folder = samples_path(out).parent
    try:
        kept = json.loads(out.read_text(encoding="utf-8"))
        if kept["asked"] == cache_key and samples_path(out).is_file():
            return kept["metrics"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    config = EvaluateConfig(
        truth,
        weights=manifest.weights,
        text_encoder=manifest.text_encoder,
        workers=Workers().on(device),
        work_dir=folder,
        overwrite=True,
        **settings,
    )
    metrics = {name: value for name, value in evaluate_benchmark(config).numbers.items() if name != "weights"}
    write_json(out, {"metrics": metrics, "asked": cache_key})
    return metrics


def check_truth(
    truth: BenchmarkData, categories: Sequence[str] | None, of_student: Sequence[str] | None = None
) -> None:
    """Raises InputError for evaluation data that cannot be read, a missing image, and unknown categories.

    of_student: the classes of a student that is to be evaluated; None if there is none.
    """
    with TemporaryDirectory() as folder:  # for the scenes of drawn data, of which one is enough
        sample = replace(truth, count=1) if isinstance(truth, GlyphData | GlyphQuestionData) else truth
        benchmark = select_categories(open_benchmark(sample, Path(folder)), categories)
        location = location_of(truth)
        if not is_address(benchmark.image_root):
            filenames = sorted({record.filename for record in benchmark.records})
            check_images_exist(benchmark.image_root, filenames, location, "expected the images of the evaluation data")
    if of_student and benchmark.names and not shared_classes(benchmark.names, of_student):
        some = first_of(benchmark.names, NAMED)
        remedy = f"expected some of the student's: {', '.join(of_student)}"
        raise InputError(location, f"its categories are {some}", remedy)


def samples_path(evaluation: Path) -> Path:
    """round-1/evaluation.json -> the file of its matches, from which confidence intervals are computed."""
    return evaluation.with_suffix("") / SAMPLES_NAME
