"""Who labels: devices that each hold the plan's model, lent to one shard at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from queue import Queue
from typing import Any, Literal, Protocol

from flows.labelling.plan import Manifest
from formats.io.errors import InputError

MAX_DEVICES = 16  # of one machine


class Predictor(Protocol):
    """What labelling asks of a detector; grounding_model.Detector has it."""

    @property
    def predict_each(self) -> Callable[..., Iterator[Any]]:
        """(images, prompt, **settings): in order, a record an image, or a failure with its `error`."""
        ...


class Lender(Protocol):
    """What labelling asks of whoever has the detectors; HeldDetectors has it. devices: one for each detector."""

    devices: tuple[str, ...]

    def lend(self, manifest: Manifest) -> AbstractContextManager[Predictor]:
        """A detector that nobody else uses meanwhile."""
        ...


@dataclass(frozen=True)
class Workers:
    """Where shards are labelled.

    runner: threads of this process, one a device; or a Ray cluster (extra groundhog[ray], inside a Prefect flow),
    where a worker gets a GPU if the cluster has any, else a core.
    devices: for threads, as torch names them; one that stands there twice holds two models. (): whatever the caller
    names, in the end every GPU of the machine or else its CPU.
    address: of the Ray cluster, "HEAD:6379" on one of its machines or "ray://HEAD:10001"; None: RAY_ADDRESS, else a
    cluster of this machine alone, which ends with the stage.
    Raises InputError for settings of the other runner.
    """

    runner: Literal["threads", "ray"] = "threads"
    devices: tuple[str, ...] = ()
    address: str | None = None

    def __post_init__(self) -> None:
        if self.runner not in ("threads", "ray"):
            raise InputError("workers.runner", repr(self.runner), 'expected "threads" or "ray"')
        if self.runner == "ray" and self.devices:
            raise InputError("workers.devices", "Ray itself gives each worker its device", "expected none with Ray")
        if self.runner == "threads" and self.address:
            raise InputError("workers.address", "threads have no address", 'expected runner = "ray" with it')

    def on(self, device: str) -> Workers:
        """These workers, on this device where they name none themselves."""
        return self if self.devices or self.runner == "ray" else replace(self, devices=(device,))


ONE_EACH = Workers()  # a thread for every GPU of the machine, or one for its CPU


def devices_of(devices: Sequence[str]) -> list[str]:
    """Every device by its name, a worker each; "auto" is every GPU of the machine, or its CPU.

    Raises InputError for a device that is not there.
    """
    from grounding_model.detector import choose_device

    return [
        found
        for device in devices or ("auto",)
        for found in (_all_gpus() if device == "auto" else []) or [str(choose_device(device))]
    ]


def _all_gpus() -> list[str]:
    from grounding_model.detector import choose_device

    found: list[str] = []
    while len(found) < MAX_DEVICES:
        try:
            found.append(str(choose_device(f"cuda:{len(found)}")))
        except InputError:
            break
    return found


def load_planned_detector(manifest: Manifest, device: str = "auto") -> Predictor:
    """The detector that the plan names. Raises InputError when its weights are no longer those of the plan."""
    from grounding_model.checkpoints.weights import checkpoint_hash
    from grounding_model.detector import load_detector

    if checkpoint_hash(manifest.weights) != manifest.weights_sha256:
        raise InputError(manifest.weights, "the weights have changed since the plan was made", "plan again")
    return load_detector(manifest.weights, manifest.text_encoder, device)


_Model = tuple[str, str | None]  # hashes of the weights and of the text encoder


class HeldDetectors:
    """The model of the current plan for each worker, loaded once and lent to one thread at a time."""

    def __init__(
        self, devices: Sequence[str], load: Callable[[Manifest, str], Predictor] = load_planned_detector
    ) -> None:
        self.devices, self._load = tuple(devices), load
        self._free: Queue[int] = Queue()
        for place in range(len(self.devices)):
            self._free.put(place)
        self._lock = threading.Lock()
        self._held: dict[int, tuple[_Model, Predictor]] = {}  # by place in devices

    @contextmanager
    def lend(self, manifest: Manifest) -> Iterator[Predictor]:
        """A detector that nobody else uses meanwhile."""
        place = self._free.get()
        try:
            with self._lock:  # two models at once would need the memory of both while they are read
                wanted = (manifest.weights_sha256, manifest.text_encoder_sha256)
                if place not in self._held or self._held[place][0] != wanted:
                    self._held.pop(place, None)  # the old one goes before the new one comes
                    self._held[place] = wanted, self._load(manifest, self.devices[place])
            yield self._held[place][1]
        finally:
            self._free.put(place)


def lender_of(detector: Predictor) -> HeldDetectors:
    """Lends a detector that is there already."""
    return HeldDetectors(["the detector's own"], lambda manifest, device: detector)


_lenders: dict[tuple[str, ...], HeldDetectors] = {}
_lenders_lock = threading.Lock()


def held_detectors(devices: Sequence[str]) -> HeldDetectors:
    """Those of this process on these devices: what one task has loaded the next one finds."""
    with _lenders_lock:
        if tuple(devices) not in _lenders:
            _lenders[tuple(devices)] = HeldDetectors(devices_of(devices))
        return _lenders[tuple(devices)]


def let_go() -> None:
    """Frees the memory of all models that this process holds."""
    with _lenders_lock:
        _lenders.clear()
