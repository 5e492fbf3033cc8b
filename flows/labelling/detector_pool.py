"""Pools of detectors: each device holds the model of the plan, and a thread acquires it for one shard at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from queue import Queue
from typing import Any, Protocol

from flows.labelling.manifest import Manifest
from formats.io.errors import InputError
from grounding_model.checkpoints.locations import checkpoint_hash
from grounding_model.detector import choose_device, load_detector

MAX_DEVICES = 16  # per machine


class Predictor(Protocol):
    """The interface of a detector for labelling; grounding_model.Detector implements it."""

    @property
    def predict_each(self) -> Callable[..., Iterator[Any]]:
        """(images, prompt, **settings): yields one record or failure (with `error`) per image, in order."""
        ...


class DetectorPool(Protocol):
    """The interface of a pool; LocalDetectorPool implements it. devices: one per detector."""

    devices: tuple[str, ...]

    def acquire(self, manifest: Manifest) -> AbstractContextManager[Predictor]:
        """A detector for exclusive use."""
        ...


def devices_of(devices: Sequence[str]) -> list[str]:
    """The devices by name, one per worker; "auto" stands for all GPUs of the machine, or its CPU.

    Raises InputError for a device that does not exist.
    """
    return [
        found
        for device in devices or ("auto",)
        for found in (_all_gpus() if device == "auto" else []) or [str(choose_device(device))]
    ]


def _all_gpus() -> list[str]:
    found: list[str] = []
    while len(found) < MAX_DEVICES:
        try:
            found.append(str(choose_device(f"cuda:{len(found)}")))
        except InputError:
            break
    return found


def load_planned_detector(manifest: Manifest, device: str = "auto") -> Predictor:
    """The detector of a plan. Raises InputError if its weights have changed since the plan was made."""
    if checkpoint_hash(manifest.weights) != manifest.weights_sha256:
        raise InputError(manifest.weights, "the weights have changed since the plan was made", "plan again")
    return load_detector(manifest.weights, manifest.text_encoder, device, manifest.dtype)


_Model = tuple[str, str | None, str]  # hashes of the weights and of the text encoder, number format


class LocalDetectorPool:
    """A detector for each device, loaded once per plan and used by one thread at a time."""

    def __init__(
        self, devices: Sequence[str], load: Callable[[Manifest, str], Predictor] = load_planned_detector
    ) -> None:
        self.devices, self._load = tuple(devices), load
        self._free: Queue[int] = Queue()
        for index in range(len(self.devices)):
            self._free.put(index)
        self._lock = threading.Lock()
        self._held: dict[int, tuple[_Model, Predictor]] = {}  # by index in devices

    @contextmanager
    def acquire(self, manifest: Manifest) -> Iterator[Predictor]:
        """A detector for exclusive use."""
        index = self._free.get()
        try:
            with self._lock:  # loading several models at once would need more memory
                wanted = (manifest.weights_sha256, manifest.text_encoder_sha256, manifest.dtype)
                if index not in self._held or self._held[index][0] != wanted:
                    self._held.pop(index, None)  # free the old model before loading the new one
                    self._held[index] = wanted, self._load(manifest, self.devices[index])
            yield self._held[index][1]
        finally:
            self._free.put(index)


def pool_of(detector: Predictor) -> LocalDetectorPool:
    """A pool with one detector that is already loaded."""
    return LocalDetectorPool(["the detector's own"], lambda manifest, device: detector)


_pools: dict[tuple[str, ...], LocalDetectorPool] = {}
_pools_lock = threading.Lock()


def shared_pool(devices: Sequence[str]) -> LocalDetectorPool:
    """The pool of this process for these devices, so that successive tasks load a model only once."""
    with _pools_lock:
        if tuple(devices) not in _pools:
            _pools[tuple(devices)] = LocalDetectorPool(devices_of(devices))
        return _pools[tuple(devices)]


def release_detectors() -> None:
    """Frees all models in the shared pools of this process."""
    with _pools_lock:
        _pools.clear()
