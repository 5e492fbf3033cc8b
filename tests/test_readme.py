"""Every command of the README is one that exists, and those that need no download and no patience run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
# On drawn images, they need no download and take seconds.
QUICK = {"glyphs", "bootstrap", "infer", "filter", "browse"}
DRAWN = re.compile(r"(data|work_dirs)/cats\b")


def groundhog_commands() -> list[list[str]]:
    return [command[1:] for command in COMMANDS if command and command[0] == "groundhog"]


def configs_of_init() -> set[str]:
    return {f"configs/self_train_{command[1]}.toml" for command in groundhog_commands() if command[0] == "init"}


@pytest.mark.parametrize("arguments", groundhog_commands(), ids=" ".join)
def test_a_command_takes_these_arguments(arguments: list[str]) -> None:
    from flows.cli.command import build_parser

    build_parser().parse_args(arguments)
    for argument in arguments:
        if argument.startswith("configs/") and argument not in configs_of_init():
            assert (ROOT / argument).is_file()


def test_make_has_the_targets_and_there_are_no_other_commands() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in filter(None, COMMANDS):
        assert command[0] in ("make", "groundhog", "prefect"), command
        if command[0] == "make":
            assert re.search(rf"^{command[1]}:", makefile, re.MULTILINE)


def test_deployments_exist() -> None:
    from flows.orchestration.deployments import configs

    for command in COMMANDS:
        if command[:3] == ["prefect", "deployment", "run"]:
            assert command[3].removeprefix("self-train/") in configs()


# AP of the cats and of all categories, before and after the demo's rounds, as the README has them.
RESULT = re.compile(
    r"AP for cats .*? from (\S+) to (\S+) in .*? AP over all 41 categories rises from (\S+) to (\S+)\.\s", re.DOTALL
)
# Between processors and seeds digits differ: a seed of the table lies up to 0.009 from the mean.
TOLERANCE = 0.02


def test_the_result_is_the_mean_of_the_seeds_in_the_docs() -> None:
    found = RESULT.search(README)
    assert found is not None
    page = (ROOT / "docs/label_quality.md").read_text(encoding="utf-8")
    table = page[page.index("<!-- demo-table:") :].split("\n\n")[0]
    rows = [[cell.split(" · ") for cell in line.split("|")[3:7]] for line in table.splitlines()[3:]]
    for column, means in ((0, found.groups()[:2]), (2, found.groups()[2:])):
        for row, mean in zip((rows[0], rows[-1]), means, strict=True):
            seeds = [float(each) for each in row[column]]
            assert row[column + 1] == [mean] or float(row[column + 1][0]) == pytest.approx(float(mean))
            assert sum(seeds) / len(seeds) == pytest.approx(float(mean), abs=0.0006)
            assert seeds == pytest.approx([float(mean)] * len(seeds), abs=TOLERANCE)


@pytest.mark.slow
def test_this_machine_measures_about_the_result_that_the_demo_starts_from() -> None:
    """An interval, since the last digits depend on the processor."""
    from dataclasses import replace

    from flows import evaluate
    from flows.self_training.demo import TEST_SCENES, _test_scenes, demo_config

    found = RESULT.search(README)
    assert found is not None
    scenes = replace(_test_scenes(demo_config(Path("unused"))), count=TEST_SCENES)
    measured = evaluate(scenes, "glyph-tiny", ["cat"], batch_size=8)
    assert measured.ap == pytest.approx(float(found[1]), abs=TOLERANCE)


@pytest.mark.slow
def test_the_stages_and_the_python_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.cli.command import main

    monkeypatch.chdir(tmp_path)
    quick = [each for each in groundhog_commands() if each[0] in QUICK and DRAWN.match(each[1])]
    ran = [arguments[0] for arguments in quick if main(arguments) == 0]
    assert ran == ["glyphs", "bootstrap", "infer", "filter", "browse"]
    assert len(list((tmp_path / "outputs" / "seen").glob("*.png"))) == 12
    assert "12 drawn, 0 not drawn" in capsys.readouterr().out
    for code in PYTHON:
        exec(compile(code, "README.md", "exec"), {})
