"""Every configuration of an evaluation: on a small tree of its benchmark, laid out as published, and on nothing."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from flows.cli.command import main
from flows.evaluation import report as evaluation_report
from flows.evaluation.config import EvaluateConfig
from flows.evaluation.evaluate import evaluate_config
from flows.labelling import detector_pool
from formats.io.toml_config import read_config
from formats.record import Instance, Record, Region
from grounding_model.glyphs import SIDE
from tests.benchmark_trees import TREES, Placed
from tests.paths import GOLDEN

ROOT = GOLDEN.parent.parent
CONFIGS = sorted((ROOT / "configs").glob("evaluate_*.toml"))
PUBLISHED = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem == "evaluate_odinw35" else [])
    for path in CONFIGS
    if "glyphs" not in path.stem
]


class Oracle:
    """A detector that knows what was placed, in the words of any prompt. images: those it was asked about, in order."""

    def __init__(self, placed: Placed) -> None:
        self.placed = placed
        self.images: list[str] = []

    def predict_each(self, images, prompt, **settings):
        for path, own in zip(images, [prompt] * len(images) if not isinstance(prompt, list) else prompt):
            self.images.append(str(path))
            yield self.answer(str(path), own)

    def answer(self, path: str, prompt: Any) -> Record:
        known = self.placed[path]
        if prompt.kind == "categories":
            named = enumerate(prompt.labels)
            found = [Instance(box, label, name, 0.9) for label, name in named for box in known.get(name, [])]
            return Record(path, SIDE, SIDE, tuple(found))
        phrases = prompt.labels if prompt.kind == "phrases" else (prompt.text,)
        regions = tuple(_region(words, known.get(words, [])) for words in phrases)
        return Record(path, SIDE, SIDE, caption=prompt.text, regions=regions)


def _region(words: str, boxes: Sequence[tuple[float, ...]]) -> Region:
    return Region(tuple(boxes), (words,), (), (0.9,) * len(boxes))


def overrides(config: Path, root: Path) -> list[str]:
    """The configuration's paths below `root` in place of the working folder, and weights that are there."""
    table = tomllib.loads(config.read_text(encoding="utf-8"))
    weights = root / "model.safetensors"
    weights.write_bytes(b"none")
    moved = [f"weights={json.dumps(str(weights))}", f"work_dir={json.dumps(str(root / 'work'))}", "resamples=10"]
    moved.append("workers.devices=['cpu']")  # one: the order of the questions is looked at
    paths = [(key, value) for key, value in table["truth"].items() if str(value).startswith("data/")]
    return moved + [f"truth.{key}={json.dumps(str(root / value))}" for key, value in paths]


@pytest.mark.parametrize("config", PUBLISHED)
def test_a_published_layout_is_measured(config, tmp_path, monkeypatch):
    placed: Placed = {}
    TREES[config.stem](tmp_path / "data", placed)
    oracle = Oracle(placed)
    monkeypatch.setattr(detector_pool, "load_detector", lambda *arguments: oracle)
    monkeypatch.setattr(
        evaluation_report, "write_evaluation_files", lambda *arguments: []
    )  # plots of 35 sets take half a minute
    printed = evaluate_config(config, overrides(config, tmp_path))
    written = json.loads((tmp_path / "work/evaluation.json").read_text())
    if "sets" in written:
        assert written["ap"] == pytest.approx(1)
        assert set(written["sets"].values()) == {1.0}
        assert len(written["sets"]) == int(config.stem[-2:])
        return
    assert written[written["headline"]] == pytest.approx(1)
    assert written["images"] == 2
    assert "published: " in printed or not read_config(config, EvaluateConfig).published
    changes = sum(one != other for one, other in zip(oracle.images, oracle.images[1:]))
    assert changes + 1 == len(set(oracle.images))  # captions of an image are asked one after the other


@pytest.mark.parametrize("config", PUBLISHED)
def test_missing_data_are_reported_with_what_is_expected(config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"none")
    arguments = ["evaluate", str(config), "--weights", "model.safetensors", "--set", "work_dir=work"]
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert "data/" in printed.splitlines()[0]
    assert "does not exist" in printed
    assert read_config(config, EvaluateConfig).get.strip() in printed


def test_annotations_without_their_images_say_what_is_wanted(tmp_path, monkeypatch, capsys):
    placed: Placed = {}
    TREES["evaluate_coco"](tmp_path / "data", placed)
    for path in placed:
        Path(path).unlink()
    monkeypatch.chdir(tmp_path)
    arguments = ["evaluate", str(ROOT / "configs/evaluate_coco.toml"), *("--set", "work_dir=work")]
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert "000000000139.jpg: no such image; expected COCO 2017" in printed


@pytest.mark.parametrize("config", [path for path in CONFIGS if "glyphs" in path.stem], ids=lambda path: path.stem)
def test_the_glyph_world_is_measured(config, tmp_path):
    """With the embedded model; of 100 scenes it sees four."""
    moved = [f"work_dir={json.dumps(str(tmp_path))}", "truth.count=4", "resamples=10"]
    evaluate_config(config, moved, tmp_path / "show")
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written[written["headline"]] > 0
    assert len(list((tmp_path / "show").iterdir())) == 4
