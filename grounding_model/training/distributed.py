"""The processes of one training run, one per device: torchrun starts them, torch.distributed connects them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from formats.io.errors import InputError

# Longer than the first process may take to write a state to a slow disk while the others wait.
TIMEOUT = timedelta(hours=2)
MIN_PROCESSES = 8  # allowed on any machine without GPUs: each takes more than a gigabyte of memory

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """This process among those of the run. index: its rank; rank 0 writes. local_index: its rank on this machine."""

    index: int = 0
    count: int = 1
    local_index: int = 0

    @property
    def is_first(self) -> bool:
        return self.index == 0


def processes_of_environment() -> Processes:
    """From RANK, WORLD_SIZE and LOCAL_RANK, which torchrun sets; a single process if they are not set."""
    return Processes(*(int(os.environ.get(name, default)) for name, default in zip(_VARIABLES, ("0", "1", "0"))))


_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """A process group of the processes that torchrun started, if it started more than one, until the block ends.

    device: "cpu" uses gloo, others NCCL if there is a GPU.
    """
    processes = processes_of_environment()
    if processes.count == 1:
        yield processes
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(processes.local_index)
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    try:
        yield processes
    finally:
        distributed.destroy_process_group()


def check_devices(processes: int, device: str) -> None:
    """Raises InputError when this machine has fewer GPUs than processes, or, without GPUs, far fewer cores."""
    gpus = torch.cuda.device_count()
    if not gpus and processes > (most := max(MIN_PROCESSES, os.cpu_count() or 1)):
        what = f"is {processes}, but there are only {os.cpu_count()} cores"
        raise InputError("processes", what, f"expected at most {most}")
    if device != "cpu" and gpus and processes > gpus:
        remedy = f"expected at most {gpus}, and for as many images a step accumulate times {-(-processes // gpus)}"
        raise InputError("processes", f"is {processes}, but there are only {gpus} GPUs", remedy)


def are_joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def mean_over_processes(values: Sequence[float] | Tensor, device: torch.device) -> Tensor:
    """Values of this process -> their means over all processes, float32."""
    means = torch.as_tensor(values, dtype=torch.float32, device=device).clone()
    if are_joined():
        distributed.all_reduce(means)
        means /= distributed.get_world_size()
    return means


def gather_from_processes(value: Any) -> list[Any]:
    """This process's value -> the values of all processes, in order of rank, on every process."""
    if not are_joined():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def run_on_first(work: Callable[[], Value]) -> Value:
    """Runs `work` on the first process and returns its result on all; all must call it, and the others wait.

    If it raises an exception, all processes raise it.
    """
    if not are_joined():
        return work()
    outcome: list[Any] = [None, None]
    if distributed.get_rank() == 0:
        try:
            outcome[0] = work()
        except Exception as error:
            outcome[1] = error
    distributed.broadcast_object_list(outcome)
    value, failure = outcome
    if failure is not None:
        raise failure
    return value


def sum_counts(counts: Mapping[str, int]) -> Counter[str]:
    """The sums of the counts of all processes."""
    return sum((Counter(part) for part in gather_from_processes(dict(counts))), Counter())
