"""The held-out scores of a round's model, cached by weights, truth and settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flows.evaluation.benchmarks import BenchmarkData, file_hashes
from flows.evaluation.config import SAMPLES_NAME, EvaluateConfig
from flows.evaluation.evaluate import evaluate_benchmark
from flows.labelling.manifest import Manifest
from flows.labelling.settings import Workers
from formats.io.files import write_json


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


def samples_path(evaluation: Path) -> Path:
    """round-1/evaluation.json -> the file of its matches, from which confidence intervals are computed."""
    return evaluation.with_suffix("") / SAMPLES_NAME
