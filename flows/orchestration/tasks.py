"""The stages as Prefect tasks of the same names, without logic. All state is in files; Prefect's cache is off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import Task, task, unmapped
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.distillation import distill as distillation
from flows.labelling import bootstrap as bootstrapping
from flows.labelling import filter as filtering
from flows.labelling import infer as inference
from flows.labelling import plan as planning
from flows.labelling.detector_pool import devices_of, release_detectors, shared_pool
from flows.labelling.manifest import Manifest, PlanOrPath, read_manifest
from flows.labelling.settings import ONE_EACH, Execution, Workers
from flows.labelling.shards import missing_shards
from flows.orchestration.artifacts import artifact_key
from flows.self_training import scores
from flows.self_training.stages import RunName, Stage, Stages
from flows.training import mixture as merging
from flows.training import train as training
from formats.io.errors import InputError
from formats.io.storage import absolute


def _shell(function: Callable[..., Any], name: str) -> Any:
    return task(name=name, task_run_name=name, cache_policy=NO_CACHE)(function)


def named(stage: Stage, name: RunName) -> Stage:
    """The same stage with named task runs, such as "plan v2" or "label v2, view 1, shards 4-6"."""
    if stage is infer:
        return partial(infer, name=name)
    return stage.with_options(task_run_name=f"{stage.name} {name}") if isinstance(stage, Task) else stage


bootstrap_od = _shell(bootstrapping.bootstrap_od, "bootstrap_od")
bootstrap_vg = _shell(bootstrapping.bootstrap_vg, "bootstrap_vg")
plan = _shell(planning.plan, "plan")
filter_candidates = _shell(filtering.filter_candidates, "filter_candidates")
merge = _shell(merging.merge, "merge")
train = _shell(training.train, "train")
distill = _shell(distillation.distill, "distill")
evaluate = _shell(scores.evaluate_weights, "evaluate")

NO_ROUND = RunName()
MAX_TASKS = 240  # per stage: Prefect handles a few hundred well, and it is divisible by most numbers of workers


@task(name="label_shards", task_run_name="{title}", cache_policy=NO_CACHE, retries=1)
def label_shards(
    title: str, indices: Sequence[int], manifest_path: str, devices: tuple[str, ...], batch_size: int
) -> int:
    """Labels the missing shards of a group with a model that stays loaded in this process; returns their number.

    Raises RuntimeError at the end if a shard failed; finished shards are kept.
    """
    # Not a global of this module: Ray gets this function with a copy of every global that it uses.
    pool = shared_pool(devices)
    manifest = read_manifest(manifest_path)
    # A retried task, also one whose worker was killed, resumes after its last complete shard.
    missing = missing_shards(manifest, indices)
    with pool.acquire(manifest) as detector:
        failures = inference.label_shards(manifest, missing, detector, batch_size=batch_size)
    inference.raise_failures(manifest, failures)
    return len(missing)


def infer(
    manifest: PlanOrPath,
    *,
    workers: Workers = ONE_EACH,
    batch_size: int = Execution.batch_size,
    name: RunName = NO_ROUND,
) -> list[Path]:
    """Runs flows.labelling.infer.infer as mapped tasks with a progress artifact; must be called inside a flow."""
    return inference.infer(manifest, batch_size=batch_size, executor=MappedTasks(workers, name))


@dataclass(frozen=True)
class MappedTasks:
    """Labels groups of shards as Prefect tasks, on threads of this process or on Ray. name: of the stage's run."""

    workers: Workers
    name: RunName = NO_ROUND

    def __call__(self, manifest: Manifest, shards: Sequence[int], batch_size: int) -> None:
        groups = grouped(shards, MAX_TASKS)
        # On Ray, a worker sees only its own GPU, whatever its number on the machine.
        devices = tuple(devices_of(self.workers.devices)) if self.workers.runner == "threads" else ("auto",)
        artifact = self._progress(manifest, len(shards))
        with task_runner(self.workers, len(devices)) as runner:
            futures = runner.map(
                cast(Any, label_shards),  # mypy takes the task for a coroutine
                {
                    "title": [title_of_group(self.name, group) for group in groups],
                    "indices": groups,
                    "manifest_path": unmapped(absolute(manifest.path)),
                    "devices": unmapped(devices),
                    "batch_size": unmapped(batch_size),
                },
            )
            for done, _ in enumerate(as_completed(list(futures)), start=1):
                update_progress_artifact(artifact, progress=100.0 * done / len(groups))
        release_detectors()  # evaluation and training, which come next in this process, need the memory

    def _progress(self, manifest: Manifest, shards: int) -> UUID:
        labelled = str(self.name) or manifest.work_dir.name
        description = f"Labelling {labelled}: {shards} of {len(manifest.shards)} shards"
        key = artifact_key("labelling", labelled)
        return cast(UUID, create_progress_artifact(progress=0.0, key=key, description=description))


def title_of_group(name: RunName, indices: Sequence[int]) -> str:
    """The title of a task: "label v2, shards 4-6", or for a further view "label v2, view 1, shard 4"."""
    shards = f"shards {indices[0]}-{indices[-1]}" if len(indices) > 1 else f"shard {indices[0]}"
    return f"label {', '.join(filter(None, (str(name), shards)))}"


def grouped(indices: Sequence[int], max_groups: int) -> list[list[int]]:
    """Splits the indices, in order, into at most `max_groups` parts whose lengths differ by at most one."""
    parts = min(max_groups, len(indices))
    bounds = [len(indices) * part // parts for part in range(parts + 1)] if parts else []
    return [list(indices[start:end]) for start, end in pairwise(bounds)]


@contextmanager
def task_runner(workers: Workers, devices: int) -> Iterator[TaskRunner[Any]]:
    """The runner that maps tasks during the block: one thread per device, or Ray.

    Raises InputError for workers of Ray if it is not installed.
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
        # max_calls: Ray's default with GPUs is one, so that the model would be loaded for every task.
        with remote_options(max_calls=0, **needs):
            yield cluster


STAGES = Stages(
    bootstrap_od=bootstrap_od,
    bootstrap_vg=bootstrap_vg,
    plan=plan,
    infer=infer,
    filter_candidates=filter_candidates,
    merge=merge,
    train=train,
    evaluate=evaluate,
    distill=distill,
    named=named,
)
