"""The training stage: one run of grounding_model.train, done once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from formats.files import sha256_of, write_whole
from formats.problems import InputError
from formats.toml_config import read_config
from grounding_model.data import OdvgData
from grounding_model.train_config import FromWeights, TrainConfig
from grounding_model.weights import checkpoint_hash

DONE_NAME = "done.json"
# Settings that change how fast a training goes and what is told of it.
WITHOUT_EFFECT = ("device", "threads", "workers", "log_every", "checkpoint_every", "validate", "validate_every")


def train(config: TrainConfig, on_progress: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """Trains, or goes on with an interrupted run of config.work_dir, or finds it finished; gives the checkpoint.

    Finished is a run whose `done.json` tells of the same settings, the same labels and the same starting weights.
    """
    from grounding_model import train as training

    done = config.work_dir / DONE_NAME
    key = training_key(config)
    if (checkpoint := _finished(done, key)) is not None:
        return checkpoint
    result = training.train(config, on_progress)
    with write_whole(done) as file:
        json.dump(
            {"key": key, "checkpoint": result.checkpoint.name, "sha256": sha256_of(result.checkpoint)}
            | {"metrics": result.metrics, "problems": result.problems},
            file,
            indent=2,
        )
        file.write("\n")
    return result.checkpoint


def training_key(config: TrainConfig) -> str:
    """SHA-256 of what decides the outcome of a training: the settings, the labels' bytes, the starting weights."""
    deciding: dict[str, Any] = asdict(replace(config, work_dir=Path()))
    for name in WITHOUT_EFFECT:
        del deciding[name]
    deciding["datasets"] = [
        asdict(data) | ({"sha256": sha256_of(data.annotations)} if isinstance(data, OdvgData) else {})
        for data in config.datasets
    ]
    if isinstance(config.start, FromWeights):
        deciding["start"]["sha256"] = checkpoint_hash(config.start.source)
    return hashlib.sha256(json.dumps(deciding, sort_keys=True, default=str).encode()).hexdigest()


def _finished(done: Path, key: str) -> Path | None:
    try:
        told: Mapping[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        checkpoint = done.parent / told["checkpoint"]
        return checkpoint if told["key"] == key and sha256_of(checkpoint) == told["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def train_config(path: str | Path, overrides: Sequence[str] = (), resume: bool = False) -> Path:
    """`groundhog train`: one run as a TOML file says; gives the checkpoint.

    Raises InputError when an interrupted run lies in the work_dir and resume was not asked for.
    """
    from grounding_model.train import STATE_FILE

    config = read_config(path, TrainConfig, overrides)
    if not resume and (config.work_dir / STATE_FILE).exists() and not (config.work_dir / DONE_NAME).exists():
        raise InputError(config.work_dir, "an interrupted run lies here", "want --resume, or another --work-dir")
    return train(config)
