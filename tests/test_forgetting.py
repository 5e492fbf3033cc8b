"""What fine-tuning cost: which point of the line is advised, what is measured, and that nothing is measured twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from flows.cli.command import main
from flows.evaluation import forgetting
from flows.evaluation.forgetting import ForgettingCurve, Point, Task, curve_from_dict, mean_curve, measure_forgetting
from formats.io.errors import InputError
from grounding_model.checkpoints.checkpoint import save_checkpoint
from grounding_model.checkpoints.weights import load_checkpoint
from grounding_model.model.grounding import GroundingModel

SCENES = """
[truth]
kind = "glyphs"
domain = "{domain}"
count = 3
seed = 900
"""


def curve(*points: tuple[float, float, float], max_loss: float = 0.03) -> ForgettingCurve:
    return ForgettingCurve("cats", ("nouns",), tuple(Point(a, t, (h,)) for a, t, h in points), max_loss)


@pytest.mark.parametrize(
    ("points", "alpha"),
    [
        ([(0, 0.5, 0.8), (0.5, 0.6, 0.79), (1, 0.7, 0.6)], 0.5),  # the best of those that keep enough
        ([(0, 0.5, 0.8), (0.5, 0.6, 0.77), (1, 0.7, 0.6)], 0),  # 0.03 is no less than 0.03
        ([(0, 0.5, 0.8), (0.5, 0.6, 0.79), (1, 0.7, 0.81)], 1),  # nothing was forgotten
        ([(0, 0.5, 0.8), (0.5, 0.4, 0.79), (1, 0.3, 0.79)], 0),  # tuning did harm
        ([(0, 0.5, 0.8), (0.25, 0.6, 0.78), (0.5, 0.6, 0.79), (1, 0.5, 0.7)], 0.5),  # of equals the one that keeps more
    ],
)
def test_the_best_that_forgets_little_is_recommended(points, alpha: float) -> None:
    assert curve(*points).recommended.alpha == alpha


def test_several_held_out_tasks_count_by_their_mean() -> None:
    points = (Point(0, 0.5, (0.8, 0.4)), Point(1, 0.7, (0.75, 0.41)))
    both = ForgettingCurve("cats", ("nouns", "photos"), points, 0.03)
    assert both.recommended.alpha == 1
    assert "held-out mean" in both.table()


def test_the_table_shows_gain_and_loss_and_the_recommendation() -> None:
    table = curve((0, 0.5, 0.8), (0.5, 0.6, 0.79), (1, 0.7, 0.6)).table()
    assert [line.split() for line in table.splitlines()[:4]] == [
        ["alpha", "cats", "nouns"],
        ["0", "0.500", "(+0.000)", "0.800", "(+0.000)"],
        ["0.5", "0.600", "(+0.100)", "0.790", "(-0.010)"],
        ["1", "0.700", "(+0.200)", "0.600", "(-0.200)"],
    ]
    assert table.endswith("recommended: alpha 0.5: +0.100 on cats, -0.010 on held-out tasks (accepted: -0.03)")
    assert "recommended: alpha 0: no other point" in curve((0, 0.5, 0.8), (1, 0.7, 0.6)).table()


def test_a_curve_comes_back_from_its_json_and_means_are_taken_point_by_point() -> None:
    one, other = curve((0, 0.5, 0.8), (1, 0.7, 0.6)), curve((0, 0.5, 0.8), (1, 0.8, 0.5))
    assert curve_from_dict(json.loads(json.dumps(one.as_dict()))) == one
    last = mean_curve([one, other]).points[-1]
    assert (last.alpha, last.target, last.held_out_mean) == (1, pytest.approx(0.75), pytest.approx(0.55))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """glyph-tiny with some weights shaken: it forgets."""
    base = load_checkpoint("glyph-tiny")
    torch.manual_seed(0)
    moved = {n: t + 0.2 * torch.randn_like(t) if "decoder" in n else t for n, t in base.model.state_dict().items()}
    model = GroundingModel(base.model.config)
    model.load_state_dict(moved)
    path = tmp_path_factory.mktemp("tuned") / "model.safetensors"
    save_checkpoint(path, model, base.tokenizer, {})
    return path


@pytest.fixture
def tasks(tmp_path: Path) -> list[Path]:
    paths = []
    for domain in ("cats", "source"):
        paths.append(tmp_path / f"evaluate_{domain}.toml")
        paths[-1].write_text(SCENES.format(domain=domain))
    return paths


@pytest.mark.slow
def test_what_was_measured_is_kept_and_the_rest_is_measured(
    tuned: Path, tasks: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    evaluate = forgetting.evaluate_config
    monkeypatch.setattr(forgetting, "evaluate_config", lambda *a: asked.append(a[0].stem) or evaluate(*a))
    target, held_out, out = Task(tasks[0]), Task(tasks[1]), tmp_path / "out"
    first = measure_forgetting("glyph-tiny", tuned, target, [held_out], out, alphas=[])
    assert [point.alpha for point in first.points] == [0, 1]
    assert len(asked) == 4
    assert first.points[0].held_out_mean > 0.5 > first.points[1].held_out_mean
    again = measure_forgetting("glyph-tiny", tuned, target, [held_out], out, alphas=[0.5])
    assert len(asked) == 6  # alpha 0.5 alone
    assert (again.points[0], again.points[2]) == first.points
    assert curve_from_dict(json.loads((out / "forgetting.json").read_text())) == again
    with Image.open(out / "forgetting.png") as plot:
        assert plot.width > 400
    assert not list(out.rglob("*.safetensors"))  # models between are kept as long as they are needed
    more = Task(tasks[1], ("truth.seed=901",))
    measure_forgetting("glyph-tiny", tuned, target, [more], out, alphas=[])
    assert len(asked) == 8  # other scenes are another measurement


def test_the_command_prints_the_table(
    tuned: Path, tasks: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["forgetting", "glyph-tiny", str(tuned), "--target", str(tasks[0]), "--held-out", str(tasks[1])]
    assert main([*command, "--alphas", "0,1", "--out", str(tmp_path / "out")]) == 0
    assert "recommended: alpha" in capsys.readouterr().out
    assert main([*command, "--alphas", "0,2"]) == 2
    assert "alphas: 2; expected 0" in capsys.readouterr().err
    assert main([*command, "--alphas", "half"]) == 2


def test_without_a_held_out_task_nothing_can_be_said(tuned: Path, tasks: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected at least one that the model was not fine-tuned for"):
        measure_forgetting("glyph-tiny", tuned, Task(tasks[0]), [], tmp_path / "out")
