"""Defaults of a distillation, in a module that the command line can import quickly."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Trust = Literal["labels", "scores", "none"]

TRUST: Trust = "scores"  # no worse than the others on drawn cats, docs/deploying.md
STEPS = 300
WORK_DIR = Path("work_dirs/distill")
