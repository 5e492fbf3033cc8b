"""Weights on the line between two models: its ends, its middle, and which two models have such a line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from flows.cli.command import main
from flows.training.train import interpolate_with_start
from formats.io.errors import InputError
from formats.io.files import sha256_of
from grounding_model.checkpoints.checkpoint import Checkpoint, save_checkpoint
from grounding_model.checkpoints.interpolation import interpolate, interpolate_weights, write_interpolation
from grounding_model.checkpoints.weights import load_checkpoint
from grounding_model.inputs.tokens import tokenizer_from_text, tokenizer_to_text
from grounding_model.model.grounding import GroundingModel
from grounding_model.training.config import FromWeights


def weights(**changed: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(len(changed))
    return {"a": torch.randn(3, 4, generator=generator), "counter": torch.tensor(7)} | changed


@pytest.fixture(scope="module")
def base() -> Checkpoint:
    return load_checkpoint("glyph-tiny")


@pytest.fixture(scope="module")
def tuned(base: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """glyph-tiny with every weight moved, as a file."""
    model = GroundingModel(base.model.config)
    torch.manual_seed(0)
    moved = {name: t + 0.1 * torch.randn_like(t) if t.is_floating_point() else t + 5 for name, t in state(base).items()}
    model.load_state_dict(moved)
    path = tmp_path_factory.mktemp("tuned") / "model.safetensors"
    save_checkpoint(path, model, base.tokenizer, {"steps": "1"})
    return path


def state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    return checkpoint.model.state_dict()


def test_the_ends_are_the_models_themselves_bit_for_bit() -> None:
    one, other = weights(), weights(a=torch.randn(3, 4) * 1e6)
    assert torch.equal(interpolate_weights(one, other, 0)["a"], one["a"])
    assert torch.equal(interpolate_weights(one, other, 1)["a"], other["a"])


def test_between_every_weight_lies_on_the_line() -> None:
    one, other = weights(), weights(a=torch.randn(3, 4))
    found = interpolate_weights(one, other, 0.3)["a"]
    torch.testing.assert_close(found, 0.7 * one["a"] + 0.3 * other["a"])
    swapped = interpolate_weights(other, one, 0.7)["a"]
    torch.testing.assert_close(found, swapped)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_what_was_frozen_stays_bit_for_bit(alpha: float) -> None:
    assert torch.equal(interpolate_weights(weights(), weights(), alpha)["a"], weights()["a"])


def test_counters_and_tables_are_those_of_the_tuned_model() -> None:
    found = interpolate_weights(weights(), weights(counter=torch.tensor(9)), 0.25)
    assert found["counter"].item() == 9
    assert found["counter"].dtype == torch.int64


@pytest.mark.parametrize(
    ("base", "tuned", "alpha", "said"),
    [
        (weights(), {"a": torch.ones(3, 4)}, 0.5, "fine-tuned weights: counter is missing"),
        ({"a": torch.ones(3, 4)}, weights(), 0.5, "base weights: counter is missing"),
        (weights(), weights(a=torch.ones(4, 3)), 0.5, r"a \(3, 4\) and \(4, 3\) is of different shapes"),
        (weights(), weights(), 1.5, "alpha: is 1.5; expected 0"),
    ],
)
def test_models_without_a_line_between_them_are_refused_by_name(base, tuned, alpha: float, said: str) -> None:
    with pytest.raises(InputError, match=said):
        interpolate_weights(base, tuned, alpha)


def test_a_model_between_two_files_runs_and_says_where_it_is_from(base: Checkpoint, tuned: Path) -> None:
    between = interpolate("glyph-tiny", tuned, 0.5)
    after = load_checkpoint(tuned)
    for name, tensor in state(between).items():
        wanted = torch.lerp(state(base)[name], state(after)[name], 0.5) if tensor.is_floating_point() else None
        assert torch.equal(tensor, state(after)[name] if wanted is None else wanted), name
    provenance = between.provenance
    assert (provenance["alpha"], provenance["base"], provenance["tuned sha256"]) == (
        "0.5",
        "glyph-tiny",
        sha256_of(tuned),
    )
    assert not between.model.training


def test_another_configuration_of_the_same_shapes_is_refused(base: Checkpoint, tmp_path: Path) -> None:
    model = GroundingModel(replace(base.model.config, text_heads=8))
    save_checkpoint(tmp_path / "other.safetensors", model, base.tokenizer, {})
    with pytest.raises(InputError, match=r"text_heads \(4 and 8\) is not the same"):
        interpolate("glyph-tiny", tmp_path / "other.safetensors", 0.5)


def test_another_vocabulary_of_the_same_size_is_refused(base: Checkpoint, tmp_path: Path) -> None:
    text = tokenizer_to_text(base.tokenizer)
    swapped = text.replace('"umbrella":', '"§§":').replace('"cat":', '"umbrella":').replace('"§§":', '"cat":')
    save_checkpoint(tmp_path / "other.safetensors", base.model, tokenizer_from_text(swapped), {})
    with pytest.raises(InputError, match="tokenizers differ: cat, umbrella are not the same"):
        interpolate("glyph-tiny", tmp_path / "other.safetensors", 0.5)


def test_only_our_own_kind_of_file_is_written(tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a name ending in"):
        write_interpolation("glyph-tiny", tuned, tmp_path / "model.pth", 0.5)


def test_the_command_writes_a_checkpoint(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "between.safetensors"
    assert main(["weights", "interpolate", "glyph-tiny", str(tuned), str(out), "--alpha", "0.25"]) == 0
    assert load_checkpoint(out).provenance["alpha"] == "0.25"
    with pytest.raises(SystemExit) as ended:
        main(["weights", "interpolate", "glyph-tiny", str(tuned)])
    assert ended.value.code == 2
    assert "required: OUT" in capsys.readouterr().err


def test_an_interpolation_of_an_older_version_is_left_as_it_is(tuned: Path) -> None:
    """Its bytes name the plan of the next round, which would be labelled again."""
    path = interpolate_with_start(FromWeights("glyph-tiny"), tuned, 0.5)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    config = json.loads(metadata["config"])
    del config["nms_iou"]  # a setting of the model that came later
    save_file(load_file(path), path, metadata | {"config": json.dumps(config)})
    older = sha256_of(path)
    assert interpolate_with_start(FromWeights("glyph-tiny"), tuned, 0.5) == path
    assert sha256_of(path) == older
    path.write_bytes(path.read_bytes()[:-100])
    interpolate_with_start(FromWeights("glyph-tiny"), tuned, 0.5)
    assert load_checkpoint(path).provenance["alpha"] == "0.5"
