"""Loads checkpoints of mmdet, IDEA, transformers and Groundhog, and converts them. Incomplete ones are refused.

Our format is one safetensors file with the tensors and, in its metadata, the configuration, the tokenizer and where the
weights come from. Nothing else is needed to run it.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from formats.io.errors import InputError
from formats.io.files import load_json
from formats.io.plurals import first_of
from formats.io.values import Table
from grounding_model.checkpoints.checkpoint import (
    Checkpoint,
    Weights,
    draw_label_embedding,
    is_safetensors,
    read_ours,
    refuse_to_replace,
    save_checkpoint,
)
from grounding_model.checkpoints.huggingface import read_folder, save_folder
from grounding_model.checkpoints.infer_config import Hints, config_of, hints_of_mmdet
from grounding_model.checkpoints.locations import checkpoint_hash, locate
from grounding_model.checkpoints.safe_pickle import describe_head, read_pickled_checkpoint
from grounding_model.checkpoints.weight_names import (
    MMDET_WITH_RESNET,
    MMDET_WITH_SWIN,
    NameTable,
    counted,
    counted_maps,
    idea_table,
    without_wrappers,
)
from grounding_model.inputs.tokens import CaptionTokenizer, load_tokenizer, tokenizer_from_text
from grounding_model.model.backbone import is_own_network
from grounding_model.model.config import ModelConfig, TimmBackbone
from grounding_model.model.grounding import GroundingModel

DEFAULT_TEXT_ENCODER = "bert-base-uncased"  # every published Grounding DINO reads this vocabulary


def load_checkpoint(source: str | Path, text_encoder: str | Path | None = None) -> Checkpoint:
    """Loads a model that is ready to run.

    source: "glyph-tiny" or "photo-tiny" (embedded); a `.pth` of mmdet or IDEA; a transformers folder; one of HUB_NAMES
    or "hf:owner/name" (downloaded unless it is in the local cache); or a file of ours.
    text_encoder: folder with the tokenizer (tokenizer.json or vocab.txt) for checkpoints that have none, which are all
    `.pth` files; a hub name is downloaded. By default, bert-base-uncased from the local cache.

    Raises InputError if the checkpoint is not complete, naming the tensors that are missing, unknown or of wrong shape.
    """
    path = locate(source)
    weights = read_weights(path, text_encoder)
    tokenizer = _tokenizer_of(weights, text_encoder, path)
    return Checkpoint(build_model(weights, path), tokenizer, weights.provenance)


def convert_checkpoint(
    source: str | Path,
    destination: str | Path,
    text_encoder: str | Path | None = None,
    half: bool = False,
    backbone: str | None = None,
    overwrite: bool = False,
) -> None:
    """Converts any checkpoint to our format (destination ends in .safetensors) or to a transformers folder.

    backbone: as in save_checkpoint, to leave the backbone out of our file. overwrite: replace an existing
    file; otherwise this raises InputError, since a checkpoint may be days of training.
    """
    if not overwrite:
        refuse_to_replace(destination)
    checkpoint = load_checkpoint(source, text_encoder)
    provenance = {**checkpoint.provenance, "converted from": str(source), "source sha256": checkpoint_hash(source)}
    if Path(destination).suffix == ".safetensors":
        save_checkpoint(destination, checkpoint.model, checkpoint.tokenizer, provenance, half, backbone)
    elif Path(destination).suffix:
        raise InputError(
            destination, "unknown kind of checkpoint", "expected a name ending in .safetensors, or a folder"
        )
    else:
        save_folder(destination, checkpoint.model, checkpoint.tokenizer, half)


def inspect(source: str | Path, text_encoder: str | Path | None = None) -> str:
    """`groundhog weights inspect`: kind, architecture, dimensions, provenance, and what is missing, as text."""
    path = locate(source)
    weights = read_weights(path, text_encoder)
    numbers = sum(tensor.numel() for tensor in weights.tensors.values())
    lines = [f"{path}: {weights.kind}", f"{len(weights.tensors)} tensors, {numbers / 1e6:.1f} million numbers"]
    lines += _described(dataclasses.asdict(weights.config))
    elsewhere = f"from {text_encoder}" if text_encoder else "missing; pass a BERT folder, which has one"
    lines.append(f"tokenizer: {'included' if weights.tokenizer_source else elsewhere}")
    lines += _described({key: _readable(value) for key, value in weights.provenance.items()}, "")
    problems = _problems(weights, path)
    return "\n".join([*lines, f"incomplete: {'; '.join(problems)}" if problems else "complete: nothing is missing"])


def _described(config: Mapping[str, object], indent: str = "  ") -> list[str]:
    """One line per value: `name: value` at the outermost level, `name = value` below it, nested values indented."""
    lines = []
    for name, value in config.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{name}", *_described(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name} = {value}" if indent else f"{name}: {value}")
    return lines


def _readable(text: str) -> object:
    """Parses the repr of a training setting into dicts; returns any other string unchanged."""
    try:
        return _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text


def _value(node: ast.expr) -> object:
    """The value of a literal, or a dict for the repr of a dataclass. Raises ValueError for anything else."""
    if isinstance(node, ast.Call):
        if node.args or not all(each.arg for each in node.keywords):
            raise ValueError("not a dataclass")
        return {each.arg: _value(each.value) for each in node.keywords}
    if isinstance(node, ast.Tuple | ast.List) and any(isinstance(each, ast.Call) for each in node.elts):
        return {str(number): _value(each) for number, each in enumerate(node.elts, 1)}
    return ast.literal_eval(node)


# --- reading any kind of checkpoint


def read_weights(path: Path, text_encoder: str | Path | None = None) -> Weights:
    """Reads a checkpoint of any kind, with tensors by our names and the configuration, without building a model."""
    if path.is_dir():
        return read_folder(path)
    if not path.is_file():
        raise InputError(path, "no such file", "expected the path of a checkpoint")
    if is_safetensors(path):
        return read_ours(path)
    if path.suffix.lower() == ".onnx":
        what = "is an ONNX file, which can detect, but not be trained or converted"
        raise InputError(path, what, "expected the folder of the student that it was exported from")
    if path.suffix == ".safetensors":
        what = describe_head(path).replace("is not a PyTorch file", "is not a safetensors file")
        raise InputError(path, what, "expected a complete safetensors file: download it or write it again")
    return _read_pickled(path, text_encoder)


# --- .pth files of mmdet and IDEA


def _read_pickled(path: Path, text_encoder: str | Path | None) -> Weights:
    tensors, meta = read_pickled_checkpoint(path)
    tensors = without_wrappers(tensors, path)
    _check_language_model(tensors, path)
    if any(name.startswith("transformer.") for name in tensors):
        return _read_idea(tensors, path, text_encoder)
    return _read_mmdet(tensors, meta, path, text_encoder)


def _read_idea(tensors: dict[str, Tensor], path: Path, text_encoder: str | Path | None) -> Weights:
    # Files have these tensors under one of two names, or both.
    decoder = "transformer.decoder.bbox_embed."
    boxes = {name.removeprefix("transformer.decoder."): t for name, t in tensors.items() if name.startswith(decoder)}
    layers = {name.split(".")[3] for name in tensors if name.startswith("transformer.decoder.layers.")}
    table = idea_table(counted_maps(tensors, "input_proj"), len(layers))
    ours = table.to_ours(tensors | boxes, path)
    provenance = {"source": path.name, "architecture": "Grounding DINO"}
    config = config_of(ours, _with_text_encoder(Hints(), text_encoder), path, table.name_in_file)
    draw_label_embedding(ours, config, provenance)
    return Weights("IDEA's checkpoint", config, ours, table.name_in_file, None, provenance)


def _check_language_model(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises InputError for a Grounding DINO without BERT, as some trainers that freeze BERT save it."""
    around = {"text_feat_map.": "language_model.", "transformer.encoder.text_layers.": "bert."}
    for neighbour, language_model in around.items():
        known = any(name.startswith(neighbour) for name in tensors)
        if known and not any(name.startswith(language_model) for name in tensors):
            raise InputError(
                path,
                f"contains no language model (tensors named {language_model}*)",
                "expected a checkpoint that includes BERT",
            )


def _read_mmdet(
    tensors: dict[str, Tensor], meta: Mapping[str, object], path: Path, text_encoder: str | Path | None
) -> Weights:
    table = _mmdet_table(tensors, path)
    hints = hints_of_mmdet(str(meta.get("cfg", meta.get("config", ""))), path)
    hints = _with_text_encoder(hints, text_encoder)
    ours = table.to_ours(tensors, path)
    kept = ("epoch", "iter", "experiment_name", "time", "mmengine_version", "mmdet_version", "seed")
    provenance = {"source": path.name, **{f"mmdet {key}": str(meta[key]) for key in kept if key in meta}}
    return Weights(
        "mmdet checkpoint",
        config_of(ours, hints, path, table.name_in_file),
        ours,
        table.name_in_file,
        None,
        provenance,
    )


def _mmdet_table(tensors: Mapping[str, Tensor], path: Path) -> NameTable:
    if any(name.startswith("model.text_backbone.") for name in tensors):
        raise InputError(path, "is the weights file of a transformers folder", "pass the folder, with its config.json")
    if not any(name.startswith("language_model.") for name in tensors):
        what = f"is not a Grounding DINO: its tensors are {first_of(sorted(tensors), 3)}"
        raise InputError(path, what, "expected a Grounding DINO checkpoint of mmdet or IDEA")
    if "backbone.patch_embed.projection.weight" in tensors:
        return MMDET_WITH_SWIN
    if "backbone.conv1.weight" in tensors:
        return MMDET_WITH_RESNET
    # A Swin file that lacks only that tensor, so that the error names it.
    if any(name.startswith("backbone.stages.") for name in tensors):
        return MMDET_WITH_SWIN
    raise InputError(path, "has an unknown backbone", "expected Swin or ResNet")


def _with_text_encoder(hints: Hints, text_encoder: str | Path | None) -> Hints:
    """Adds the numbers of heads and layers of BERT from the text encoder's folder, which a .pth does not contain."""
    config = Path(text_encoder or "") / "config.json"
    if text_encoder is None or not config.is_file():
        return hints
    remedy = "expected the config.json of a BERT, with num_attention_heads"
    values = Table(load_json(config, remedy), config, remedy)
    return dataclasses.replace(
        hints,
        bert_heads=values.whole("num_attention_heads", low=1, high=1000),
        bert_layers=values.whole("num_hidden_layers", None, low=1, high=1000),
        bert_dropout=values.number("hidden_dropout_prob", hints.bert_dropout, 0.0, 1.0),
    )


# --- building the model


def build_model(weights: Weights, location: object) -> GroundingModel:
    """The model with these weights. Raises InputError naming tensors that are missing, unknown or of wrong shape."""
    problems = _problems(weights, location)
    if problems:
        raise InputError(location, "; ".join(problems), "expected the complete checkpoint")
    model = _new_model(weights.config, location)
    expected = model.state_dict()
    model.load_state_dict({name: t.reshape(expected[name].shape) for name, t in weights.tensors.items()}, strict=True)
    return model.eval()


_DRAWN = (torch.rand, torch.randn)
_FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.full)


class _SkipInitialisation(TorchFunctionMode):
    """Skips the random initialisation of weights that are about to be loaded, to save time.

    without_memory: create parameters on the meta device, with a shape but no memory. Only factory functions are
    redirected: inside torch.device("meta"), any calculation in an __init__ imports torch's compiler, which takes two
    seconds.
    """

    def __init__(self, without_memory: bool) -> None:
        super().__init__()
        self.without_memory = without_memory

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0].zero_()  # trunc_normal_ draws again until all values are in range
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if func in _DRAWN:
            func = torch.empty
        if self.without_memory and func in _FACTORIES:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _new_model(config: ModelConfig, location: object, without_memory: bool = False) -> GroundingModel:
    """The model with arbitrary weights."""
    # timm's networks calculate with tensors when they are built, so all of these must be on the meta device.
    of_timm = isinstance(config.backbone, TimmBackbone) and not is_own_network(config.backbone)
    try:
        with torch.device("meta") if without_memory and of_timm else nullcontext(), _SkipInitialisation(without_memory):
            return GroundingModel(config)
    except Exception as error:  # timm and transformers can raise nearly anything
        what = f"no model can have these dimensions ({str(error).strip().partition(chr(10))[0]})"
        raise InputError(location, what, "expected the configuration that the weights were trained with") from None


def _problems(weights: Weights, location: object) -> list[str]:
    """The tensors that are missing, unknown or of wrong shape for the configuration, by their names in the file.

    The model for comparison uses no memory, whatever dimensions the file claims.
    """
    model = _new_model(weights.config, location, without_memory=True)
    expected, tensors, name = model.state_dict(), weights.tensors, weights.name_in_file
    problems = []
    if missing := [name(key) for key in expected if key not in tensors]:
        problems.append(f"{counted(missing)} missing")
    if extra := [name(key) for key in tensors if key not in expected]:
        problems.append(f"{counted(extra)} not in this model")
    wrong_shapes = [
        f"{name(key)} {tuple(tensors[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in tensors and not _fits(tensors[key], tensor)
    ]
    return problems + ([f"{counted(wrong_shapes)} of wrong shape"] if wrong_shapes else [])


def _fits(tensor: Tensor, wanted: Tensor) -> bool:
    """Whether shapes are equal; a single number may have an axis or not, as class biases do."""
    return tensor.shape == wanted.shape or tensor.numel() == wanted.numel() == 1


def _tokenizer_of(weights: Weights, text_encoder: str | Path | None, path: Path) -> CaptionTokenizer:
    if isinstance(weights.tokenizer_source, str):
        tokenizer = tokenizer_from_text(weights.tokenizer_source)
    elif text_encoder is not None:
        tokenizer = load_tokenizer(text_encoder, local_files_only=not _is_hub_name(text_encoder))
    elif weights.tokenizer_source is not None:
        tokenizer = load_tokenizer(weights.tokenizer_source)
    else:
        tokenizer = _cached_tokenizer(path)
    words, rows = max(tokenizer.get_vocab().values()) + 1, weights.config.text.vocab_size
    if words > rows:
        raise InputError(
            text_encoder or path,
            f"the tokenizer has {words} words, the checkpoint has {rows}",
            "expected the tokenizer that the checkpoint was trained with",
        )
    return tokenizer


def _cached_tokenizer(path: Path) -> CaptionTokenizer:
    try:
        return load_tokenizer(DEFAULT_TEXT_ENCODER)
    except InputError:
        raise InputError(
            path,
            f"contains no tokenizer, and {DEFAULT_TEXT_ENCODER} is not in the local cache",
            f"expected text_encoder=FOLDER with a vocab.txt, or text_encoder={DEFAULT_TEXT_ENCODER!r} to download it",
        ) from None


def _is_hub_name(source: str | Path) -> bool:
    return not Path(source).exists() and re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", str(source)) is not None
