"""The log of a training run: JSON Lines, optionally TensorBoard, and a plot of the curves."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from formats.io.errors import InputError
from formats.io.files import write_whole
from formats.io.plots import new_figure, write_figure
from grounding_model.training.distributed import mean_over_processes

LOG_FILE = "log.jsonl"
CURVES_FILE = "curves.png"
TENSORBOARD_FOLDER = "tensorboard"
MEAN_AP = "validation.ap"
SECONDS_BETWEEN_PLOTS = 10.0  # a plot takes a third of a second


class Meter:
    """Means over the steps since the last read()."""

    def __init__(self, device: torch.device, processes: int = 1) -> None:
        self._device, self._processes = device, processes
        self._clear()
        self._began = time.perf_counter()
        self.restart_clock()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._steps = self._images = 0

    def restart_clock(self) -> None:
        """Exclude the time until now from the next images_per_second."""
        self._since = time.perf_counter()

    def add(self, losses: Mapping[str, Tensor], norm: Tensor, images: int) -> None:
        """One step of this process: the parts of the loss, the gradient norm, the number of images."""
        for name, value in [*losses.items(), ("gradient_norm", norm)]:
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += 1
        self._images += images

    def read(self) -> dict[str, float]:
        """The means over all processes, which must call it at the same step."""
        sums = torch.stack([torch.as_tensor(value, dtype=torch.float32) for value in self._sums.values()])
        means = mean_over_processes(sums / self._steps, self._device).tolist()
        by_name = dict(zip(self._sums, means))
        now = time.perf_counter()
        numbers = {
            "loss": sum(value for name, value in by_name.items() if name != "gradient_norm"),
            **by_name,
            "images_per_second": self._processes * self._images / max(now - self._since, 1e-9),
            "memory_gib": memory_in_use(self._device) / 2**30,
            "seconds": now - self._began,
        }
        self._clear()
        self.restart_clock()
        return numbers


def memory_in_use(device: torch.device) -> int:
    """Bytes: on a GPU the peak of tensors since the last call; on a CPU the current memory of the process."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux: the peak of the process
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class TrainingLog:
    """JSON Lines; on resuming, lines after the last saved state are removed.

    last: the latest value of every number. validated: steps with a logged validation. best_ap: the highest mean AP so
    far, -1 before the first. Processes other than the first keep the numbers but write nothing.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
        writes: bool = True,
        tensorboard: bool = False,
    ) -> None:
        self.path, self._on_progress, self._writes = folder / LOG_FILE, on_progress, writes
        lines = self.path.read_text(encoding="utf-8").splitlines() if step and self.path.exists() else []
        kept = [line for line in lines if _is_up_to(line, step)]
        self.last: dict[str, float] = {}
        self.validated: set[int] = set()
        self.best_ap = -1.0
        self._drawn = time.monotonic()
        for numbers in map(json.loads, kept):
            self._update(numbers)
        self._board = _tensorboard(folder / TENSORBOARD_FOLDER, step) if tensorboard and writes else None
        if writes:
            with write_whole(self.path) as stream:
                stream.writelines(line + "\n" for line in kept)

    def write(self, numbers: dict[str, Any]) -> dict[str, Any]:
        """One line; numbers has its "step"."""
        self._update(numbers)
        if not self._writes:
            return numbers
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(numbers) + "\n")
        if self._board is not None:
            for name, value in numbers.items():
                if name != "step":
                    self._board.add_scalar(name.replace(".", "/", 1), value, numbers["step"])
            self._board.flush()
        if self._on_progress:
            self._on_progress(numbers)
        return numbers

    def draw(self, finished: bool = False) -> None:
        """Writes the plot of the curves if the log has any numbers; before the end not more often than is seen."""
        if self._writes and self.last and (finished or time.monotonic() - self._drawn >= SECONDS_BETWEEN_PLOTS):
            draw_curves(self.path, self.path.with_name(CURVES_FILE))
            self._drawn = time.monotonic()

    def _update(self, numbers: Mapping[str, Any]) -> None:
        self.last |= numbers
        if MEAN_AP in numbers:
            self.validated.add(numbers["step"])
            self.best_ap = max(numbers[MEAN_AP], self.best_ap)


def _is_up_to(line: str, step: int) -> bool:
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError):  # a truncated line
        return False


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "tensorboard", f"is not installed ({error})", "expected pip install 'groundhog[tensorboard]', or false"
        ) from error
    return SummaryWriter(str(folder), purge_step=step + 1)


def draw_curves(log: Path, out: Path) -> None:
    """Loss and its parts of the last layer, learning rate and AP over the steps of a log, as one picture."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]

    def curve(name: str) -> tuple[list[int], list[float]]:
        points = [(line["step"], line[name]) for line in lines if name in line]
        return [step for step, _ in points], [value for _, value in points]

    panels = {
        "loss": ["loss"],
        "last decoder layer": ["loss_cls", "loss_bbox", "loss_iou"],
        "learning rate": ["learning_rate"],
        "AP": sorted({name for line in lines for name in line if name.startswith("validation.")}),
    }
    panels = {title: drawn for title, names in panels.items() if (drawn := [n for n in names if curve(n)[0]])}
    figure = new_figure(4.2 * len(panels), 3.2)
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (title, names) in zip(axes[0], panels.items()):
        for name in names:
            steps, values = curve(name)
            axis.plot(steps, values, marker="o" if len(steps) < 20 else None, markersize=3, label=name)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if title == "AP":
            axis.set_ylim(0, 1)
        elif min(curve(names[0])[1]) >= 0:
            axis.set_ylim(bottom=0)
        if len(names) > 1:
            axis.legend(fontsize="small")
    write_figure(out, figure)
