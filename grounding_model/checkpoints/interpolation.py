"""Interpolates between the weights of a model and its fine-tuned version (WiSE-FT, arXiv 2109.01903, equation 1).

Fine-tuning makes a model better on the new data and worse on other data. Weights between the two keep most of both,
without further training and at no cost at inference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from formats.io.errors import InputError
from grounding_model.checkpoints.checkpoint import Checkpoint, refuse_to_replace, save_checkpoint
from grounding_model.checkpoints.locations import checkpoint_hash
from grounding_model.checkpoints.weight_names import counted
from grounding_model.checkpoints.weights import load_checkpoint
from grounding_model.inputs.tokens import CaptionTokenizer
from grounding_model.model.config import ModelConfig

SAME_ARCHITECTURE = "expected a model and what was fine-tuned from it"


def interpolate_weights(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) base + alpha tuned for each tensor; bit for bit base at alpha 0 and tuned at alpha 1.

    Integer tensors (index tables, counters) are taken from tuned. Running statistics of batch norms are interpolated
    like weights, which only approximates those of the interpolated model. Raises InputError for an alpha outside 0..1,
    and, naming them, for tensors that are only in one of the two or differ in shape.
    """
    if not 0 <= alpha <= 1:
        raise InputError("alpha", f"is {alpha}", "expected 0 (the base weights) to 1 (the fine-tuned ones)")
    for name, one, other in (("fine-tuned", base, tuned), ("base", tuned, base)):
        if missing := sorted(one.keys() - other.keys()):
            raise InputError(f"{name} weights", f"{counted(missing)} missing", SAME_ARCHITECTURE)
    wrong_shapes = [
        f"{name} {tuple(base[name].shape)} and {tuple(tensor.shape)}"
        for name, tensor in tuned.items()
        if base[name].shape != tensor.shape
    ]
    if wrong_shapes:
        raise InputError(
            "base and fine-tuned weights", f"{counted(wrong_shapes)} of different shapes", SAME_ARCHITECTURE
        )
    return {
        # lerp, not a sum of two products, so that equal tensors, as in frozen parts, do not change by rounding.
        name: torch.lerp(base[name].to(tensor.dtype), tensor, alpha) if tensor.is_floating_point() else tensor
        for name, tensor in tuned.items()
    }


def interpolate(
    base: str | Path, tuned: str | Path, alpha: float, text_encoder: str | Path | None = None
) -> Checkpoint:
    """The model interpolated between two checkpoints. base, tuned, text_encoder: as in load_checkpoint.

    Raises InputError if they differ in architecture or vocabulary, naming the difference.
    """
    before, after = (load_checkpoint(source, text_encoder) for source in (base, tuned))
    weights = interpolate_weights(before.model.state_dict(), after.model.state_dict(), alpha)
    location = f"{base} and {tuned}"
    _check_config(before.model.config, after.model.config, location)
    _check_words(before.tokenizer, after.tokenizer, location)
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


def is_same_model(path: Path, checkpoint: Checkpoint) -> bool:
    """Whether the file contains this model: configuration, weights bit for bit, vocabulary and provenance."""
    try:
        found = load_checkpoint(path)
    except InputError:  # missing or damaged
        return False
    ours, theirs = checkpoint.model.state_dict(), found.model.state_dict()
    return (
        found.provenance == checkpoint.provenance
        and found.model.config == checkpoint.model.config
        and found.tokenizer.get_vocab() == checkpoint.tokenizer.get_vocab()
        and ours.keys() == theirs.keys()
        and all(torch.equal(ours[name], theirs[name]) for name in ours)
    )


def write_interpolation(
    base: str | Path,
    tuned: str | Path,
    destination: str | Path,
    alpha: float,
    text_encoder: str | Path | None = None,
    half: bool = False,
    overwrite: bool = False,
) -> None:
    """`groundhog weights interpolate`: the interpolated model as one file; its provenance contains both hashes.

    overwrite: replace a file that is there; without it, InputError.
    """
    if Path(destination).suffix != ".safetensors":
        raise InputError(destination, "is not a .safetensors file", "expected a name ending in .safetensors")
    if not overwrite:
        refuse_to_replace(destination)
    save_checkpoint(destination, *interpolate(base, tuned, alpha, text_encoder), half=half)


def _check_config(before: ModelConfig, after: ModelConfig, location: str) -> None:
    """Compares configurations, since heads, windows and so on do not show in shapes but must agree."""
    one, other = dataclasses.asdict(before), dataclasses.asdict(after)
    if differing := [f"{name} ({one[name]} and {other[name]})" for name in one if one[name] != other[name]]:
        raise InputError(location, f"{counted(differing)} not the same", SAME_ARCHITECTURE)


def _check_words(before: CaptionTokenizer, after: CaptionTokenizer, location: str) -> None:
    one, other = before.get_vocab(), after.get_vocab()
    if differing := sorted(word for word in one.keys() | other.keys() if one.get(word) != other.get(word)):
        raise InputError(
            location, f"their tokenizers differ: {counted(differing)} not the same", "expected one vocabulary"
        )
