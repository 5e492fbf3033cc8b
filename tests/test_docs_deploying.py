"""docs/deploying.md: what it shows works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flows.cli.command import build_parser
from grounding_model.students.build import start_student
from grounding_model.students.config import FromStudent
from grounding_model.students.export import export_onnx

PAGE = (Path(__file__).parent.parent / "docs" / "deploying.md").read_text(encoding="utf-8")


def test_every_command_of_the_page_is_one() -> None:
    lines = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("groundhog ")]
    assert len(commands) >= 4
    for line in commands:
        build_parser().parse_args(shlex.split(line)[1:])


@pytest.mark.slow
def test_the_lines_of_python_run_with_onnx_runtime_alone(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    torch.manual_seed(0)
    student = start_student(FromStudent("glyph-student", image_size=64), ("cat", "dog")).eval()
    export_onnx(tmp_path / "student.onnx", student)
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(tmp_path / "photo.jpg")
    program = program.replace("score > 0.5", "score > 0.0")
    done = subprocess.run(
        [sys.executable, "-c", program + "\nimport sys; assert 'torch' not in sys.modules"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} <= {"cat", "dog"}
    assert done.stdout
