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
# Their arguments name nothing that has to be downloaded, and they take seconds.
QUICK = {"glyphs", "bootstrap", "infer", "filter", "browse"}


def groundhog_commands() -> list[list[str]]:
    return [command[1:] for command in COMMANDS if command and command[0] == "groundhog"]


@pytest.mark.parametrize("arguments", groundhog_commands(), ids=" ".join)
def test_a_command_takes_these_arguments(arguments: list[str]) -> None:
    from flows.cli.command import build_parser

    build_parser().parse_args(arguments)
    for argument in arguments:
        if argument.startswith("configs/"):
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


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


@pytest.mark.slow
def test_the_stages_and_the_python_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.cli.command import main

    monkeypatch.chdir(tmp_path)
    ran = [arguments[0] for arguments in groundhog_commands() if arguments[0] in QUICK and main(arguments) == 0]
    assert ran == ["glyphs", "bootstrap", "infer", "filter", "browse"]
    assert len(list((tmp_path / "outputs" / "seen").glob("*.png"))) == 12
    assert "12 drawn, 0 not drawn" in capsys.readouterr().out
    for code in PYTHON:
        exec(compile(code, "README.md", "exec"), {})
