"""Groundhog's own checkpoint format: a safetensors file with configuration and tokenizer in its metadata."""

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

from formats.io.errors import InputError
from formats.io.files import sha256_of, write_whole
from formats.io.toml_config import config_from_table
from formats.io.values import parse_json
from grounding_model.checkpoints.locations import locate_backbone
from grounding_model.checkpoints.timm_backbone import load_timm_backbone
from grounding_model.checkpoints.weight_names import counted
from grounding_model.inputs.tokens import CaptionTokenizer, tokenizer_to_text
from grounding_model.model.backbone import TimmFeatures, build_backbone
from grounding_model.model.config import ModelConfig
from grounding_model.model.grounding import GroundingModel

FORMAT = "groundhog-1"
LABEL_EMBEDDING = "denoising.label_embedding.weight"


class Checkpoint(NamedTuple):
    model: GroundingModel  # in evaluation mode, float32, on the CPU
    tokenizer: CaptionTokenizer
    provenance: dict[str, str]  # where the weights come from


class Weights(NamedTuple):
    """The content of a checkpoint before a model is built: tensors by our names, configuration, tokenizer."""

    kind: str  # the kind of file, for messages
    config: ModelConfig
    tensors: dict[str, Tensor]
    name_in_file: Callable[[str], str]  # our name -> name in the file, for messages
    tokenizer_source: Path | str | None  # JSON text (our files), a folder (transformers), or None if it has none
    provenance: dict[str, str]


def draw_label_embedding(tensors: dict[str, Tensor], config: ModelConfig, provenance: dict[str, str]) -> None:
    """Adds the label embedding of denoising, which only training uses and other programs do not save.

    It is random, with a fixed seed.
    """
    if LABEL_EMBEDDING not in tensors:
        shape = (config.denoising.label_table, config.width)
        tensors[LABEL_EMBEDDING] = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        provenance["label embedding of denoising"] = "not in the file, drawn at random"


def save_checkpoint(
    path: str | Path,
    model: GroundingModel,
    tokenizer: CaptionTokenizer,
    provenance: Mapping[str, str],
    half: bool = False,
    backbone: str | None = None,
) -> None:
    """Writes one `.safetensors` file atomically. half: stored as float16, at half the size.

    backbone: where the model's backbone comes from, as in locate_backbone. It is then not stored, but loaded from there
    again. Raises InputError if a weight overflows float16, or the model's backbone differs from that one.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if backbone is not None:
        tensors = _without_backbone(path, tensors, model.config, backbone)
    if half:
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
        overflowed = [name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
        if overflowed:
            raise InputError(path, f"{counted(overflowed)} not finite in float16", "store float32")
    metadata = {
        "format": FORMAT,
        "config": json.dumps(dataclasses.asdict(model.config)),
        "tokenizer": tokenizer_to_text(tokenizer),
        "provenance": json.dumps(dict(provenance), ensure_ascii=False),
    }
    if backbone is not None:
        metadata["backbone"] = json.dumps({"source": backbone, "sha256": sha256_of(locate_backbone(backbone))})
    with write_whole(path, "wb") as file:
        for part in _in_fixed_order(safetensors_bytes(tensors, metadata)):
            file.write(part)


def _without_backbone(
    path: str | Path, tensors: Mapping[str, Tensor], config: ModelConfig, source: str
) -> dict[str, Tensor]:
    theirs = _backbone_tensors(config, source)
    if changed := [name for name, tensor in theirs.items() if not torch.equal(tensor, tensors[name])]:
        remedy = "leave it in the file: it was trained"
        raise InputError(path, f"the backbone differs from {source}: {counted(changed)} changed", remedy)
    return {name: tensor for name, tensor in tensors.items() if name not in theirs}


def _backbone_tensors(config: ModelConfig, source: str) -> dict[str, Tensor]:
    """The tensors of the backbone at `source`, by our names."""
    backbone = build_backbone(config.backbone)
    if not isinstance(backbone, TimmFeatures):
        raise InputError(source, "is not a backbone of this model", "expected a model with a timm backbone")
    load_timm_backbone(backbone.network, source)
    return {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}


def _read_backbone(path: Path, text: str, config: ModelConfig) -> dict[str, Tensor]:
    source = json.loads(text)
    found = locate_backbone(source["source"])
    if sha256_of(found) != source["sha256"]:
        raise InputError(found, f"is not the backbone that {path.name} was trained with", "expected the same version")
    return _backbone_tensors(config, source["source"])


def _in_fixed_order(file: bytes) -> tuple[bytes, memoryview]:
    """A safetensors file, in two parts, with its metadata sorted; the library's order differs between processes.

    Equal models must give equal files, since labels and plans identify a model by the hash of its file.
    """
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format requires aligned tensors
    return len(text).to_bytes(8, "little") + text, memoryview(file)[8 + length :]


def refuse_to_replace(path: str | Path) -> None:
    """Raises InputError where a file is there already."""
    if Path(path).is_file():
        raise InputError(path, "already exists", "expected another name, or overwrite=True")


def is_safetensors(path: Path) -> bool:
    """Whether a file looks like safetensors, which begins with the length of its header and a brace."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


_DAMAGED = "download it or write it again"


def read_ours(path: Path) -> Weights:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise InputError(path, f"is not a complete safetensors file ({error})", _DAMAGED) from None
    if not metadata.get("format", "").startswith("groundhog-"):
        remedy = "expected a file of `groundhog train` or `groundhog weights`; for a transformers model pass its folder"
        raise InputError(path, "has no Groundhog configuration", remedy)
    if metadata["format"] != FORMAT:
        raise InputError(path, f"has format {metadata['format']}", f"this version reads {FORMAT}; update groundhog")
    try:
        config = config_from_json(metadata["config"], f"{path}: configuration")
        provenance, tokenizer = parse_json(metadata["provenance"], path, _DAMAGED), metadata["tokenizer"]
    except KeyError as error:
        raise InputError(path, f"its metadata lacks {error}", _DAMAGED) from None
    if not isinstance(provenance, dict) or not all(isinstance(each, str) for each in provenance.values()):
        raise InputError(path, "its provenance is not a table of strings", _DAMAGED)
    if "backbone" in metadata:
        tensors |= _read_backbone(path, metadata["backbone"], config)
    return Weights("Groundhog checkpoint", config, tensors, lambda name: name, tokenizer, provenance)


def config_from_json(text: str, location: object = "configuration") -> ModelConfig:
    """The inverse of json.dumps(asdict(config)). Raises InputError for any other text."""
    return config_from_table(parse_json(text, location, _DAMAGED), ModelConfig, location)
