"""The command line: exit codes, messages without a traceback, and stages that work by themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import flows
from flows.cli.command import build_parser, main
from flows.detection import detect as detection
from flows.labelling.bootstrap import bootstrap_od
from formats.record import Instance, Record, Region
from tests.pipeline_cases import make_images

COMMANDS = ["up", "self-train", "detect", "bootstrap", "infer", "filter"]
COMMANDS += ["evaluate", "train", "convert", "weights", "glyphs", "demo", "browse", "browse serve", "rounds status"]
COMMANDS += ["evaluate compare", "weights inspect", "weights interpolate"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert f"example:\n  groundhog {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["detct"], ["detect"], ["detect", "x.jpg", "--texts", "a", "--scale", "8"]])
def test_a_wrong_command_ends_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


# Command -> the place, the fault and the remedy that its message names.
WRONG_INPUTS = [
    ("bootstrap none x_od.json --categories cat", "none: does not exist; expected"),
    ("bootstrap images x_od.json --categories cat,,dog", "categories: "),
    ("bootstrap images x_vg.json --captions none.csv", "none.csv: no such file or folder; expected"),
    ("bootstrap images x_od.json --categories cat --phrases p.json", "--phrases: "),
    ("infer none_od.json images work", "none_od.json: no such file; expected"),
    ("infer x_od.json none work", "none: no such folder; expected"),
    ("infer bare_od.json images work", "bare_od.json: no label map and no captions; expected"),
    ("infer x_od.json images work --weights none.pth", "none.pth"),
    ("infer x_od.json images work --score-floor 2", "--score-floor: 2.0 is outside 0..1; expected"),
    ("infer x_od.json images work --shard-size 0", "--shard-size: is 0; expected a number from 1"),
    ("filter none", "none: no such file; plan first"),
    ("filter none --score-threshold 7", "policy.score_threshold: 7.0 is outside 0..1; expected"),
    ("filter none --class-threshold dog", "--class-threshold: 'dog'; expected"),
    ("filter none --reviewed none.json", "none.json: no such file; expected"),
    ("bootstrap images images --categories cat", "images: Is a directory; expected"),
    ("bootstrap images loop.toml/x_od.json --categories cat", "loop.toml"),
    ("self-train none.toml", "none.toml: does not exist; expected"),
    ("self-train loop.toml --set raunds=3", "loop.toml: raunds: is not a setting; did you mean 'rounds'?"),
    ("self-train loop.toml", "no-photos: no such folder; ask the librarian"),
    ("train none.toml", "none.toml: does not exist; expected"),
    ("train loop.toml", "loop.toml: name: is not a setting; expected"),
    ("evaluate none.toml", "none.toml: does not exist; expected"),
    ("check x_od.json --images none", "none: no such folder; expected"),
    ("convert voc odvg none out.json", "none: "),
    ("convert coco odvg none.json out.json", "none.json: "),
    (
        "convert yolo odvg images out.json",
        "images: has no data.yaml, nor have the folders above; expected --categories",
    ),
    ("convert yolo odvg images out.json --categories cat", "convert yolo: images is missing; expected --images"),
    ("weights none.pth ours.safetensors", "none.pth"),
    ("glyphs g --domain moon", "domain: 'moon'; expected"),
    ("glyphs g --task moon", "task: 'moon'; expected"),
    ("glyphs g --count 0", "--count: 0; expected"),
    ("detect none.jpg --texts cat -c", "none.jpg"),
    ("browse . none.json images", "none.json"),
]


@pytest.mark.parametrize(("command", "expected"), WRONG_INPUTS, ids=[command for command, _ in WRONG_INPUTS])
def test_wrong_input_is_one_line_and_2(
    command: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "images", 1)
    bootstrap_od("images", ["cat"], "x_od.json")
    Path("bare_od.json").write_text(Path("x_od.json").read_text())
    Path("loop.toml").write_text(
        'name = "loop"\n[data]\nkind = "images"\nimages = "no-photos"\nannotations = "y_od.json"\n'
        'categories = ["cat"]\nhow_to_get = "ask the librarian"\n[train]\nwork_dir = "w"\nsteps = 1\n'
    )
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith(("groundhog: ", "groundhog browse: "))
    assert expected in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["filter", "no-such-folder"], ["check", "no-such-file.json"]])
def test_a_process_with_wrong_input_shows_no_traceback(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "flows.cli", *arguments], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("groundhog: ")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "meant"),
    [("evalute x.toml", "'evaluate'"), ("self_train x.toml", "'self-train'"), ("rounds stauts w", "'status'")],
)
def test_a_misspelt_command_gets_a_suggestion(command: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert ended.value.code == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"groundhog {flows.__version__}\n"
    assert flows.__version__ == version("groundhog")


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.labelling.bootstrap.bootstrap_od", interrupted)
    assert main(["bootstrap", "a", "b_od.json", "--categories", "cat"]) == 130


def test_bootstrap_names_what_it_quarantines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_images(tmp_path / "images", 2)
    (tmp_path / "images" / "bad.jpg").write_text("text")
    assert main(["bootstrap", str(tmp_path / "images"), str(tmp_path / "x_od.json"), "--categories", "cat,dog"]) == 0
    printed = capsys.readouterr()
    assert "3 lines" in printed.out
    assert "1 quarantined:" in printed.err
    assert "  line 1: bad.jpg: " in printed.err


def test_convert_writes_labels_that_read_back(tmp_path: Path) -> None:
    (tmp_path / "in_od.json").write_text(
        '{"filename": "a.jpg", "height": 9, "width": 9, "detection": {"instances": '
        '[{"bbox": [1, 2, 3, 4], "label": 0, "category": "cat"}]}}\n'
    )
    assert main(["convert", "odvg", "coco", str(tmp_path / "in_od.json"), str(tmp_path / "coco.json")]) == 0
    assert main(["convert", "coco", "odvg", str(tmp_path / "coco.json"), str(tmp_path / "out_od.json")]) == 0
    assert json.loads((tmp_path / "out_od.json").read_text()) == json.loads((tmp_path / "in_od.json").read_text())
    assert json.loads((tmp_path / "out_label_map.json").read_text()) == {"0": "cat"}


@pytest.mark.parametrize("folder", ["2024", "true", "[a]", 'a "b"', "a\\b"])
def test_a_folder_may_be_called_anything(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr("flows.training.train.train", taken.append)
    monkeypatch.setattr("flows.training.train.describe_training", str)
    config = Path(__file__).parent.parent / "configs" / "glyph_tiny.toml"
    assert main(["train", str(config), "--work-dir", folder, "--weights", folder]) == 0
    assert (str(taken[0].work_dir), taken[0].start.source) == (folder, folder)


def test_self_train_takes_weights_and_a_work_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(Exception):
        """Ends the command before it trains."""

    def seen(config, on_event):
        raise Seen(config)

    monkeypatch.setattr("flows.self_training.loop.self_train", seen)
    config = Path(__file__).parent.parent / "configs" / "self_train_glyphs.toml"
    with pytest.raises(Seen) as ended:
        main(["self-train", str(config), "--weights", "2024", "--work-dir", "w", "--set", "rounds=7"])
    [taken] = ended.value.args
    assert (taken.train.start.source, str(taken.train.work_dir), taken.rounds) == ("2024", "w", 7)


def test_minus_one_and_lists_are_accepted_as_tokens_positive() -> None:
    for value in ("-1", "[[[0,3]]]"):
        options = build_parser().parse_args(["detect", "x.jpg", "--texts", "cat", "--tokens-positive", value])
        assert options.tokens_positive == value


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
