"""docs/inference.md: its commands and its notebook run on the embedded model, and its pictures are there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.command import build_parser
from grounding_model.checkpoints.locations import EMBEDDED

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "inference.md").read_text(encoding="utf-8")
# A remark before a block says what this machine may lack.
BLOCKS = re.findall(r"(?:<!-- needs (.+?) -->\n)?```(sh|python)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for _, kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
# In the order of the page, because commands read what earlier ones drew.
RUNNABLE = [block for block in BLOCKS if not block[0]]
embedded = pytest.mark.skipif(
    not EMBEDDED["glyph-tiny"].is_file(), reason="grounding_model/glyph-tiny.safetensors is not there yet"
)


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("groundhog")])
def test_every_command_is_one_that_the_command_line_takes(command: str) -> None:
    build_parser().parse_args(shlex.split(command)[1:])


@pytest.mark.slow
@embedded
def test_every_block_runs_in_the_order_of_the_page(tmp_path: Path) -> None:
    for _, kind, text in RUNNABLE:
        commands = [[sys.executable, "-m", "flows.cli", *shlex.split(line)[1:]] for line in text.splitlines()]
        for command in commands if kind == "sh" else [[sys.executable, "-c", text]]:
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment())
            assert done.returncode == 0, f"{text}\n{done.stderr}"


@embedded
def test_every_picture_is_there() -> None:
    pictures = re.findall(r"!\[.*?\]\((.+?)\)", PAGE)
    assert pictures
    assert [picture for picture in pictures if not (ROOT / "docs" / picture).is_file()] == []


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
