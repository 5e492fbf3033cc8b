"""Labels shards in one process per device, since threads of one interpreter block each other between GPU kernels."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from typing import Any

from flows.labelling.detector_pool import LocalDetectorPool
from flows.labelling.infer import label_shards, progress_of, raise_failures
from flows.labelling.manifest import Manifest


@dataclass(frozen=True)
class ProcessExecutor:
    """Labels in one process per device. devices: names, from devices_of. progress: whether to show it, per shard."""

    devices: tuple[str, ...]
    progress: bool = True

    def __call__(self, manifest: Manifest, shards: Sequence[int], batch_size: int) -> None:
        """As flows.labelling.infer.Executor. Also raises RuntimeError if a process was killed."""
        context = get_context("spawn")  # a forked process cannot use CUDA
        devices = context.Queue()
        for device in self.devices:
            devices.put(device)
        failures: dict[int, Exception] = {}
        with (
            progress_of(manifest, shards, self.progress) as bar,
            ProcessPoolExecutor(len(self.devices), context, _start, (devices,)) as processes,
        ):
            labellings = {processes.submit(_label, manifest, index, batch_size): index for index in shards}
            try:
                for labelling in as_completed(labellings):
                    index = labellings[labelling]
                    if reason := labelling.result():
                        failures[index] = RuntimeError(reason)
                    bar.update(manifest.shards[index].lines)
            except BrokenProcessPool as error:
                raise RuntimeError("a labelling process was killed; run again to resume") from error
            except BaseException:
                processes.shutdown(wait=False, cancel_futures=True)
                raise
        raise_failures(manifest, failures)


_pool: LocalDetectorPool | None = None  # set in worker processes


def _start(devices: Any) -> None:
    global _pool
    _pool = LocalDetectorPool([devices.get()])
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process with its parent, since a parent that is killed cannot end it."""
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _label(manifest: Manifest, index: int, batch_size: int) -> str:
    """Why the shard failed, or "". Raises errors that affect all shards."""
    assert _pool is not None
    with _pool.acquire(manifest) as detector:
        failures = label_shards(manifest, [index], detector, batch_size=batch_size)
    return str(failures[index]) if index in failures else ""
