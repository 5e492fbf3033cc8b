"""Trains in several processes: runs torchrun as a child process, reports progress, and raises the first error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from formats.io.child_process import end_with_parent
from formats.io.errors import InputError
from formats.io.toml_config import write_config
from grounding_model.training.config import TrainConfig
from grounding_model.training.distributed import check_devices
from grounding_model.training.loop import TrainingFailed, TrainResult

CONFIG_FILE = "config.toml"
PATIENCE = 10  # seconds that a process has to exit before it is killed


def train_in_processes(config: TrainConfig, on_progress: Callable[[dict[str, Any]], None] | None = None) -> TrainResult:
    """Runs grounding_model.training.loop.run_training in config.processes processes on this machine.

    Raises the error of the first process that failed: InputError, or TrainingFailed naming the process.
    """
    check_devices(config.processes, config.device)
    config.work_dir.mkdir(parents=True, exist_ok=True)
    path = config.work_dir / CONFIG_FILE
    write_config(path, config)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={config.processes}"]
    command += ["-m", "grounding_model.training.loop", str(path), "--resume", "--report"]
    environment = {"OMP_NUM_THREADS": "1"} | os.environ  # torchrun's default, set here to avoid its warning
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=end_with_parent
    )
    try:
        return _follow(process, on_progress)
    finally:
        _end(process)


def _follow(process: subprocess.Popen, on_progress: Callable[[dict[str, Any]], None] | None) -> TrainResult:
    """Reads reports until the processes have exited."""
    failure: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    assert process.stdout is not None
    for line in process.stdout:
        try:
            report = json.loads(line)
        except ValueError:
            print(line, end="", file=sys.stderr)  # other output of the processes
            continue
        if "error" in report:
            failure = failure or report
        elif "result" in report:
            result = report["result"]
        elif on_progress is not None:
            on_progress(report["progress"])
    code = process.wait()
    if failure is not None:
        raise _raised(failure)
    if result is None:
        raise TrainingFailed(f"the training processes ended with exit code {code} and no error message")
    return TrainResult(
        Path(result["checkpoint"]),
        result["metrics"],
        Path(result["log"]),
        result["problems"],
        Path(result["best"]) if result["best"] else None,
        result["best_ap"],
    )


def _raised(failure: Mapping[str, Any]) -> Exception:
    process = f"process {failure['process']}"
    if failure["kind"] == "InputError":
        return InputError(**failure["error"])
    return TrainingFailed(f"{process}: {failure['kind']}: {failure['error']}")


def _end(process: subprocess.Popen) -> None:
    """Ends torchrun. On SIGTERM it ends its workers; if it is killed, they end by themselves."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
