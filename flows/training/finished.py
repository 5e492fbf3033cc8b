"""Reads the record of a finished training beside its weights. Unlike training, does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from formats.io.errors import InputError
from formats.io.files import load_json

DONE_NAME = "done.json"


def training_record(checkpoint: Path) -> dict[str, Any]:
    """The record of the training of this checkpoint, as written by `train`."""
    return load_json(checkpoint.with_name(DONE_NAME), "train again")


def best_weights(checkpoint: Path) -> Path:
    """The best weights of a finished training if it was validated, otherwise the last ones.

    checkpoint: returned by `train`. Raises InputError if the best weights were removed.
    """
    best = training_record(checkpoint)["best"]
    path = checkpoint.with_name(best or checkpoint.name)
    if not path.exists():
        raise InputError(
            path, "does not exist", "expected the best weights of the training beside its last ones; train again"
        )
    return path
