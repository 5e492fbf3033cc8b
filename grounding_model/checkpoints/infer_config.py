"""Infers the configuration of a model from its tensors and the settings stored with them.

Widths, depths, levels and table sizes follow from shapes. Numbers of heads and dropout rates do not; they come from the
configuration in the file, which is parsed as data, or default to those of the official models.
"""

from __future__ import annotations

import ast
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch import Tensor

from formats.io.errors import InputError
from grounding_model.model.config import Denoising, ModelConfig, SwinBackbone, TextEncoder, TimmBackbone

log = logging.getLogger(__name__)

OFFICIAL = ModelConfig()
OFFICIAL_BERT_HEAD = 64  # channels of one head in every published BERT
OFFICIAL_BERT_WIDTHS = (128, 256, 512, 768, 1024)
RESNET_BY_BLOCKS = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152"}
Tensors = Mapping[str, Tensor]
NameInFile = Callable[[str], str]


@dataclass(frozen=True)
class Hints:
    """Settings that do not follow from shapes, by default those of the official models.

    bert_heads: None means one per 64 channels.
    """

    heads: int = OFFICIAL.heads
    text_heads: int = OFFICIAL.text_heads
    fusion_heads: int = OFFICIAL.fusion_heads
    bert_heads: int | None = None
    bert_dropout: float = OFFICIAL.text.dropout
    swin_drop_path: float | None = None  # None: that of the official variant with this width
    fusion_dropout: float = OFFICIAL.fusion_dropout
    dropout: float = OFFICIAL.dropout
    max_text_tokens: int = OFFICIAL.max_text_tokens
    fixed_scale: Literal["sqrt_width", "none"] | None = None  # None: sqrt_width with a bias, as in the official models
    denoising: Denoising = OFFICIAL.denoising
    # Expected numbers, if the configuration has them: a file without its last layer looks complete otherwise.
    encoder_layers: int | None = None
    bert_layers: int | None = None
    swin_depths: tuple[int, ...] | None = None


def config_of(tensors: Tensors, hints: Hints, location: object, name_in_file: NameInFile = str) -> ModelConfig:
    """The configuration of the model whose tensors, by our names, are `tensors`.

    Raises InputError if a tensor needed to infer a dimension is missing (by its name in the file), or the dimensions
    are inconsistent.
    """
    try:
        config = _config_of(tensors, hints)
    except KeyError as error:
        raise InputError(
            location, f"{name_in_file(error.args[0])} is missing", "expected the complete checkpoint"
        ) from None
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise InputError(location, f"its tensors do not fit any Grounding DINO ({error})") from None
    _check_counts(config, hints, location)
    return config


def _check_counts(config: ModelConfig, hints: Hints, location: object) -> None:
    counts: list[tuple[str, object, object]] = [
        ("encoder layers", config.encoder_layers, hints.encoder_layers),
        ("BERT layers", config.text.layers, hints.bert_layers),
    ]
    if isinstance(config.backbone, SwinBackbone):
        counts.append(("Swin blocks", config.backbone.depths, hints.swin_depths))
    for what, count, expected in counts:
        if expected is not None and count != expected:
            what = f"{what}: {count} in the file, {expected} in the configuration"
            raise InputError(location, what, "expected the complete checkpoint")


def _config_of(tensors: Tensors, hints: Hints) -> ModelConfig:
    levels, width = tensors["level_embedding"].shape
    encoder, decoder = "encoder.layers.0", "decoder.layers.0"
    offsets = tensors[f"{decoder}.image_attention.offsets.bias"].shape[0]
    for name, parts in (("heads", hints.heads), ("text heads", hints.text_heads)):
        if width % parts:
            raise ValueError(f"{width} channels cannot be divided among {parts} {name}")
    return ModelConfig(
        backbone=_backbone_of(tensors, hints),
        text=_text_encoder_of(tensors, hints),
        width=width,
        levels=levels,
        queries=tensors["query_selection.content.weight"].shape[0],
        encoder_layers=_count(tensors, r"encoder\.layers\.(\d+)\."),
        decoder_layers=_count(tensors, r"regress\.(\d+)\.") - 1,
        heads=hints.heads,
        points=_whole(offsets, 2 * hints.heads * levels),
        feedforward=tensors[f"{encoder}.image.feedforward.expand.bias"].shape[0],
        text_heads=hints.text_heads,
        text_feedforward=tensors[f"{encoder}.text.feedforward.expand.bias"].shape[0],
        fusion_width=tensors[f"{encoder}.fusion.image_query.bias"].shape[0],
        fusion_heads=hints.fusion_heads,
        fusion_dropout=hints.fusion_dropout,
        dropout=hints.dropout,
        max_text_tokens=hints.max_text_tokens,
        contrastive_scale=_scale_of(tensors, hints),
        contrastive_bias="classify.0.bias" in tensors,
        denoising=_denoising_of(tensors, hints),
    )


def _scale_of(tensors: Tensors, hints: Hints) -> Literal["sqrt_width", "learned", "none"]:
    if "classify.0.log_scale" in tensors:
        return "learned"
    return hints.fixed_scale or ("sqrt_width" if "classify.0.bias" in tensors else "none")


def _denoising_of(tensors: Tensors, hints: Hints) -> Denoising:
    table = tensors.get("denoising.label_embedding.weight")
    return hints.denoising if table is None else replace(hints.denoising, label_table=table.shape[0])


def _text_encoder_of(tensors: Tensors, hints: Hints) -> TextEncoder:
    bert = "text_encoder.bert"
    vocabulary, width = tensors[f"{bert}.embeddings.word_embeddings.weight"].shape
    return TextEncoder(
        vocab_size=vocabulary,
        width=width,
        layers=_count(tensors, r"text_encoder\.bert\.encoder\.layer\.(\d+)\."),
        heads=hints.bert_heads or _official_bert_heads(width),
        feedforward=tensors[f"{bert}.encoder.layer.0.intermediate.dense.bias"].shape[0],
        positions=tensors[f"{bert}.embeddings.position_embeddings.weight"].shape[0],
        dropout=hints.bert_dropout,
    )


def _official_bert_heads(width: int) -> int:
    heads = _whole(width, OFFICIAL_BERT_HEAD)
    if width not in OFFICIAL_BERT_WIDTHS:
        log.warning(
            "the file does not contain the number of heads of this BERT of %d channels; using %d. "
            "If that is wrong, all results are wrong: pass a text encoder folder with config.json",
            width,
            heads,
        )
    return heads


def _backbone_of(tensors: Tensors, hints: Hints) -> SwinBackbone | TimmBackbone:
    if "backbone.network.conv1.weight" in tensors:
        return _resnet_of(tensors)
    stages = range(_count(tensors, r"backbone\.stages\.(\d+)\."))
    tables = [tensors[f"backbone.stages.{stage}.0.attention.relative_position_bias_table"].shape for stage in stages]
    width = tensors["backbone.patch_embed.bias"].shape[0]
    drop_path = hints.swin_drop_path
    if drop_path is None:  # the official Swin-B was trained with a higher rate than T and L
        drop_path = 0.3 if width == 128 else 0.2
    return SwinBackbone(
        embed_dim=width,
        depths=tuple(_count(tensors, rf"backbone\.stages\.{stage}\.(\d+)\.") for stage in stages),
        heads=tuple(heads for _, heads in tables),
        window=(math.isqrt(tables[0][0]) + 1) // 2,  # a table has (2 window - 1)^2 rows
        out_stages=tuple(stage for stage in stages if f"backbone.out_norms.{stage}.weight" in tensors),
        drop_path=drop_path,
    )


def _resnet_of(tensors: Tensors) -> TimmBackbone:
    blocks = tuple(_count(tensors, rf"backbone\.network\.layer{stage}\.(\d+)\.") for stage in range(1, 5))
    if blocks not in RESNET_BY_BLOCKS or "backbone.network.layer1.0.conv3.weight" not in tensors:
        raise ValueError(f"a ResNet with {blocks} blocks; expected one of {', '.join(RESNET_BY_BLOCKS.values())}")
    channels = {256: 1, 512: 2, 1024: 3, 2048: 4}  # channels -> stage of these networks
    laterals = [
        tensors[f"neck.laterals.{lateral}.conv.weight"].shape[1]
        for lateral in range(_count(tensors, r"neck\.laterals\.(\d+)\."))
    ]
    return TimmBackbone(name=RESNET_BY_BLOCKS[blocks], out_indices=tuple(channels[count] for count in laterals))


def _numbers(tensors: Tensors, pattern: str) -> set[int]:
    return {int(match[1]) for match in map(re.compile(pattern).match, tensors) if match}


def _count(tensors: Tensors, pattern: str) -> int:
    """The largest number matched by the group of the pattern, plus one. Raises KeyError if nothing matches."""
    numbers = _numbers(tensors, pattern)
    if not numbers:
        raise KeyError(pattern.replace(r"(\d+)", "0").replace("\\", "").rstrip("."))
    return max(numbers) + 1


def _whole(total: int, part: int) -> int:
    if total % part:
        raise ValueError(f"{total} is not a multiple of {part}; the number of heads differs from the official one")
    return total // part


# --- settings from mmengine's configuration


def hints_of_mmdet(config_text: str, location: object) -> Hints:
    """Hints from the configuration, which mmengine stores as Python source. It is parsed, never executed.

    Raises InputError for a model that is not supported.
    """
    model = python_literals(config_text).get("model")
    if not isinstance(model, dict):
        return Hints()
    setting = partial(_setting, model)
    heads = setting("encoder.layer_cfg.self_attn_cfg.num_heads", OFFICIAL.heads)
    for attention in ("self_attn_cfg", "cross_attn_text_cfg", "cross_attn_cfg"):
        if setting(f"decoder.layer_cfg.{attention}.num_heads", heads) != heads:
            raise InputError(
                location, f"decoder {attention} and the encoder differ in heads", "expected the same number"
            )
    if setting("positional_encoding.temperature", 20) != 20 or not setting("positional_encoding.normalize", True):
        raise InputError(location, "has an unsupported positional encoding", "expected temperature 20, normalised")
    official = Denoising()
    groups = setting("dn_cfg.group_cfg.num_dn_queries", official.queries)
    log_scale = setting("bbox_head.contrastive_cfg.log_scale", None)
    return Hints(
        heads=heads,
        text_heads=setting("encoder.text_layer_cfg.self_attn_cfg.num_heads", OFFICIAL.text_heads),
        fusion_heads=setting("encoder.fusion_layer_cfg.num_heads", OFFICIAL.fusion_heads),
        swin_drop_path=setting("backbone.drop_path_rate", None),
        fusion_dropout=setting("encoder.fusion_layer_cfg.dropout", OFFICIAL.fusion_dropout),
        dropout=setting("decoder.layer_cfg.self_attn_cfg.dropout", OFFICIAL.dropout),
        max_text_tokens=setting("bbox_head.contrastive_cfg.max_text_len", OFFICIAL.max_text_tokens),
        fixed_scale="sqrt_width" if log_scale == "auto" else "none" if log_scale in (None, "none") else None,
        encoder_layers=_count_or_none(setting("encoder.num_layers", None)),
        swin_depths=_depths(setting("backbone.depths", None)),
        denoising=Denoising(
            queries=groups or official.queries,
            label_noise=setting("dn_cfg.label_noise_scale", official.label_noise),
            box_noise=setting("dn_cfg.box_noise_scale", official.box_noise),
        ),
    )


def _count_or_none(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _depths(value: object) -> tuple[int, ...] | None:
    return tuple(value) if isinstance(value, list) and all(isinstance(each, int) for each in value) else None


def _setting(model: Mapping[str, object], path: str, default):
    value: object = model
    for key in path.split("."):
        if not isinstance(value, Mapping) or value.get(key) is None:
            return default
        value = value[key]
    return value


def python_literals(text: str) -> dict[str, object]:
    """The values of assignments in Python source, by name: literals and `dict(…)`; None for everything else."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deeply
        return {}
    return {
        statement.targets[0].id: _literal(statement.value)
        for statement in tree.body
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    }


def _literal(node: ast.expr) -> object:
    match node:
        case ast.Constant():
            return node.value
        case ast.List() | ast.Tuple():
            return [_literal(item) for item in node.elts]
        case ast.Dict():
            keys = [None if key is None else _literal(key) for key in node.keys]
            return {key: _literal(value) for key, value in zip(keys, node.values) if isinstance(key, str | int)}
        case ast.Call(func=ast.Name(id="dict")):
            return {keyword.arg: _literal(keyword.value) for keyword in node.keywords if keyword.arg}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
    return None
