"""The demo: the whole loop on a few scenes with random weights, and what it tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from flows.cli.command import main
from flows.self_training.config import read_self_train
from flows.self_training.demo import CONFIG, demo_config, run_demo
from formats.io.errors import InputError
from formats.odvg import read_odvg
from grounding_model.checkpoints.checkpoint import save_checkpoint
from grounding_model.training.config import FromScratch
from grounding_model.training.learner import start_model


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned nothing."""
    torch.manual_seed(0)
    model, tokenizer = start_model(FromScratch(tokenizer="glyphs", variant="glyph-tiny"))
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_checkpoint(path, model.eval(), tokenizer, {"made": "by a test"})
    return path


@pytest.mark.slow
def test_the_loop_runs_and_prints_where_everything_is(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    arguments = ["demo", "--quick", "--weights", str(weights), "--out-dir", str(out), "--device", "cpu"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert (out / "report.html").stat().st_size > 100_000
    assert (out / "before_after.jpg").is_file()
    for version in (1, 2, 3):
        records = list(read_odvg(out / "data" / f"glyphs_od_v{version}.json"))
        assert [record.filename for record in records] == [f"{index:06d}.png" for index in range(6)]
    assert printed.out.count("\n|") >= 4  # one row per round
    assert str(out / "report.html") in printed.out
    assert "v1: labelling the images" in printed.err
    assert main(arguments) == 0  # finished: told again, not done again
    assert "training" in capsys.readouterr().err
    with pytest.raises(InputError, match="a demo with other settings"):
        run_demo(out, seed=1, quick=True, weights=weights)


def test_another_demo_in_the_folder_is_refused(weights: Path, tmp_path: Path) -> None:
    weights_copy = tmp_path / "own.safetensors"
    weights_copy.write_bytes(weights.read_bytes())
    claim = {
        "seed": 0,
        "quick": True,
        "weights": str(weights_copy),
        "weights_sha256": "that of other weights under this name",
    }
    (tmp_path / "demo.json").write_text(json.dumps(claim))
    with pytest.raises(InputError, match="remove the folder or choose another"):
        run_demo(tmp_path, quick=True, weights=weights_copy)
    (tmp_path / "demo.json").write_text("{broken")
    with pytest.raises(InputError, match=r"demo\.json: is not JSON .*remove the folder or choose another"):
        run_demo(tmp_path, quick=True, weights=weights_copy)


def test_the_demo_is_the_configuration_of_the_deployment_with_more_test_scenes(tmp_path: Path) -> None:
    demo, config = demo_config(tmp_path, seed=3), read_self_train(CONFIG)
    assert (demo.policy, demo.ratio, demo.rounds, demo.labelling) == (
        config.policy,
        config.ratio,
        config.rounds,
        config.labelling,
    )
    assert (demo.train.steps, demo.train.optimizer) == (config.train.steps, config.train.optimizer)
    assert demo.data.count == 144
    assert (demo.data.seed, demo.train.seed) == (3, 3)
    assert demo.evaluation.seed != demo.data.seed  # tests on scenes that are not labelled
