"""Maps tensor names between checkpoints of other programs (mmdet, IDEA, transformers, Swin) and ours.

A row pairs one of their names with ours. `{i}` and `{j}` stand for numbers, and the rest of a name (`.weight`, `.bias`,
a whole subtree) is kept. Where several of their tensors make up one of ours, they are stacked in the given order. A
table works in both directions. A tensor that matches no row is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from formats.io.errors import InputError
from formats.io.plurals import first_of, verb

# Parts that DistributedDataParallel, torch.compile, FSDP and activation checkpointing insert into tensor names.
WRAPPERS = frozenset(("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
OWNER = "model"


def without_wrappers(tensors: Mapping[str, Tensor], location: object) -> dict[str, Tensor]:
    """The tensors by their names without wrappers. Raises InputError if two tensors get the same name.

    A trainer with the network as its attribute `model` puts that before every name; it is removed too.
    """
    plain: dict[str, Tensor] = {}
    kept = [[part for part in name.split(".") if part not in WRAPPERS] for name in tensors]
    owned = bool(kept) and all(parts[0] == OWNER and len(parts) > 1 for parts in kept)
    of_transformers = any(parts[:2] == [OWNER, "text_backbone"] for parts in kept)  # part of its names, not a wrapper
    drop = 1 if owned and not of_transformers else 0
    for parts, (name, tensor) in zip(kept, tensors.items()):
        short = ".".join(parts[drop:])
        if short in plain:
            raise InputError(location, f"contains {short} twice, once as {name}", "expected one model per file")
        plain[short] = tensor
    return plain


class TensorChange(NamedTuple):
    """A conversion of a tensor's values, in both directions."""

    to_ours: Callable[[Tensor], Tensor]
    to_theirs: Callable[[Tensor], Tensor]


def _patches_to_timm(x: Tensor) -> Tensor:
    """mmdet flattens 2 x 2 patches as (channel, row, column), timm as (column, row, channel); the last axis changes."""
    patches = x.unflatten(-1, (-1, 2, 2))
    return patches.transpose(-1, -3).flatten(-3).contiguous()


def _patches_to_mmdet(x: Tensor) -> Tensor:
    """The inverse of _patches_to_timm."""
    patches = x.unflatten(-1, (2, 2, -1))
    return patches.transpose(-1, -3).flatten(-3).contiguous()


KEEP = TensorChange(lambda x: x, lambda x: x)
PATCH_ORDER = TensorChange(_patches_to_timm, _patches_to_mmdet)


class Row(NamedTuple):
    theirs: tuple[str, ...]
    ours: str
    change: TensorChange = KEEP


class Ignored(NamedTuple):
    """A pattern of names in files that are not needed: not learned, or not used."""

    pattern: str
    reason: str


class NameTable:
    """The rows for one kind of file; see to_ours and to_theirs."""

    def __init__(self, rows: Iterable[Row], ignored: Sequence[Ignored]) -> None:
        rows = list(rows)
        self._in = [(_pattern(their), row, part) for row in rows for part, their in enumerate(row.theirs)]
        self._out = [(_pattern(row.ours), row) for row in rows]
        self._ignored = [re.compile(entry.pattern) for entry in ignored]

    def to_ours(self, tensors: Mapping[str, Tensor], location: object) -> dict[str, Tensor]:
        """The tensors by our names. Raises InputError for names without a row, and for incomplete stacks."""
        parts: dict[str, dict[int, Tensor]] = {}
        rows: dict[str, Row] = {}
        unknown = []
        for name, tensor in tensors.items():
            if any(pattern.search(name) for pattern in self._ignored):
                continue
            found = self._match_in(name)
            if found is None:
                unknown.append(name)
                continue
            row, part, ours = found
            if part in parts.setdefault(ours, {}):
                raise InputError(location, f"{name} and another tensor are both {ours}", "expected one model per file")
            parts[ours][part], rows[ours] = tensor, row
        if unknown:
            raise InputError(location, f"{counted(unknown)} not in this architecture", "expected a Grounding DINO")
        absent = [
            their
            for ours, pieces in parts.items()
            for part, their in enumerate(self.theirs_of(ours))
            if part not in pieces
        ]
        if absent:
            raise InputError(location, f"{counted(absent)} missing", "expected the complete checkpoint")
        return {ours: _joined(pieces, rows[ours], location, self.theirs_of(ours)[0]) for ours, pieces in parts.items()}

    def to_theirs(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors by their names. Raises KeyError with the first of our names that has no row."""
        renamed: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            row = self._match_out(name)[0]
            names, theirs = self.theirs_of(name), row.change.to_theirs(tensor)
            renamed.update(zip(names, theirs.chunk(len(names)) if len(names) > 1 else [theirs], strict=True))
        return renamed

    def theirs_of(self, ours: str) -> list[str]:
        """Their name of one of our tensors, or their names if it is a stack."""
        row, match = self._match_out(ours)
        return [_filled(their, match) for their in row.theirs]

    def name_in_file(self, ours: str) -> str:
        """For messages: the first of theirs_of, or our name if there is no row."""
        try:
            return self.theirs_of(ours)[0]
        except KeyError:
            return ours

    def _match_in(self, name: str) -> tuple[Row, int, str] | None:
        for pattern, row, part in self._in:
            if match := pattern.fullmatch(name):
                return row, part, _filled(row.ours, match)
        return None

    def _match_out(self, name: str) -> tuple[Row, re.Match[str]]:
        for pattern, row in self._out:
            if match := pattern.fullmatch(name):
                return row, match
        raise KeyError(name)


def counted(names: Sequence[str], shown: int = 3) -> str:
    """A list of names for a message, with its verb: `a, b, c and 7 more are`."""
    return f"{first_of(names, shown)} {verb(len(names), 'is', 'are')}"


def _pattern(template: str) -> re.Pattern[str]:
    numbered = re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", re.escape(template))
    return re.compile(rf"{numbered}(?P<rest>\..+)?")


def _filled(template: str, match: re.Match[str]) -> str:
    fields = match.groupdict()
    rest = fields.pop("rest") or ""
    return template.format(**fields) + rest


def _joined(tensors: Mapping[int, Tensor], row: Row, location: object, name: str) -> Tensor:
    parts = [tensors[part] for part in sorted(tensors)]
    try:
        return row.change.to_ours(parts[0] if len(parts) == 1 else torch.cat(parts))
    except (RuntimeError, IndexError) as error:
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        raise InputError(location, f"{name} has an impossible shape {shapes} ({error})") from None


def _rows(pairs: str, their_prefix: str = "", our_prefix: str = "", change: TensorChange = KEEP) -> list[Row]:
    """One row per line: `their name   our name`; several of theirs are separated by commas."""
    rows = []
    for line in pairs.strip().splitlines():
        theirs, ours = line.split()
        rows.append(Row(tuple(their_prefix + name for name in theirs.split(",")), our_prefix + ours, change))
    return rows


# --- mmdet 3: GroundingDINO. The last entry of cls_branches and reg_branches is for the encoder's proposals.

MMDET_SWIN = [
    *_rows("downsample   downsamples.{i}", "backbone.stages.{i}.", "backbone.", PATCH_ORDER),
    *_rows(
        """
        patch_embed.projection   patch_embed
        patch_embed.norm         patch_norm
        norm{i}                  out_norms.{i}
        """,
        "backbone.",
        "backbone.",
    ),
    *_rows(
        """
        norm1                                     norm1
        attn.w_msa.relative_position_bias_table   attention.relative_position_bias_table
        attn.w_msa.qkv                            attention.qkv
        attn.w_msa.proj                           attention.proj
        norm2                                     norm2
        ffn.layers.0.0                            mlp.fc1
        ffn.layers.1                              mlp.fc2
        """,
        "backbone.stages.{i}.blocks.{j}.",
        "backbone.stages.{i}.{j}.",
    ),
]
# The ResNets of mmdet and timm both use torchvision's names.
MMDET_RESNET = _rows("backbone   backbone.network")

_DEFORMABLE = """
    sampling_offsets    offsets
    attention_weights   weights
    value_proj          value
    output_proj         output
"""

_FUSION = """
    gamma_v               image_scale
    gamma_l               text_scale
    layer_norm_v          image_norm
    layer_norm_l          text_norm
    attn.v_proj           image_query
    attn.l_proj           text_key
    attn.values_v_proj    image_value
    attn.values_l_proj    text_value
    attn.out_v_proj       image_output
    attn.out_l_proj       text_output
"""

MMDET_TRANSFORMER = [
    *_rows(
        """
        level_embed                                        level_embedding
        neck.convs.{i}.conv                                neck.laterals.{i}.conv
        neck.convs.{i}.gn                                  neck.laterals.{i}.norm
        neck.extra_convs.{i}.conv                          neck.extras.{i}.conv
        neck.extra_convs.{i}.gn                            neck.extras.{i}.norm
        language_model.language_backbone.body.model        text_encoder.bert
        text_feat_map                                      text_encoder.projection
        memory_trans_fc                                    query_selection.projection
        memory_trans_norm                                  query_selection.norm
        query_embedding                                    query_selection.content
        decoder.ref_point_head.layers.0                    decoder.position.hidden
        decoder.ref_point_head.layers.1                    decoder.position.output
        decoder.norm                                       decoder.norm
        bbox_head.cls_branches.{i}                         classify.{i}
        bbox_head.reg_branches.{i}                         regress.{i}
        dn_query_generator.label_embedding                 denoising.label_embedding
        """
    ),
    *_rows(_FUSION, "encoder.fusion_layers.{i}.", "encoder.layers.{i}.fusion."),
    *_rows(
        """
        self_attn.attn.in_proj_weight   attention.in_proj_weight
        self_attn.attn.in_proj_bias     attention.in_proj_bias
        self_attn.attn.out_proj         attention.out_proj
        norms.0                         attention_norm
        ffn.layers.0.0                  feedforward.expand
        ffn.layers.1                    feedforward.shrink
        norms.1                         feedforward_norm
        """,
        "encoder.text_layers.{i}.",
        "encoder.layers.{i}.text.",
    ),
    *_rows(_DEFORMABLE, "encoder.layers.{i}.self_attn.", "encoder.layers.{i}.image.attention."),
    *_rows(
        """
        norms.0          attention_norm
        ffn.layers.0.0   feedforward.expand
        ffn.layers.1     feedforward.shrink
        norms.1          feedforward_norm
        """,
        "encoder.layers.{i}.",
        "encoder.layers.{i}.image.",
    ),
    *_rows(_DEFORMABLE, "decoder.layers.{i}.cross_attn.", "decoder.layers.{i}.image_attention."),
    *_rows(
        """
        self_attn.attn.in_proj_weight         self_attention.in_proj_weight
        self_attn.attn.in_proj_bias           self_attention.in_proj_bias
        self_attn.attn.out_proj               self_attention.out_proj
        norms.0                               self_norm
        cross_attn_text.attn.in_proj_weight   text_attention.in_proj_weight
        cross_attn_text.attn.in_proj_bias     text_attention.in_proj_bias
        cross_attn_text.attn.out_proj         text_attention.out_proj
        norms.1                               text_norm
        norms.2                               image_norm
        ffn.layers.0.0                        feedforward.expand
        ffn.layers.1                          feedforward.shrink
        norms.3                               feedforward_norm
        """,
        "decoder.layers.{i}.",
        "decoder.layers.{i}.",
    ),
]

MMDET_IGNORED = (
    Ignored(r"\.relative_position_index$", "follows from the window"),
    Ignored(r"\.embeddings\.position_ids$", "0, 1, 2, …; stored by BertModel of transformers before 4.31"),
    Ignored(r"\.body\.model\.pooler\.dense\.", "the output of BERT's pooler is not used"),
)

MMDET_WITH_SWIN = NameTable([*MMDET_SWIN, *MMDET_TRANSFORMER], MMDET_IGNORED)
MMDET_WITH_RESNET = NameTable([*MMDET_RESNET, *MMDET_TRANSFORMER], MMDET_IGNORED)


def counted_maps(tensors: Mapping[str, Tensor], projections: str) -> int:
    """The number of feature maps of the backbone: their projections are 1 x 1, those of extra levels 3 x 3."""
    weights = (tensors.get(f"{projections}.{level}.0.weight") for level in range(8))
    return sum(weight is not None and weight.dim() == 4 and weight.shape[-1] == 1 for weight in weights)


# --- IDEA's GroundingDINO, the original. The norms of its decoder are not numbered in the order of their use.

IDEA_TRANSFORMER = [
    *_rows(
        """
        patch_embed.proj        patch_embed
        patch_embed.norm        patch_norm
        layers.{i}.downsample   downsamples.{i}
        norm{i}                 out_norms.{i}
        """,
        "backbone.0.",
        "backbone.",
    ),
    *_rows(
        """
        norm1                               norm1
        attn.relative_position_bias_table   attention.relative_position_bias_table
        attn.qkv                            attention.qkv
        attn.proj                           attention.proj
        norm2                               norm2
        mlp.fc1                             mlp.fc1
        mlp.fc2                             mlp.fc2
        """,
        "backbone.0.layers.{i}.blocks.{j}.",
        "backbone.stages.{i}.{j}.",
    ),
    *_rows(
        """
        bert                       text_encoder.bert
        feat_map                   text_encoder.projection
        bbox_embed.{i}.layers.0    regress.{i}.0
        bbox_embed.{i}.layers.1    regress.{i}.2
        bbox_embed.{i}.layers.2    regress.{i}.4
        """
    ),
    *_rows(
        """
        level_embed                      level_embedding
        enc_output                       query_selection.projection
        enc_output_norm                  query_selection.norm
        tgt_embed                        query_selection.content
        decoder.ref_point_head.layers.0  decoder.position.hidden
        decoder.ref_point_head.layers.1  decoder.position.output
        decoder.norm                     decoder.norm
        """,
        "transformer.",
    ),
    *_rows(_FUSION, "transformer.encoder.fusion_layers.{i}.", "encoder.layers.{i}.fusion."),
    *_rows(
        """
        self_attn   attention
        norm1       attention_norm
        linear1     feedforward.expand
        linear2     feedforward.shrink
        norm2       feedforward_norm
        """,
        "transformer.encoder.text_layers.{i}.",
        "encoder.layers.{i}.text.",
    ),
    *_rows(_DEFORMABLE, "transformer.encoder.layers.{i}.self_attn.", "encoder.layers.{i}.image.attention."),
    *_rows(
        """
        norm1     attention_norm
        linear1   feedforward.expand
        linear2   feedforward.shrink
        norm2     feedforward_norm
        """,
        "transformer.encoder.layers.{i}.",
        "encoder.layers.{i}.image.",
    ),
    *_rows(_DEFORMABLE, "transformer.decoder.layers.{i}.cross_attn.", "decoder.layers.{i}.image_attention."),
    *_rows(
        """
        self_attn     self_attention
        norm2         self_norm
        ca_text       text_attention
        catext_norm   text_norm
        norm1         image_norm
        linear1       feedforward.expand
        linear2       feedforward.shrink
        norm3         feedforward_norm
        """,
        "transformer.decoder.layers.{i}.",
        "decoder.layers.{i}.",
    ),
]
IDEA_IGNORED = (
    Ignored(r"\.(relative_position_index|attn_mask)$", "follows from the window"),
    Ignored(r"^bert\.embeddings\.position_ids$", "0, 1, 2, …"),
    Ignored(r"^bert\.pooler\.", "its output is not used"),
    Ignored(r"^transformer\.decoder\.bbox_embed\.", "another name of bbox_embed; see weights._read_idea"),
    Ignored(r"^label_enc\.", "for DINO's denoising by label; here, words of the prompt are denoised"),
)


def idea_table(maps: int, decoder_layers: int) -> NameTable:
    """The table for a model whose backbone has `maps` feature maps; some names depend on these numbers."""
    counted_rows = []
    for level in range(8):
        ours = f"neck.laterals.{level}" if level < maps else f"neck.extras.{level - maps}"
        counted_rows += _rows("0 conv\n1 norm", f"input_proj.{level}.", f"{ours}.")
    of_encoder = _rows("0 0\n1 2\n2 4", "transformer.enc_out_bbox_embed.layers.", f"regress.{decoder_layers}.")
    # These come before bbox_embed.{i}, whose pattern also matches this number when mapping from our names.
    return NameTable([*of_encoder, *IDEA_TRANSFORMER, *counted_rows], IDEA_IGNORED)


# --- Microsoft's Swin Transformer, an ImageNet classifier: only the backbone, without our prefix.

IMAGENET_SWIN = NameTable(
    [
        *_rows(
            """
            patch_embed.proj        patch_embed
            patch_embed.norm        patch_norm
            layers.{i}.downsample   downsamples.{i}
            """
        ),
        *_rows(
            """
            norm1                               norm1
            attn.relative_position_bias_table   attention.relative_position_bias_table
            attn.qkv                            attention.qkv
            attn.proj                           attention.proj
            norm2                               norm2
            mlp.fc1                             mlp.fc1
            mlp.fc2                             mlp.fc2
            """,
            "layers.{i}.blocks.{j}.",
            "stages.{i}.{j}.",
        ),
    ],
    (
        Ignored(r"\.(relative_position_index|attn_mask)$", "follows from the window"),
        Ignored(r"^(norm|head)\.", "part of the classifier"),
    ),
)


# --- transformers: MMGroundingDinoForObjectDetection and GroundingDinoForObjectDetection

HUGGING_FACE_SWIN = [
    *_rows(
        """
        embeddings.patch_embeddings.projection   patch_embed
        embeddings.norm                          patch_norm
        encoder.layers.{i}.downsample            downsamples.{i}
        """,
        "model.backbone.conv_encoder.model.",
        "backbone.",
    ),
    *_rows(
        """
        layernorm_before                                      norm1
        attention.self.relative_position_bias_table           attention.relative_position_bias_table
        attention.output.dense                                attention.proj
        layernorm_after                                       norm2
        intermediate.dense                                    mlp.fc1
        output.dense                                          mlp.fc2
        attention.self.query.weight,attention.self.key.weight,attention.self.value.weight   attention.qkv.weight
        attention.self.query.bias,attention.self.key.bias,attention.self.value.bias         attention.qkv.bias
        """,
        "model.backbone.conv_encoder.model.encoder.layers.{i}.blocks.{j}.",
        "backbone.stages.{i}.{j}.",
    ),
]


def _split_attention(theirs: str, ours: str) -> list[Row]:
    """Rows for attention: transformers has separate query, key and value; torch's MultiheadAttention stacks them."""
    stacked = [
        Row(tuple(f"{theirs}.{part}.{kind}" for part in ("query", "key", "value")), f"{ours}.in_proj_{kind}")
        for kind in ("weight", "bias")
    ]
    return [*stacked, Row((f"{theirs}.out_proj",), f"{ours}.out_proj")]


HUGGING_FACE_TRANSFORMER = [
    *_rows(
        """
        level_embed                             level_embedding
        text_backbone                           text_encoder.bert
        text_projection                         text_encoder.projection
        enc_output                              query_selection.projection
        enc_output_norm                         query_selection.norm
        query_position_embeddings               query_selection.content
        decoder.reference_points_head.layers.0  decoder.position.hidden
        decoder.reference_points_head.layers.1  decoder.position.output
        decoder.layer_norm                      decoder.norm
        """,
        "model.",
    ),
    *_rows(
        """
        vision_param             image_scale
        text_param               text_scale
        layer_norm_vision        image_norm
        layer_norm_text          text_norm
        attn.vision_proj         image_query
        attn.text_proj           text_key
        attn.values_vision_proj  image_value
        attn.values_text_proj    text_value
        attn.out_vision_proj     image_output
        attn.out_text_proj       text_output
        """,
        "model.encoder.layers.{i}.fusion_layer.",
        "encoder.layers.{i}.fusion.",
    ),
    *_split_attention("model.encoder.layers.{i}.text_enhancer_layer.self_attn", "encoder.layers.{i}.text.attention"),
    *_rows(
        """
        layer_norm_before   attention_norm
        fc1                 feedforward.expand
        fc2                 feedforward.shrink
        layer_norm_after    feedforward_norm
        """,
        "model.encoder.layers.{i}.text_enhancer_layer.",
        "encoder.layers.{i}.text.",
    ),
    *_rows(
        _DEFORMABLE,
        "model.encoder.layers.{i}.deformable_layer.self_attn.",
        "encoder.layers.{i}.image.attention.",
    ),
    *_rows(
        """
        self_attn_layer_norm   attention_norm
        fc1                    feedforward.expand
        fc2                    feedforward.shrink
        final_layer_norm       feedforward_norm
        """,
        "model.encoder.layers.{i}.deformable_layer.",
        "encoder.layers.{i}.image.",
    ),
    *_split_attention("model.decoder.layers.{i}.self_attn", "decoder.layers.{i}.self_attention"),
    *_split_attention("model.decoder.layers.{i}.encoder_attn_text", "decoder.layers.{i}.text_attention"),
    *_rows(_DEFORMABLE, "model.decoder.layers.{i}.encoder_attn.", "decoder.layers.{i}.image_attention."),
    *_rows(
        """
        self_attn_layer_norm           self_norm
        encoder_attn_text_layer_norm   text_norm
        encoder_attn_layer_norm        image_norm
        fc1                            feedforward.expand
        fc2                            feedforward.shrink
        final_layer_norm               feedforward_norm
        """,
        "model.decoder.layers.{i}.",
        "decoder.layers.{i}.",
    ),
]

HUGGING_FACE_IGNORED = (
    Ignored(r"\.relative_position_index$", "follows from the window"),
    Ignored(r"\.embeddings\.position_ids$", "0, 1, 2, …"),
    Ignored(r"^model\.decoder\.(bbox|class)_embed\.", "another name of bbox_embed and class_embed"),
    Ignored(r"\.conv_encoder\.model\.(swin\.)?layernorm\.", "the norm of Swin's classifier, not used by a backbone"),
)


def hugging_face_table(maps: int, decoder_layers: int) -> NameTable:
    """The table for a model whose backbone has `maps` feature maps; some names depend on these numbers."""
    counted_rows = [
        Row((f"model.backbone.conv_encoder.model.hidden_states_norms.stage{stage + 1}",), f"backbone.out_norms.{stage}")
        for stage in range(4)
    ]
    for level in range(8):
        ours = f"neck.laterals.{level}" if level < maps else f"neck.extras.{level - maps}"
        counted_rows += _rows("0 conv\n1 norm", f"model.input_proj_vision.{level}.", f"{ours}.")
    for layer in range(decoder_layers + 1):
        of_encoder = layer == decoder_layers
        boxes = "model.encoder_output_bbox_embed" if of_encoder else f"bbox_embed.{layer}"
        counted_rows += _rows("0 0\n1 2\n2 4", f"{boxes}.layers.", f"regress.{layer}.")
        classes = "model.encoder_output_class_embed" if of_encoder else f"class_embed.{layer}"
        counted_rows += _rows(f"{classes} classify.{layer}")
    return NameTable([*HUGGING_FACE_SWIN, *HUGGING_FACE_TRANSFORMER, *counted_rows], HUGGING_FACE_IGNORED)
