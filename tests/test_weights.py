"""A checkpoint comes in whole or not at all, and goes out as it came."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from formats.io.errors import InputError
from grounding_model.checkpoints.checkpoint import save_checkpoint
from grounding_model.checkpoints.infer_config import Hints, config_of, hints_of_mmdet, python_literals
from grounding_model.checkpoints.locations import checkpoint_hash
from grounding_model.checkpoints.safe_pickle import read_pickled_checkpoint
from grounding_model.checkpoints.weight_names import MMDET_WITH_RESNET, MMDET_WITH_SWIN, PATCH_ORDER
from grounding_model.checkpoints.weights import _new_model, convert_checkpoint, inspect, load_checkpoint
from grounding_model.inputs.tokens import load_tokenizer, tokenizer_to_text
from grounding_model.model.backbone import build_backbone
from grounding_model.model.config import SWIN_B, SWIN_L, SWIN_T, ModelConfig, SwinBackbone, TextEncoder, TimmBackbone
from grounding_model.model.grounding import GroundingModel
from tests.paths import GOLDEN

CHECKPOINT, BERT = GOLDEN / "a" / "checkpoint.pth", GOLDEN / "a" / "bert"
ORIGINAL_SWIN_T = replace(SWIN_T, contrastive_scale="none", contrastive_bias=False)
OFFICIAL = {  # key and shape lists of the official models -> what they must be recognised as
    "mm_swin-t": SWIN_T,
    "mm_swin-b_inferred": SWIN_B,
    "mm_swin-l": SWIN_L,
    "gdino_swin-t_original": ORIGINAL_SWIN_T,
    "gdino_swin-b_original": replace(SWIN_B, contrastive_scale="none", contrastive_bias=False),
    "gdino_r50_scratch": replace(SWIN_T, backbone=TimmBackbone(name="resnet50", out_indices=(2, 3, 4))),
}


def official_tensors(name: str) -> dict[str, Tensor]:
    """Tensors of the official shapes that share one number as their memory."""
    shapes = json.loads(gzip.decompress((GOLDEN / "c" / f"{name}.json.gz").read_bytes()))
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}


def saved(path: Path, tensors: dict[str, Tensor], config_text: str | None = None) -> Path:
    """An mmdet file in the format of the published ones."""
    meta = {"cfg": CONFIG_TEXT if config_text is None else config_text}
    torch.save({"meta": meta, "state_dict": tensors}, path, _use_new_zipfile_serialization=False)
    return path


FILE = read_pickled_checkpoint(CHECKPOINT)
CONFIG_TEXT = str(FILE.meta["cfg"])


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_models_are_recognised_by_their_tensors(name: str) -> None:
    table = MMDET_WITH_RESNET if "r50" in name else MMDET_WITH_SWIN
    config = config_of(table.to_ours(official_tensors(name), name), Hints(), name)
    expected = OFFICIAL[name]
    rows = 256 if name.startswith("mm") else 80  # labels of denoising: FACTS.md 10
    assert config == replace(expected, denoising=replace(expected.denoising, label_table=rows))


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFICIAL)
def test_official_tensors_load_whole(name: str, tmp_path: Path) -> None:
    tensors = official_tensors(name)
    # Views on one number stay small in the file, too, but a tensor may not be larger than its memory there.
    filler = torch.zeros(max(tensor.numel() for tensor in tensors.values()))
    tensors = {key: filler[: tensor.numel()].view(tensor.shape) for key, tensor in tensors.items()}
    path = saved(tmp_path / "official.pth", tensors, config_text="")
    model = load_checkpoint(path, vocabulary(tmp_path, 30522)).model
    loaded = sum(tensor.numel() for tensor in model.state_dict().values())
    left_out = re.compile(r"relative_position_index|position_ids|pooler")
    assert loaded == sum(tensor.numel() for key, tensor in tensors.items() if not left_out.search(key))


def vocabulary(folder: Path, words: int) -> Path:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?"]
    (folder / "vocab.txt").write_text("\n".join(special + [f"w{i}" for i in range(words - len(special))]))
    return folder


def test_the_reference_checkpoint_loads_in_both_formats(tmp_path: Path) -> None:
    first = load_checkpoint(CHECKPOINT, BERT)
    second = load_checkpoint(saved(tmp_path / "published.pth", FILE.tensors), BERT)
    assert first.model.config == second.model.config
    assert first.model.config == ModelConfig(
        backbone=SwinBackbone(embed_dim=24, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), drop_path=0.0),
        text=TextEncoder(vocab_size=381, width=64, layers=2, heads=4, feedforward=128, dropout=0.0),
        width=64,
        queries=50,
        encoder_layers=2,
        decoder_layers=2,
        feedforward=128,
        text_feedforward=96,
        fusion_width=128,
        fusion_dropout=0.0,
        denoising=replace(SWIN_T.denoising, queries=20),
    )
    assert not first.model.training
    assert_same(first.model, second.model)
    assert first.provenance["mmdet mmengine_version"] == "0.10.7"


def assert_same(first: GroundingModel, second: GroundingModel) -> None:
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize(
    "name",
    [
        "level_embed",
        "backbone.patch_embed.projection.weight",
        "backbone.stages.2.blocks.1.attn.w_msa.relative_position_bias_table",
        "backbone.stages.1.downsample.reduction.weight",
        "backbone.norm3.bias",
        "neck.extra_convs.0.gn.weight",
        "language_model.language_backbone.body.model.embeddings.word_embeddings.weight",
        "language_model.language_backbone.body.model.encoder.layer.1.attention.self.query.bias",
        "text_feat_map.weight",
        "encoder.layers.1.ffn.layers.0.0.weight",
        "encoder.text_layers.0.norms.1.bias",
        "encoder.fusion_layers.1.gamma_l",
        "encoder.fusion_layers.0.attn.v_proj.bias",
        "decoder.layers.1.cross_attn_text.attn.in_proj_weight",
        "decoder.layers.0.cross_attn.sampling_offsets.bias",
        "bbox_head.cls_branches.2.bias",
        "bbox_head.reg_branches.2.4.weight",
        "query_embedding.weight",
        "memory_trans_norm.weight",
        "dn_query_generator.label_embedding.weight",
    ],
)
def test_a_tensor_that_is_missing_or_of_another_shape_is_named(tmp_path: Path, name: str) -> None:
    others = {key: tensor for key, tensor in FILE.tensors.items() if key != name}
    with pytest.raises(InputError) as missing:
        load_checkpoint(saved(tmp_path / "missing.pth", others), BERT)
    assert name in str(missing.value)
    assert "missing.pth" in str(missing.value)
    tensor = FILE.tensors[name]
    longer = torch.cat([tensor, tensor[:1]]) if tensor.shape[0] > 1 else tensor.repeat(3)
    if name in {"query_embedding.weight", "dn_query_generator.label_embedding.weight"} or "word_embeddings" in name:
        return  # tables whose length is free
    with pytest.raises(InputError, match=r"other_shape\.pth"):
        load_checkpoint(saved(tmp_path / "other_shape.pth", others | {name: longer}), BERT)


@pytest.mark.parametrize("name", ["bbox_head.fc.weight", "backbone.norm7.weight", "encoder.layers.1.extra.bias", "x"])
def test_an_extra_tensor_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=re.escape(name)):
        load_checkpoint(saved(tmp_path / "a.pth", FILE.tensors | {name: torch.ones(2)}), BERT)


def test_an_unmistakable_shape_is_named(tmp_path: Path) -> None:
    name = "encoder.layers.1.self_attn.value_proj.weight"
    tensors = FILE.tensors | {name: torch.ones(64, 32)}
    with pytest.raises(InputError, match=rf"{re.escape(name)} \(64, 32\) instead of \(64, 64\) is of wrong shape"):
        load_checkpoint(saved(tmp_path / "a.pth", tensors), BERT)


def test_pooler_and_indices_are_let_be(tmp_path: Path) -> None:
    extra = {
        "language_model.language_backbone.body.model.pooler.dense.weight": torch.ones(64, 64),
        "language_model.language_backbone.body.model.pooler.dense.bias": torch.ones(64),
    }
    first = load_checkpoint(saved(tmp_path / "a.pth", FILE.tensors | extra), BERT)
    assert_same(first.model, load_checkpoint(CHECKPOINT, BERT).model)


WRAPPED = ("module.{}", "model.{}", "model.module.{}", "_orig_mod.{}", "module._orig_mod.{}", "_orig_mod.module.{}")


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_what_a_wrapper_puts_before_the_names_is_taken_off(tmp_path: Path, wrapped: str) -> None:
    tensors = {wrapped.format(name): tensor for name, tensor in FILE.tensors.items()}
    read = load_checkpoint(saved(tmp_path / "a.pth", tensors), BERT).model
    assert_same(read, load_checkpoint(CHECKPOINT, BERT).model)


def test_a_part_that_was_compiled_alone_loses_its_wrapper_too(tmp_path: Path) -> None:
    tensors = {name.replace("backbone.", "backbone._orig_mod.", 1): tensor for name, tensor in FILE.tensors.items()}
    read = load_checkpoint(saved(tmp_path / "a.pth", tensors), BERT).model
    assert_same(read, load_checkpoint(CHECKPOINT, BERT).model)


def test_a_model_that_is_there_wrapped_and_bare_is_refused(tmp_path: Path) -> None:
    tensors = FILE.tensors | {"module.level_embed": torch.ones(4, 64)}
    with pytest.raises(InputError, match=r"contains level_embed twice, once as module\.level_embed"):
        load_checkpoint(saved(tmp_path / "a.pth", tensors), BERT)


@pytest.mark.parametrize("form", ["mmdet", "idea"])
def test_a_file_without_its_language_model_says_that(tmp_path: Path, form: str) -> None:
    tensors = FILE.tensors if form == "mmdet" else in_names_of_idea(FILE.tensors)
    rest = {name: t for name, t in tensors.items() if not name.startswith(("language_model.", "module.bert."))}
    with pytest.raises(InputError, match="contains no language model"):
        load_checkpoint(saved(tmp_path / "a.pth", rest), BERT)


@pytest.mark.parametrize(
    ("part", "what"),
    [
        (r"^encoder\.\w+\.1\.", "encoder layers: 1 in the file, 2 in the configuration"),
        (r"^language_model\..*\.layer\.1\.", "BERT layers: 1 in the file, 2"),
        (r"^backbone\.stages\.2\.blocks\.1\.", r"Swin blocks: \(2, 2, 1, 2\) in the file, \(2, 2, 2, 2\)"),
    ],
)
def test_a_file_without_a_last_layer_does_not_pass_for_a_smaller_model(tmp_path: Path, part: str, what: str) -> None:
    rest = {name: tensor for name, tensor in FILE.tensors.items() if not re.search(part, name)}
    with pytest.raises(InputError, match=what):
        load_checkpoint(saved(tmp_path / "a.pth", rest), BERT)


def in_names_of_idea(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """mmdet's tensors as IDEA's own program stores them: what mmdet's converter does, backwards, and its extras."""
    rules = [
        (r"^backbone\.patch_embed\.projection", "backbone.0.patch_embed.proj"),
        (r"^backbone\.stages", "backbone.0.layers"),
        (r"^backbone\.(?!0\.)", "backbone.0."),
        (r"attn\.w_msa", "attn"),
        (r"^(backbone.*)ffn\.layers\.0\.0", r"\1mlp.fc1"),
        (r"^(backbone.*)ffn\.layers\.1", r"\1mlp.fc2"),
        (r"^language_model\.language_backbone\.body\.model", "bert"),
        (r"^text_feat_map", "feat_map"),
        (r"^neck\.convs\.(\d)", r"input_proj.\1"),
        (r"^neck\.extra_convs\.0", "input_proj.3"),
        (r"^(input_proj\.\d)\.conv", r"\1.0"),
        (r"^(input_proj\.\d)\.gn", r"\1.1"),
        (r"^(level_embed|encoder|decoder)", r"transformer.\1"),
        (r"^memory_trans_fc", "transformer.enc_output"),
        (r"^memory_trans_norm", "transformer.enc_output_norm"),
        (r"^query_embedding", "transformer.tgt_embed"),
        (r"^(transformer.*)ffn\.layers\.0\.0", r"\1linear1"),
        (r"^(transformer.*)ffn\.layers\.1", r"\1linear2"),
        (r"^(transformer\.encoder.*)norms\.0", r"\1norm1"),
        (r"^(transformer\.encoder.*)norms\.1", r"\1norm2"),
        (r"^(transformer\.decoder.*)norms\.0", r"\1norm2"),
        (r"^(transformer\.decoder.*)norms\.1", r"\1catext_norm"),
        (r"^(transformer\.decoder.*)norms\.2", r"\1norm1"),
        (r"^(transformer\.decoder.*)norms\.3", r"\1norm3"),
        (r"cross_attn_text\.attn", "ca_text"),
        (r"self_attn\.attn", "self_attn"),
        (r"^bbox_head\.reg_branches\.2\.", "transformer.enc_out_bbox_embed.layers."),
        (r"^bbox_head\.reg_branches\.(\d)\.", r"transformer.decoder.bbox_embed.\1.layers."),
        (r"(bbox_embed.*layers)\.2\.", r"\1.1."),
        (r"(bbox_embed.*layers)\.4\.", r"\1.2."),
    ]
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith(("bbox_head.cls_branches", "dn_query_generator")):
            continue  # the first Grounding DINO has neither
        if ".downsample." in name:
            tensor = PATCH_ORDER.to_ours(tensor)
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[f"module.{name}"] = tensor
    return renamed


def idea_reference(tmp_path: Path) -> GroundingModel:
    """The same numbers in an mmdet file without the biases that the first Grounding DINO lacks."""
    tensors = {name: t for name, t in FILE.tensors.items() if not name.startswith("bbox_head.cls_branches")}
    text = CONFIG_TEXT.replace("log_scale='auto'", "log_scale='none'")
    return load_checkpoint(saved(tmp_path / "mmdet.pth", tensors, text), BERT).model


@pytest.mark.parametrize("names", ["decoder", "top", "both"])
def test_a_file_of_ideas_own_program_is_the_same_model(tmp_path: Path, names: str) -> None:
    tensors = in_names_of_idea(FILE.tensors)
    assert "module.transformer.decoder.layers.1.ca_text.in_proj_weight" in tensors
    assert "module.transformer.enc_out_bbox_embed.layers.2.weight" in tensors
    inner = [name for name in tensors if ".decoder.bbox_embed." in name]
    assert len(inner) == 2 * 3 * 2
    if names != "decoder":
        tensors |= {name.replace("transformer.decoder.", ""): tensors[name] for name in inner}
    if names == "top":
        tensors = {name: tensor for name, tensor in tensors.items() if name not in inner}
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "idea.pth")
    read = load_checkpoint(tmp_path / "idea.pth", BERT).model
    expected = idea_reference(tmp_path)
    assert read.config.contrastive_scale == expected.config.contrastive_scale == "none"
    label_embedding = "denoising.label_embedding.weight"
    for name, tensor in expected.state_dict().items():
        assert name == label_embedding or torch.equal(tensor, read.state_dict()[name]), name


def test_a_tensor_missing_from_ideas_file_is_named_as_there(tmp_path: Path) -> None:
    tensors = in_names_of_idea(FILE.tensors)
    del tensors["module.transformer.enc_out_bbox_embed.layers.2.weight"]
    torch.save({"model": tensors}, tmp_path / "idea.pth")
    with pytest.raises(InputError, match=r"transformer\.enc_out_bbox_embed\.layers\.2\.weight is missing"):
        load_checkpoint(tmp_path / "idea.pth", BERT)


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    cases = {
        "weights file of a transformers folder": {"model.text_backbone.a": torch.ones(1)},
        "is not a Grounding DINO": {"backbone.conv1.weight": torch.ones(1)},
        "unknown backbone": {"language_model.a": torch.ones(1), "backbone.stem.weight": torch.ones(1)},
    }
    for said, tensors in cases.items():
        with pytest.raises(InputError, match=said):
            load_checkpoint(saved(tmp_path / "a.pth", tensors), BERT)
    with pytest.raises(InputError, match="no such checkpoint.*glyph-tiny"):  # noqa: RUF043 - a pattern
        load_checkpoint(tmp_path / "nowhere.pth")


def test_heads_that_no_file_states_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_checkpoint(CHECKPOINT, BERT)
    assert not caplog.records
    assert load_checkpoint(CHECKPOINT, vocabulary(tmp_path, 381)).model.config.text.heads == 1
    assert "pass a text encoder folder with config.json" in caplog.text


def test_the_tokenizer_must_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the tokenizer has 400 words, the checkpoint has 381"):
        load_checkpoint(CHECKPOINT, vocabulary(tmp_path, 400))
    with pytest.raises(InputError, match="vocab.txt"):  # noqa: RUF043 - a pattern
        load_checkpoint(CHECKPOINT, tmp_path / "nowhere")


def test_patch_order_is_the_one_timm_reads() -> None:
    column = torch.tensor([f * 100 + row * 10 + col for f in range(3) for row in range(2) for col in range(2)])
    assert PATCH_ORDER.to_ours(column).tolist() == [0, 100, 200, 10, 110, 210, 1, 101, 201, 11, 111, 211]
    assert torch.equal(PATCH_ORDER.to_theirs(PATCH_ORDER.to_ours(column)), column)


def test_names_go_both_ways() -> None:
    ours = MMDET_WITH_SWIN.to_ours(FILE.tensors, "file")
    back = MMDET_WITH_SWIN.to_theirs(ours)
    assert all(torch.equal(tensor, FILE.tensors[name]) for name, tensor in back.items())
    left = FILE.tensors.keys() - back.keys()
    assert all(name.endswith(("relative_position_index", "position_ids")) for name in left)


def test_configuration_text_is_data(tmp_path: Path) -> None:
    text = f"import os\nos.mkdir({str(tmp_path / 'made')!r})\na = dict(b=[1, -2.5], c=(None, 'x'), d=os.getcwd())\n"
    assert python_literals(text) == {"a": {"b": [1, -2.5], "c": [None, "x"], "d": None}}
    assert python_literals("not python at all (") == {}
    assert not (tmp_path / "made").exists()
    changed = CONFIG_TEXT.replace("temperature=20", "temperature=10000")
    assert changed != CONFIG_TEXT
    with pytest.raises(InputError, match="unsupported positional encoding"):
        hints_of_mmdet(changed, "file")


@pytest.mark.parametrize("half", [False, True])
def test_ours_holds_everything(tmp_path: Path, half: bool) -> None:
    checkpoint = load_checkpoint(CHECKPOINT, BERT)
    path = tmp_path / "ours.safetensors"
    save_checkpoint(path, checkpoint.model, checkpoint.tokenizer, {"made by": "a test – ü"}, half)
    read = load_checkpoint(path)
    assert read.model.config == checkpoint.model.config
    assert read.provenance == {"made by": "a test – ü"}
    assert tokenizer_to_text(read.tokenizer) == tokenizer_to_text(checkpoint.tokenizer)
    expected = checkpoint.model.state_dict()
    for name, tensor in read.model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected[name].half().float() if half else expected[name])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_timm_backbone_with_batch_norm_goes_round(tmp_path: Path) -> None:
    config = replace(
        load_checkpoint(CHECKPOINT, BERT).model.config,
        backbone=TimmBackbone(name="resnet18", out_indices=(2, 3, 4), options={"stem_width": 32}),
    )
    model = GroundingModel(config).eval()
    model.backbone.network.bn1.num_batches_tracked += 3
    save_checkpoint(tmp_path / "a.safetensors", model, load_tokenizer(BERT), {}, half=True)
    read = load_checkpoint(tmp_path / "a.safetensors").model
    assert read.config == config
    assert read.backbone.network.bn1.num_batches_tracked == 3


@pytest.mark.parametrize(
    "backbone",
    [
        TimmBackbone(name="hf-hub:owner/name"),
        TimmBackbone(name="local-dir:/tmp"),
        TimmBackbone(options={"pretrained_cfg": {"url": "http://127.0.0.1/x.pth"}}),
        TimmBackbone(options={"checkpoint_path": "x.pth"}),
    ],
)
def test_no_configuration_makes_timm_fetch(backbone: TimmBackbone) -> None:
    with pytest.raises(ValueError, match=r"would be downloaded|load weights"):
        build_backbone(backbone)


def test_an_option_that_timm_lacks_is_refused() -> None:
    backbone = TimmBackbone(name="resnet10t", out_indices=(2, 3, 4), options={"stem_breadth": 32})
    with pytest.raises(InputError, match=r"no model can have these dimensions.*stem_breadth"):
        _new_model(replace(ModelConfig(), backbone=backbone), "here")


def test_a_damaged_file_of_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ours.safetensors"
    convert_checkpoint(CHECKPOINT, path, BERT)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    with pytest.raises(InputError, match="not a complete safetensors file"):
        load_checkpoint(path)
    path.write_bytes(whole.replace(b"groundhog-1", b"groundhog-9"))
    with pytest.raises(InputError, match="has format groundhog-9"):
        load_checkpoint(path)
    path.write_bytes(whole.replace(rb"\"queries\": 50", rb"\"queries\": 51"))
    with pytest.raises(InputError, match=r"query_selection\.content\.weight \(50, 64\) instead of \(51, 64\)"):
        load_checkpoint(path)
    path.write_bytes(whole.replace(rb"\"queries\": 50", rb"\"querios\": 50"))
    with pytest.raises(InputError, match="querios: is not a setting; did you mean 'queries'"):
        load_checkpoint(path)


def test_a_weight_too_large_for_float16_is_refused(tmp_path: Path) -> None:
    model = load_checkpoint(CHECKPOINT, BERT).model
    with torch.no_grad():
        model.level_embedding[0, 0] = 1e6
    with pytest.raises(InputError, match="level_embedding is not finite in float16"):
        save_checkpoint(tmp_path / "a.safetensors", model, load_tokenizer(BERT), {}, half=True)
    assert not list(tmp_path.iterdir())


def test_convert_says_where_the_weights_are_from(tmp_path: Path) -> None:
    convert_checkpoint(CHECKPOINT, tmp_path / "a.safetensors", BERT)
    read = load_checkpoint(tmp_path / "a.safetensors")
    assert read.provenance["source sha256"] == checkpoint_hash(CHECKPOINT)
    assert read.provenance["mmdet epoch"] == "1"
    assert_same(read.model, load_checkpoint(CHECKPOINT, BERT).model)
    with pytest.raises(InputError, match="unknown kind of checkpoint"):
        convert_checkpoint(CHECKPOINT, tmp_path / "a.onnx", BERT)


def test_inspect_says_what_a_file_is_and_lacks(tmp_path: Path) -> None:
    summary = inspect(CHECKPOINT, BERT)
    assert "mmdet checkpoint" in summary
    assert "decoder_layers = 2" in summary
    assert "complete: nothing is missing" in summary
    rest = {key: tensor for key, tensor in FILE.tensors.items() if key != "memory_trans_fc.bias"}
    assert "memory_trans_fc.bias is missing" in inspect(saved(tmp_path / "a.pth", rest))


def test_the_order_of_a_file_does_not_change_from_process_to_process(tmp_path: Path, reference_checkpoint) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, reference_checkpoint.model, reference_checkpoint.tokenizer, {"made by": "a test"})
    written = path.read_bytes()
    header = json.loads(written[8 : 8 + int.from_bytes(written[:8], "little")])
    assert list(header["__metadata__"]) == sorted(header["__metadata__"])  # the library's own order is random
    assert int.from_bytes(written[:8], "little") % 8 == 0


def test_a_misspelt_name_of_weights_gets_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'glyph-tiny'"):
        load_checkpoint("glyf-tiny")


@pytest.mark.parametrize(("content", "what"), [(b"", "is empty"), (b"\0" * 100, "starts with zeros")])
def test_an_unfinished_safetensors_file_is_called_that(tmp_path, content, what):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=f"{what}.*; expected a complete safetensors file"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_inspect_shows_the_settings_of_a_training_as_tables():
    text = inspect("glyph-tiny")
    assert "OptimizerConfig(" not in text
    assert "\noptimizer\n  learning_rate = 0.0004\n" in text
