"""The stages as Prefect tasks of the same names: thin shells; files are the truth and Prefect's cache is off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import task, unmapped
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.labelling import bootstrap as bootstrapping
from flows.labelling import filter as filtering
from flows.labelling import infer as inference
from flows.labelling import plan as planning
from flows.labelling.detector_pool import ONE_EACH, Workers, devices_of, held_detectors, let_go
from flows.labelling.infer import missing_shards
from flows.labelling.plan import BATCH_SIZE, Manifest, as_manifest, check_source, read_manifest
from flows.orchestration.artifacts import artifact_key, look_of, name_of_group, named_by_round
from flows.self_training import loop as self_training
from flows.training import mixture as merging
from flows.training import train as training
from formats.io.errors import InputError
from formats.io.locks import lock
from formats.io.storage import absolute


def _shell(function: Callable[..., Any], name: str) -> Any:
    return task(name=name, task_run_name=named_by_round(name), cache_policy=NO_CACHE)(function)


bootstrap_od = _shell(bootstrapping.bootstrap_od, "bootstrap_od")
bootstrap_vg = _shell(bootstrapping.bootstrap_vg, "bootstrap_vg")
plan = _shell(planning.plan, "plan")
filter_candidates = _shell(filtering.filter_candidates, "filter_candidates")
merge = _shell(merging.merge, "merge")
train = _shell(training.train, "train")
evaluate = _shell(self_training.evaluate_weights, "evaluate")


MAX_TASKS = 240  # of a stage: Prefect bears a few hundred; many numbers of workers divide it


@task(name="label_shards", task_run_name="{title}", cache_policy=NO_CACHE, retries=1)
def label_shards(
    title: str, indices: Sequence[int], manifest_path: str, devices: tuple[str, ...], batch_size: int
) -> int:
    """A group of shards, those that are missing, by a model that this process holds; gives how many it labelled.

    Raises RuntimeError at the end when a shard failed; the others are done and stay so.
    """
    # Not a dict of this module: Ray is sent this function with a copy of all that it names here.
    lender = held_detectors(devices)
    manifest = read_manifest(manifest_path)
    # A task that is tried again, after its worker was killed too, goes on behind its last whole shard.
    missing = inference.missing_shards(manifest, indices)
    with lender.lend(manifest) as detector:
        failures = inference.label_shards(manifest, missing, detector, batch_size=batch_size)
    inference.raise_failures(manifest, failures)
    return len(missing)


def infer(manifest: Manifest | str | Path, *, workers: Workers = ONE_EACH, batch_size: int = BATCH_SIZE) -> list[Path]:
    """Maps label_shards over groups of the shards that are missing, with a progress artifact; call it inside a flow.

    Raises as flows.labelling.infer.infer.
    """
    manifest = as_manifest(manifest)
    with lock(manifest.work_dir):
        missing = missing_shards(manifest)
        if missing:
            check_source(manifest)
            _map(manifest, missing, workers, batch_size)
        failed = missing_shards(manifest)  # a task's state may reach the server late, its file is there or not
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(manifest.shards)} shards failed; run again to go on")
    return [manifest.shard_path(shard.index) for shard in manifest.shards]


def _map(manifest: Manifest, missing: Sequence[int], workers: Workers, batch_size: int) -> None:
    look = look_of(manifest.work_dir) or manifest.work_dir.name
    described = f"Labelling {look}: {len(missing)} of {len(manifest.shards)} shards"
    key = artifact_key("labelling", look)
    artifact = cast(UUID, create_progress_artifact(progress=0.0, key=key, description=described))
    grouped = groups(missing, MAX_TASKS)
    # On Ray a worker sees its own GPU alone, whatever its number on the machine.
    devices = tuple(devices_of(workers.devices)) if workers.runner == "threads" else ("auto",)
    with task_runner(workers, len(devices)) as runner:
        futures = runner.map(
            cast(Any, label_shards),  # a task that is no coroutine
            {
                "title": [name_of_group(manifest.work_dir, group) for group in grouped],
                "indices": grouped,
                "manifest_path": unmapped(absolute(manifest.path)),
                "devices": unmapped(devices),
                "batch_size": unmapped(batch_size),
            },
        )
        for done, _ in enumerate(as_completed(list(futures)), start=1):
            update_progress_artifact(artifact, progress=100.0 * done / len(grouped))
    let_go()  # evaluation and training, which come next in this process, need the memory


def groups(indices: Sequence[int], most: int) -> list[list[int]]:
    """The indices in their order, in at most `most` parts whose lengths differ by one at most."""
    parts = min(most, len(indices))
    bounds = [len(indices) * part // parts for part in range(parts + 1)] if parts else []
    return [list(indices[start:end]) for start, end in pairwise(bounds)]


@contextmanager
def task_runner(workers: Workers, devices: int) -> Iterator[TaskRunner[Any]]:
    """What maps tasks while the block runs: a thread a device, or Ray.

    Raises InputError where Ray is asked for and not installed.
    """
    if workers.runner == "threads":
        threads: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=devices)
        with threads:
            yield threads
        return
    try:
        import ray
        from prefect_ray import RayTaskRunner
        from prefect_ray.context import remote_options
    except ImportError as error:
        raise InputError("workers.runner", f"Ray is not installed ({error})", "expected groundhog[ray]") from error
    with RayTaskRunner(address=workers.address) as cluster:
        needs = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {"num_cpus": 1}
        # max_calls: with GPUs Ray's own default is one, and the model would be loaded for every task.
        with remote_options(max_calls=0, **needs):
            yield cluster


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
