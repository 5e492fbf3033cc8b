"""The processes of one training run, each with its own device: torchrun starts them, torch.distributed joins them."""

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

# Longer than the first process alone may take to write a state to a slow disk while the others wait for it.
PATIENCE = timedelta(hours=2)

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """This process among those of the run. index: 0 is the one that writes. local_index: on this machine."""

    index: int = 0
    count: int = 1
    local_index: int = 0

    @property
    def is_first(self) -> bool:
        return self.index == 0


def processes_of_environment() -> Processes:
    """What torchrun says in RANK, WORLD_SIZE and LOCAL_RANK; one process where it says nothing."""
    return Processes(*(int(os.environ.get(name, default)) for name, default in zip(_VARIABLES, ("0", "1", "0"))))


_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Joins the processes that torchrun started, where it started more than one; they part when the block ends.

    device: "cpu" takes gloo; else NCCL where there is a GPU.
    """
    processes = processes_of_environment()
    if processes.count == 1:
        yield processes
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(processes.local_index)
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        yield processes
    finally:
        distributed.destroy_process_group()


def check_devices(processes: int, device: str) -> None:
    """Raises InputError where so many processes of this machine would have to share GPUs."""
    gpus = torch.cuda.device_count()
    if device != "cpu" and gpus and processes > gpus:
        remedy = f"expected {gpus}, with accumulate {-(-processes // gpus)} times as large for as many images a step"
        raise InputError("processes", f"is {processes}, and there are {gpus} GPUs", remedy)


def are_joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def mean_over_processes(values: Sequence[float] | Tensor, device: torch.device) -> Tensor:
    """Numbers of this process -> their means over all, float32."""
    means = torch.as_tensor(values, dtype=torch.float32, device=device).clone()
    if are_joined():
        distributed.all_reduce(means)
        means /= distributed.get_world_size()
    return means


def gathered(value: Any) -> list[Any]:
    """This process's value -> every process's, in their order, on every process."""
    if not are_joined():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def done_by_first(work: Callable[[], Value]) -> Value:
    """What the first process finds, on every process; all have to call it, and the others wait.

    What it raises, all of them raise.
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
    value, problem = outcome
    if problem is not None:
        raise problem
    return value


def counted_together(counts: Mapping[str, int]) -> Counter[str]:
    """The sums of every process's counts."""
    return sum((Counter(one) for one in gathered(dict(counts))), Counter())
