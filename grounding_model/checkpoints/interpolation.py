"""Weights between a model and what became of it in fine-tuning (WiSE-FT, arXiv 2109.01903, equation 1).

A fine-tuned model is better at what it was tuned for and worse at the rest. Somewhere on the line between its weights
and those it started from it keeps most of both; nothing is trained for that, and it costs nothing at inference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from formats.io.errors import InputError
from grounding_model.checkpoints.checkpoint import Checkpoint, save_checkpoint
from grounding_model.checkpoints.weight_names import counted
from grounding_model.checkpoints.weights import checkpoint_hash, load_checkpoint
from grounding_model.model.config import ModelConfig

SAME_ARCHITECTURE = "expected a model and what was fine-tuned from it"


def interpolate_weights(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) base + alpha tuned, tensor by tensor; alpha 0 gives base, 1 gives tuned, bit for bit.

    Tensors that hold no fractions (tables of indices, counters) are those of tuned. Running statistics of batch norms
    are interpolated like weights, which is no more than a guess of what the model between would have measured.
    Raises InputError for an alpha outside 0..1 and, naming them, for tensors that are not in both or differ in shape.
    """
    if not 0 <= alpha <= 1:
        raise InputError("alpha", f"is {alpha}", "expected 0 (the base weights) to 1 (the fine-tuned ones)")
    for name, one, other in (("fine-tuned", base, tuned), ("base", tuned, base)):
        if missing := sorted(one.keys() - other.keys()):
            raise InputError(f"{name} weights", f"{counted(missing)} missing", SAME_ARCHITECTURE)
    misshapen = [
        f"{name} {tuple(base[name].shape)} and {tuple(tensor.shape)}"
        for name, tensor in tuned.items()
        if base[name].shape != tensor.shape
    ]
    if misshapen:
        raise InputError("base and fine-tuned weights", f"{counted(misshapen)} of two shapes", SAME_ARCHITECTURE)
    return {
        # lerp, not the sum of two products: where both are equal, as in frozen parts, no rounding touches them.
        name: torch.lerp(base[name].to(tensor.dtype), tensor, alpha) if tensor.is_floating_point() else tensor
        for name, tensor in tuned.items()
    }


def interpolate(
    base: str | Path, tuned: str | Path, alpha: float, text_encoder: str | Path | None = None
) -> Checkpoint:
    """The model between two checkpoints, ready to run. base, tuned, text_encoder: as load_checkpoint takes them.

    Raises InputError when they are not one architecture with one vocabulary, naming what differs.
    """
    before, after = (load_checkpoint(source, text_encoder) for source in (base, tuned))
    weights = interpolate_weights(before.model.state_dict(), after.model.state_dict(), alpha)
    place = f"{base} and {tuned}"
    _check_config(before.model.config, after.model.config, place)
    _check_words(before.tokenizer, after.tokenizer, place)
    after.model.load_state_dict(weights, strict=True)
    provenance = {
        "made by": "interpolation of weights (WiSE-FT, arXiv 2109.01903)",
        "alpha": f"{alpha:g}",
        "base": str(base),
        "base sha256": checkpoint_hash(base),
        "tuned": str(tuned),
        "tuned sha256": checkpoint_hash(tuned),
    }
    return Checkpoint(after.model, after.tokenizer, provenance)


def write_interpolation(
    base: str | Path,
    tuned: str | Path,
    destination: str | Path,
    alpha: float,
    text_encoder: str | Path | None = None,
    half: bool = False,
) -> None:
    """`groundhog weights interpolate`: the model between as one file of ours; its provenance tells both hashes."""
    if Path(destination).suffix != ".safetensors":
        raise InputError(destination, "unknown kind of checkpoint", "expected a name ending in .safetensors")
    save_checkpoint(destination, *interpolate(base, tuned, alpha, text_encoder), half=half)


def _check_config(before: ModelConfig, after: ModelConfig, place: str) -> None:
    """Heads, windows and the like leave no trace in the shapes, but weights learned with others mean other things."""
    one, other = dataclasses.asdict(before), dataclasses.asdict(after)
    if differing := [f"{name} ({one[name]} and {other[name]})" for name in one if one[name] != other[name]]:
        raise InputError(place, f"{counted(differing)} not the same", SAME_ARCHITECTURE)


def _check_words(before: PreTrainedTokenizerFast, after: PreTrainedTokenizerFast, place: str) -> None:
    one, other = before.get_vocab(), after.get_vocab()
    if differing := sorted(word for word in one.keys() | other.keys() if one.get(word) != other.get(word)):
        raise InputError(
            place, f"their tokenizers differ: {counted(differing)} not the same", "expected one vocabulary"
        )
