"""The training stage: runs grounding_model.training.loop once for each combination of labels and settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.training.finished import DONE_NAME, training_record
from flows.training.torchrun import train_in_processes
from formats.io.errors import InputError
from formats.io.files import write_json
from formats.io.toml_config import read_config
from grounding_model.checkpoints.checkpoint import save_checkpoint
from grounding_model.checkpoints.interpolation import interpolate, is_same_model
from grounding_model.checkpoints.locations import checkpoint_hash
from grounding_model.training import loop as training
from grounding_model.training.config import FromWeights, TrainConfig
from grounding_model.training.log import CURVES_FILE, MEAN_AP
from grounding_model.training.state import settings_with_effect


def train(config: TrainConfig | str | Path, on_progress: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """Trains, or resumes an interrupted run in config.work_dir, unless it is finished; returns the checkpoint.

    config: the configuration, or its TOML file. on_progress: see grounding_model.training.loop.run_training.
    A run is finished if its `done.json` records the same settings, labels and starting weights.
    """
    if isinstance(config, str | Path):
        config = read_config(config, TrainConfig)
    config = config.with_folder()
    training.check_data(config)  # reports missing data clearly, before the files are read for the key
    done = config.work_dir / DONE_NAME
    key = training_key(config)
    if (checkpoint := _finished(done, key)) is not None:
        return checkpoint
    run = train_in_processes if config.processes > 1 else training.run_training
    result = run(config, on_progress)
    record = {
        "key": key,
        "checkpoint": result.checkpoint.name,
        "sha256": checkpoint_hash(result.checkpoint),  # a student is a folder
        "metrics": result.metrics,
        "problems": result.problems,
        "best": result.best.name if result.best else None,
        "best_ap": result.best_ap,
    }
    write_json(done, record)
    return result.checkpoint


def interpolate_with_start(start: FromWeights, trained: Path, student: float) -> Path:
    """Interpolates a loop's first model with a trained one, into a file beside it; with student 1, returns `trained`.

    student: weight of the trained model (WiSE-FT, arXiv 2109.01903); lower values keep more of the first model.
    An existing file with the same weights is kept, since another version of this software may write different bytes,
    which would change the key of later plans.
    """
    if student == 1.0:
        return trained
    path = trained.with_name(f"between-{student:g}.safetensors")
    checkpoint = interpolate(start.source, trained, student, start.text_encoder)
    if not is_same_model(path, checkpoint):
        save_checkpoint(path, *checkpoint)
    return path


def training_key(config: TrainConfig) -> str:
    """SHA-256 of what determines the result of a training: settings, label files, and starting weights."""
    return hashlib.sha256(json.dumps(settings_with_effect(config), sort_keys=True).encode()).hexdigest()


def _finished(done: Path, key: str) -> Path | None:
    try:
        record: Mapping[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        checkpoint = done.parent / record["checkpoint"]
        return checkpoint if record["key"] == key and checkpoint_hash(checkpoint) == record["sha256"] else None
    except (InputError, OSError, ValueError, KeyError, TypeError):
        return None


def train_config(path: str | Path, overrides: Sequence[str] = (), resume: bool = False) -> Path:
    """`groundhog train`: one run as configured in a TOML file; returns the checkpoint.

    Raises InputError if the work_dir contains an interrupted run and resume is False.
    """
    config = read_config(path, TrainConfig, overrides)
    training.check_resume(config, resume)
    return train(config)


def describe_training(checkpoint: Path) -> str:
    """The files and scores of a finished run as text, one per line. checkpoint: returned by `train`."""
    done = training_record(checkpoint)
    last, best = done["metrics"], done["best"]
    lines = [f"weights: {checkpoint}" + (f", AP {last[MEAN_AP]:.3f}" if MEAN_AP in last else "")]
    if best:
        lines.append(f"best:    {checkpoint.with_name(best)}, AP {done['best_ap']:.3f}")
    return "\n".join([*lines, f"curves:  {checkpoint.with_name(CURVES_FILE)}"])
