"""Ours and transformers' Grounding DINO give equal numbers, with random weights and in both directions.

They are compared on one image that fills the canvas, whose feature maps are multiples of Swin's window at every stage.
Elsewhere the two differ, and ours follows mmdet, with which the published numbers were made:

- Swin: transformers pads a map after it was brought to the window's multiple for the shifted blocks too, but shrinks the
  window (and drops the shift) where the map is no larger than it; mmdet never shrinks it.
- Text: transformers' mask of sub-sentences and its position ids are those of the unpadded caption; mmdet's depend on
  whether the last token is padding. Ours are the unpadded caption's, too, and are handed to both in these tests.
- Batches: transformers, too, keeps padded words out of the fusion (mmdet does not; FACTS.md 7, quirk A).
- transformers applies its own initial clamp of references in the original Grounding DINO; none shows at these sizes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    SwinConfig,
)

from formats.problems import InputError
from grounding_model.image import ImageBatch
from grounding_model.text_tokens import SEPARATORS, tokenize
from grounding_model.weights import Checkpoint, convert, inspect, load_checkpoint
from tests.paths import GOLDEN

BERT = GOLDEN / "a" / "bert"
WINDOW = 4
SIDE = 4 * WINDOW * 16  # stride 32 twice the window: no stage's map is as small as it, which transformers would shrink
CAPTION = "cat. a red dog. umbrella."
ORIGINAL, MM = GroundingDinoForObjectDetection, MMGroundingDinoForObjectDetection


def transformers_model(architecture: type) -> torch.nn.Module:
    """A small transformers model whose weights are random but large enough that every part shows in the answer."""
    config_type = {ORIGINAL: GroundingDinoConfig, MM: MMGroundingDinoConfig}[architecture]
    swin = SwinConfig(
        embed_dim=16, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], window_size=WINDOW, out_indices=[2, 3, 4]
    )
    bert = BertConfig(vocab_size=381, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96)
    shared = architecture is ORIGINAL  # IDEA's models share the box head between the layers, MM's do not
    config = config_type(
        backbone_config=swin,
        text_config=bert,
        d_model=64,
        encoder_layers=2,
        decoder_layers=3,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        num_queries=20,
        decoder_bbox_embed_share=shared,
        decoder_cls_embed_share=shared,
    )
    torch.manual_seed(5)
    model = architecture(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "relative_position_bias_table" in name or "embed" in name or tensor.dim() > 1:
                tensor.add_(torch.randn_like(tensor) * 0.05)
            else:
                tensor.add_(torch.randn_like(tensor) * 0.1)
    return model


def image_and_text(checkpoint: Checkpoint, captions: tuple[str, ...] = (CAPTION,)) -> tuple:
    torch.manual_seed(1)
    pixels = torch.randn(len(captions), 3, SIDE, SIDE)
    sizes = torch.tensor([[SIDE, SIDE]] * len(captions))
    return ImageBatch(pixels, sizes), tokenize(captions, checkpoint.tokenizer)


@torch.no_grad()
def assert_equal_answers(ours: Checkpoint, theirs: torch.nn.Module) -> None:
    images, text = image_and_text(ours)
    # transformers knows the separators by their numbers in BERT's own vocabulary; this one is smaller.
    theirs.model.special_tokens = torch.tensor(ours.tokenizer.convert_tokens_to_ids(list(SEPARATORS)))
    expected = theirs(
        pixel_values=images.pixels,
        pixel_mask=torch.ones(len(images.pixels), SIDE, SIDE, dtype=torch.long),
        input_ids=text.input_ids,
        attention_mask=text.token_mask.long(),
        token_type_ids=torch.zeros_like(text.input_ids),
    )
    answer = ours.model(images, text)
    tokens = text.input_ids.shape[1]
    torch.testing.assert_close(answer.logits[-1], expected.logits[..., :tokens], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(answer.boxes[-1], expected.pred_boxes, atol=1e-4, rtol=1e-4)
    spread = answer.boxes[-1].std(dim=1).max()
    assert spread > 1e-3, "boxes that are all alike compare nothing"


@pytest.fixture(scope="module", params=[MM, ORIGINAL], ids=["mm", "original"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("theirs")
    transformers_model(request.param).save_pretrained(folder)
    return folder


def test_a_transformers_folder_answers_as_in_transformers(folder: Path) -> None:
    architecture = MM if json.loads((folder / "config.json").read_text())["model_type"].startswith("mm") else ORIGINAL
    assert_equal_answers(load_checkpoint(folder, BERT), architecture.from_pretrained(folder).eval())


def test_our_file_becomes_a_folder_that_transformers_runs_alike(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "ours.safetensors", BERT)
    convert(tmp_path / "ours.safetensors", tmp_path / "theirs")
    ours = load_checkpoint(tmp_path / "theirs")  # its tokenizer went along
    architecture = ORIGINAL if not ours.model.config.contrastive_bias else MM
    theirs, report = architecture.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert_equal_answers(load_checkpoint(tmp_path / "ours.safetensors"), theirs.eval())
    first, second = load_checkpoint(folder, BERT).model.state_dict(), ours.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_pickled_folder_is_the_same(folder: Path, tmp_path: Path) -> None:
    expected = load_checkpoint(folder, BERT).model.state_dict()
    settings = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    second_names = {f"model.decoder.{name}": t for name, t in tensors.items() if name.startswith("bbox_embed")}
    torch.save(tensors | second_names, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(settings))
    found = load_checkpoint(tmp_path, BERT).model.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_model_that_transformers_cannot_express_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="transformers cannot express .*fusion_width 128, not half of feedforward"):
        convert(GOLDEN / "a" / "checkpoint.pth", tmp_path / "theirs", BERT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "bert"}, "model_type is 'bert'"),
        ({"two_stage": False}, "two_stage is False"),
        ({"decoder_attention_heads": 4}, "differ in attention heads"),
        ({"decoder_layers": 2}, "no part of this architecture"),
        ({"backbone_config": {"model_type": "resnet"}}, "the backbone is resnet"),
    ],
)
def test_settings_of_another_model_are_refused(folder: Path, tmp_path: Path, change: dict, said: str) -> None:
    if "decoder_layers" in change and "MM" not in (folder / "config.json").read_text():
        pytest.skip("shared heads do not count the layers")
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    settings = json.loads((folder / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=said):
        load_checkpoint(tmp_path, BERT)


def test_incomplete_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config\.json"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(InputError, match="has no weights"):
        load_checkpoint(tmp_path)
    with pytest.raises(InputError, match="exists already"):
        convert(folder, tmp_path, BERT)


def test_inspect_says_what_a_folder_is(folder: Path) -> None:
    summary = inspect(folder)
    assert "transformers folder" in summary
    assert "decoder_layers = 3" in summary
    assert "whole" in summary
