"""The command line: exit codes, messages without a traceback, and stages that work by themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows import detection
from flows.cli import build_parser, main
from formats.record import Instance, Record, Region
from tests.pipeline_cases import make_images

COMMANDS = ["up", "self-train", "detect", "bootstrap", "infer", "filter"]
COMMANDS += ["evaluate", "train", "convert", "weights", "glyphs"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"example:\n  groundhog {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["detct"], ["detect"], ["detect", "x.jpg", "--texts", "a", "--scale", "8"]])
def test_a_wrong_command_ends_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["bootstrap", "no-such-folder", "x_od.json", "--categories", "cat"],
        ["filter", "no-such-folder"],
        ["self-train", "no-such-file.toml"],
        ["detect", "no-such.jpg", "--texts", "cat", "-c"],
        ["detect", "x.jpg", "--texts", "$: no-such-set"],
    ],
)
def test_wrong_input_is_a_message_and_2(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "flows.cli", *arguments], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("groundhog: ")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.bootstrapping.bootstrap_od", interrupted)
    assert main(["bootstrap", "a", "b_od.json", "--categories", "cat"]) == 130


def test_bootstrap_names_what_it_quarantines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_images(tmp_path / "images", 2)
    (tmp_path / "images" / "bad.jpg").write_text("text")
    assert main(["bootstrap", str(tmp_path / "images"), str(tmp_path / "x_od.json"), "--categories", "cat,dog"]) == 0
    told = capsys.readouterr()
    assert "3 lines" in told.out
    assert "1 quarantined:" in told.err
    assert "  line 1: bad.jpg: " in told.err


def test_convert_writes_labels_that_read_back(tmp_path: Path) -> None:
    (tmp_path / "in_od.json").write_text(
        '{"filename": "a.jpg", "height": 9, "width": 9, "detection": {"instances": '
        '[{"bbox": [1, 2, 3, 4], "label": 0, "category": "cat"}]}}\n'
    )
    assert main(["convert", "odvg", "coco", str(tmp_path / "in_od.json"), str(tmp_path / "coco.json")]) == 0
    assert main(["convert", "coco", "odvg", str(tmp_path / "coco.json"), str(tmp_path / "out_od.json")]) == 0
    assert json.loads((tmp_path / "out_od.json").read_text()) == json.loads((tmp_path / "in_od.json").read_text())
    assert json.loads((tmp_path / "out_label_map.json").read_text()) == {"0": "cat"}


def test_minus_one_and_lists_are_taken_as_tokens_positive() -> None:
    for given in ("-1", "[[[0,3]]]"):
        options = build_parser().parse_args(["detect", "x.jpg", "--texts", "cat", "--tokens-positive", given])
        assert options.tokens_positive == given


def test_predictions_are_sorted_and_name_their_labels() -> None:
    od = Record("a", 9, 9, instances=(Instance((0, 0, 1, 1), 1, "dog", 0.2), Instance((0, 0, 2, 2), 0, "cat", 0.9)))
    assert detection.as_prediction(od) == {
        "labels": [0, 1],
        "label_names": ["cat", "dog"],
        "scores": [0.9, 0.2],
        "bboxes": [[0, 0, 2, 2], [0, 0, 1, 1]],
    }
    region = Region(((0, 0, 1, 1),), ("a", "cat"), ((0, 1), (2, 5)), (0.5,))
    vg = Record("a", 9, 9, caption="a cat", regions=(region,))
    assert detection.as_prediction(vg)["label_names"] == ["a / cat"]
