"""What a finished training leaves beside its weights. Loads no torch, unlike the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from formats.io.errors import InputError
from formats.io.files import load_json

DONE_NAME = "done.json"


def training_record(checkpoint: Path) -> dict[str, Any]:
    """What `train` wrote about the training that gave this checkpoint."""
    return load_json(checkpoint.with_name(DONE_NAME), "train again")


def best_weights(checkpoint: Path) -> Path:
    """The best ones of a finished training that was evaluated on the way, else its last.

    checkpoint: as `train` gave it. Raises InputError where the best have been removed.
    """
    best = training_record(checkpoint)["best"]
    path = checkpoint.with_name(best or checkpoint.name)
    if not path.exists():
        raise InputError(
            path, "does not exist", "expected the best weights of the training beside its last; train again"
        )
    return path
