"""A few kills of the harness; the hundred of docs/scaling.md are run by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="sessions and /proc")
def test_killed_runs_and_a_refused_one_leave_what_an_undisturbed_run_leaves(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/kill_harness.py", str(tmp_path / "kills"), "--points", "4", "--second"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 kills in" in done.stdout
    assert "a second loop was refused: equal" in done.stdout
