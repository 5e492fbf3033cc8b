"""`groundhog weights`: what a file is, what it can be turned into, and what is refused, in words and with 2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flows.cli.command import main
from grounding_model.checkpoints.safe_pickle import read_pickled_checkpoint
from tests.paths import GOLDEN

CHECKPOINT, BERT = GOLDEN / "a" / "checkpoint.pth", GOLDEN / "a" / "bert"
TENSOR = "encoder.layers.1.self_attn.value_proj.weight"


class Attack:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.trace}",)


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return read_pickled_checkpoint(CHECKPOINT).tensors


def weights(*arguments: object) -> int:
    return main(["weights", *map(str, arguments), "--text-encoder", str(BERT)])


def test_inspect_says_what_a_file_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert weights("inspect", CHECKPOINT) == 0
    first, *_, last = printed = capsys.readouterr().out.splitlines()
    assert first == f"{CHECKPOINT}: mmdet checkpoint"
    assert {"  width = 64", "  queries = 50", "mmdet mmengine_version: 0.10.7", f"tokenizer: from {BERT}"} <= {*printed}
    assert last == "complete: nothing is missing"


def test_weights_are_turned_into_ours_which_say_where_they_are_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert weights(CHECKPOINT, tmp_path / "ours.safetensors") == 0
    assert main(["weights", "inspect", str(tmp_path / "ours.safetensors")]) == 0
    printed = capsys.readouterr().out
    assert "Groundhog checkpoint" in printed
    assert "tokenizer: included" in printed
    assert f"converted from: {CHECKPOINT}" in printed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop(TENSOR), f"{TENSOR} is missing"),
        (lambda tensors: tensors.update({TENSOR: torch.ones(64, 32)}), f"{TENSOR} (64, 32) instead of (64, 64)"),
        (
            lambda tensors: tensors.update({"bbox_head.surprise": torch.ones(3)}),
            "bbox_head.surprise is not in this architecture",
        ),
    ],
    ids=["missing", "other shape", "extra"],
)
def test_a_file_that_is_no_whole_model_is_refused_by_the_tensors_name(
    change, said: str, tensors: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = dict(tensors)
    change(changed)
    torch.save({"meta": {}, "state_dict": changed}, tmp_path / "a.pth")
    assert weights(tmp_path / "a.pth", tmp_path / "ours.safetensors") == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"groundhog: {tmp_path / 'a.pth'}: ")
    assert said in printed
    assert not (tmp_path / "ours.safetensors").exists()
    weights("inspect", tmp_path / "a.pth")
    assert said in "".join(capsys.readouterr())


@pytest.mark.parametrize("arguments", [["inspect"], []])
def test_a_malicious_pickle_is_refused(
    arguments: list[str], tensors: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "executed"
    torch.save({"meta": {}, "state_dict": tensors, "hooks": Attack(trace)}, tmp_path / "a.pth")
    assert weights(*arguments, tmp_path / "a.pth") == 2
    assert "would run" in capsys.readouterr().err
    assert not trace.exists()
