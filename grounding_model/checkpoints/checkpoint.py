"""Our own checkpoint: one safetensors file with the configuration and the tokenizer inside."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from formats.io.errors import InputError
from formats.io.files import write_whole
from grounding_model.checkpoints.weight_names import counted
from grounding_model.inputs.tokens import tokenizer_to_text
from grounding_model.model.config import Denoising, ModelConfig, SwinBackbone, TextEncoder, TimmBackbone
from grounding_model.model.grounding import GroundingModel

FORMAT = "groundhog-1"
LABEL_EMBEDDING = "denoising.label_embedding.weight"


class Checkpoint(NamedTuple):
    model: GroundingModel  # in evaluation mode, float32, on the CPU
    tokenizer: PreTrainedTokenizerFast
    provenance: dict[str, str]  # where the weights are from, in words


class Weights(NamedTuple):
    """A file that was read but not yet built: tensors by our names, and what they need to become a model."""

    kind: str  # what sort of file it was, for people
    config: ModelConfig
    tensors: dict[str, Tensor]
    name_in_file: Callable[[str], str]  # ours -> theirs, for messages
    tokenizer_source: Path | str | None  # text of ours, folder of theirs, or None
    provenance: dict[str, str]


def draw_label_embedding(tensors: dict[str, Tensor], config: ModelConfig, provenance: dict[str, str]) -> None:
    """Adds what only training needs and other programs leave out; it starts anew, the same in every run."""
    if LABEL_EMBEDDING not in tensors:
        shape = (config.denoising.label_table, config.width)
        tensors[LABEL_EMBEDDING] = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        provenance["label embedding of denoising"] = "not in the file, drawn anew"


def save_checkpoint(
    path: str | Path,
    model: GroundingModel,
    tokenizer: PreTrainedTokenizerFast,
    provenance: Mapping[str, str],
    half: bool = False,
) -> None:
    """Writes one `.safetensors` file, whole or not at all. half: stored as float16, at half the size.

    Raises InputError when a weight does not fit into float16.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half:
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
        overflown = [name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
        if overflown:
            raise InputError(path, f"{counted(overflown)} not finite in float16", "store float32")
    metadata = {
        "format": FORMAT,
        "config": json.dumps(dataclasses.asdict(model.config)),
        "tokenizer": tokenizer_to_text(tokenizer),
        "provenance": json.dumps(dict(provenance), ensure_ascii=False),
    }
    with write_whole(path, "wb") as file:
        for part in _in_fixed_order(safetensors_bytes(tensors, metadata)):
            file.write(part)


def _in_fixed_order(file: bytes) -> tuple[bytes, memoryview]:
    """A safetensors file in two parts; the library's own metadata stand in another order in every process.

    Equal models are equal files: what labels and plans are told by is the hash of the file.
    """
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # as the format wants the tensors aligned
    return len(text).to_bytes(8, "little") + text, memoryview(file)[8 + length :]


def is_safetensors(path: Path) -> bool:
    """A safetensors file opens with the length of its header and a brace."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def read_ours(path: Path) -> Weights:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise InputError(path, f"is no whole safetensors file ({error})", "download or write it again") from None
    if not metadata.get("format", "").startswith("groundhog-"):
        raise InputError(path, "holds tensors without our configuration", "for transformers' models give the folder")
    if metadata["format"] != FORMAT:
        raise InputError(path, f"has format {metadata['format']}", f"this version reads {FORMAT}; update groundhog")
    try:
        config = config_from_json(metadata["config"])
        provenance, tokenizer = json.loads(metadata["provenance"]), metadata["tokenizer"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(path, f"its metadata is damaged ({error})") from None
    return Weights("Groundhog checkpoint", config, tensors, lambda name: name, tokenizer, provenance)


def config_from_json(text: str) -> ModelConfig:
    """The inverse of json.dumps(asdict(config)). Raises TypeError for keys that no version of ours has written."""

    def rebuilt(cls: type, values: Mapping[str, object]):
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})

    values = json.loads(text)
    backbones = {"swin": SwinBackbone, "timm": TimmBackbone}
    parts = {
        "backbone": rebuilt(backbones[values["backbone"]["kind"]], values["backbone"]),
        "text": rebuilt(TextEncoder, values["text"]),
        "denoising": rebuilt(Denoising, values["denoising"]),
    }
    return rebuilt(ModelConfig, {**values, **parts})
