"""The stages as Prefect tasks of the same names: thin shells; files are the truth and Prefect's cache is off."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any, cast
from uuid import UUID

from prefect import task, unmapped
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed

from flows import bootstrapping, filtering, inference, merging, planning, self_training, training
from flows.inference import Predictor, load_planned_detector, missing_shards
from flows.planning import Manifest, check_source, read_manifest
from formats.problems import InputError


def _shell(function: Callable[..., Any], name: str) -> Any:
    return task(name=name, task_run_name=name, cache_policy=NO_CACHE)(function)


bootstrap_od = _shell(bootstrapping.bootstrap_od, "bootstrap_od")
bootstrap_vg = _shell(bootstrapping.bootstrap_vg, "bootstrap_vg")
plan = _shell(planning.plan, "plan")
filter_candidates = _shell(filtering.filter_candidates, "filter_candidates")
merge = _shell(merging.merge, "merge")
train = _shell(training.train, "train")
evaluate = _shell(self_training.evaluate_weights, "evaluate")


MAX_DEVICES = 16  # threads that label; those beyond the devices wait for one


_Model = tuple[str, str | None]  # hashes of the weights and of the text encoder


class HeldDetectors:
    """The model of the current plan on each device, loaded once and lent to one worker at a time."""

    def __init__(self, devices: list[str]) -> None:
        self._free: Queue[str] = Queue()
        for device in devices:
            self._free.put(device)
        self._lock = threading.Lock()
        self._held: dict[str, tuple[_Model, Predictor]] = {}  # by device

    @contextmanager
    def lend(self, manifest: Manifest) -> Iterator[Predictor]:
        """A detector that nobody else uses meanwhile."""
        device = self._free.get()
        try:
            with self._lock:  # two models at once would need the memory of both while they are read
                wanted = (manifest.weights_sha256, manifest.text_encoder_sha256)
                if device not in self._held or self._held[device][0] != wanted:
                    self._held.pop(device, None)  # the old one goes before the new one comes
                    self._held[device] = wanted, load_planned_detector(manifest, device)
            yield self._held[device][1]
        finally:
            self._free.put(device)


_lenders: dict[str, HeldDetectors] = {}
_lenders_lock = threading.Lock()


def devices_of(device: str) -> list[str]:
    """'auto' is every GPU of the machine, or its CPU; anything else is one device."""
    from grounding_model.detector import choose_device

    found: list[str] = []
    while device == "auto" and len(found) < MAX_DEVICES:
        try:
            found.append(str(choose_device(f"cuda:{len(found)}")))
        except InputError:
            break
    return found or [str(choose_device(device))]


@task(name="label_shard", task_run_name="label_shard {index}", cache_policy=NO_CACHE, retries=1)
def label_shard(index: int, manifest_path: str, device: str, batch_size: int) -> str:
    """One shard by a model that this worker holds; gives the file's path."""
    with _lenders_lock:
        lender = _lenders.setdefault(device, HeldDetectors(devices_of(device)))
    manifest = read_manifest(manifest_path)
    with lender.lend(manifest) as detector:
        return str(inference.label_shard(manifest, index, detector, batch_size=batch_size))


def infer(
    manifest: Manifest | str | Path, *, device: str = "auto", batch_size: int = inference.BATCH_SIZE
) -> list[Path]:
    """Maps label_shard over the shards that are missing, with a progress artifact; call it inside a flow.

    Raises RuntimeError at the end when a shard failed; the others are done and stay so.
    """
    manifest = manifest if isinstance(manifest, Manifest) else read_manifest(manifest)
    missing = missing_shards(manifest)
    if missing:
        check_source(manifest)
        futures = label_shard.map(missing, unmapped(str(manifest.path)), unmapped(device), unmapped(batch_size))
        described = f"{len(missing)} shards of {manifest.work_dir}"
        artifact = cast(UUID, create_progress_artifact(progress=0.0, description=described))
        for done, _ in enumerate(as_completed(list(futures)), start=1):
            update_progress_artifact(artifact, progress=100.0 * done / len(missing))
        with _lenders_lock:
            _lenders.clear()  # evaluation and training, which come next in this process, need the memory
    if failed := missing_shards(manifest):  # a task's state may reach the server late, its file is there or not
        raise RuntimeError(f"{len(failed)} of {len(manifest.shards)} shards failed; run again to go on")
    return [manifest.shard_path(shard.index) for shard in manifest.shards]


STAGES = self_training.Stages(
    bootstrap_od=bootstrap_od,
    bootstrap_vg=bootstrap_vg,
    plan=plan,
    infer=infer,
    filter_candidates=filter_candidates,
    merge=merge,
    train=train,
    evaluate=evaluate,
)
