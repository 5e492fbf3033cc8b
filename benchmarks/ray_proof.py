"""Checks labelling on a Ray cluster of two workers, one of which is killed: same files, one model load per worker.

    python benchmarks/ray_proof.py /tmp/ray_proof [--images 48]

Draws scenes of the glyph world and labels them in this process with one thread, then through Prefect on a Ray cluster
on this machine with two cores, then again on the same cluster, where a worker is killed in the middle of a shard that
is neither the first nor the last of its group. Shards are grouped by three, as in a run with thousands of them. Prints
what each run did; the exit code is 1 if files differ, a worker loaded the model twice, no worker was killed, or any
shard other than the killed worker's was repeated.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

CORES, GROUPS, GROUP_SIZE = 2, 4, 3  # shards are as large as that makes them
LOG = "GROUNDHOG_PROOF_LOG"


def log(**event: Any) -> None:
    """One line in the file that all processes share; short appends do not mix."""
    with open(os.environ[LOG], "a", encoding="utf-8") as file:
        file.write(json.dumps({"process": os.getpid(), "time": time.time(), **event}) + "\n")


def watch() -> None:
    """In this process: logs each model that is loaded and each shard that is taken up, and may be killed at one."""
    from flows.labelling import detector_pool
    from flows.labelling import infer as inference

    load, label = detector_pool.load_detector, inference.label_shard

    def load_and_log(*arguments: Any, **settings: Any) -> Any:
        log(event="load")
        return load(*arguments, **settings)

    def label_and_log(manifest: Any, index: int, *arguments: Any, **settings: Any) -> Any:
        log(event="start", run=manifest.work_dir.name, shard=index)
        settings["on_images"] = lambda count: count and end_where_armed(manifest.work_dir, index)
        return label(manifest, index, *arguments, **settings)

    detector_pool.load_detector, inference.label_shard = load_and_log, label_and_log


def end_where_armed(work_dir: Path, shard: int) -> None:
    """After an image of the middle shard of a group: SIGKILL, to one process of an armed run."""
    if shard % GROUP_SIZE != GROUP_SIZE // 2:
        return
    try:
        armed(work_dir).unlink()  # one process alone succeeds
    except FileNotFoundError:
        return
    log(event="kill", run=work_dir.name, shard=shard)
    os.kill(os.getpid(), signal.SIGKILL)


def armed(work_dir: Path) -> Path:
    """The file that says: of this run one worker is to be killed."""
    return work_dir.with_suffix(".armed")


def prepare(folder: Path, images: int) -> Path:
    """The unlabelled scenes, bootstrapped; gives X_od.json."""
    from flows.labelling.bootstrap import bootstrap_od
    from grounding_model.glyphs import write_scenes

    source = folder / "glyphs_od.json"
    if not source.exists():
        write_scenes(folder / "truth", "cats", images, seed=5)
        bootstrap_od(folder / "truth" / "images", ["cat"], source)
    return source


def plan_run(source: Path, work_dir: Path, images: int) -> Any:
    """The manifest of a run, whose shards make full groups."""
    from flows.labelling.plan import plan

    shard_size = -(-images // (GROUPS * GROUP_SIZE))
    return plan(source, source.parent / "truth" / "images", "glyph-tiny", work_dir, shard_size=shard_size)


def label_here(source: Path, work_dir: Path, images: int) -> None:
    """By one thread, without Prefect."""
    from flows.labelling.filter import filter_candidates
    from flows.labelling.infer import infer
    from flows.labelling.settings import Workers

    manifest = plan_run(source, work_dir, images)
    infer(manifest, workers=Workers(devices=("cpu",)))
    filter_candidates(manifest, out=work_dir / "labels.json")


def label_on_ray(source: Path, work_dir: Path, images: int) -> None:
    """Through Prefect, on the Ray cluster that this process is connected to."""
    from flows.labelling.filter import filter_candidates
    from flows.orchestration import tasks
    from flows.orchestration.deployments import InferParameters, infer

    tasks.MAX_TASKS = GROUPS
    manifest = plan_run(source, work_dir, images)
    infer(InferParameters(work_dir=str(work_dir), runner="ray"))
    filter_candidates(manifest, out=work_dir / "labels.json")


@contextmanager
def cluster() -> Iterator[None]:
    """A Ray of this machine with so many cores, whose workers are watched."""
    import ray

    handed = {name: os.environ[name] for name in (LOG, "OMP_NUM_THREADS")}
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)} | handed
    # Ray makes its workers 15 nicer than itself: on a loaded machine they got so little of a core that nothing ended.
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(
        address="local",  # not one that somebody else has started on this machine
        num_cpus=CORES,
        include_dashboard=False,
        runtime_env={"worker_process_setup_hook": watch, "env_vars": environment},
    )
    try:
        yield
    finally:
        ray.shutdown()


def read_log() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(os.environ[LOG]).read_text(encoding="utf-8").splitlines()]


def judge(run: Path, plain: Path) -> list[str]:
    """What is wrong with a run on Ray, told; nothing where it is as it should be."""
    wrong = []
    files = sorted(path.relative_to(plain) for path in plain.rglob("*") if path.is_file() and path.name != ".lock")
    for file in files:
        if not (run / file).exists() or (run / file).read_bytes() != (plain / file).read_bytes():
            wrong.append(f"{run.name}: {file} differs")
    events = [entry for entry in read_log() if entry.get("run") == run.name]
    killed = [(entry["process"], entry["shard"]) for entry in events if entry["event"] == "kill"]
    starts = Counter(entry["shard"] for entry in events if entry["event"] == "start")
    again = {shard: count for shard, count in starts.items() if count > 1}
    workers = {entry["process"] for entry in events}
    print(
        f"{run.name}: {len(files)} files compared, {len(starts)} shards labelled by {len(workers)} workers, "
        f"killed {killed}, done again {again}"
    )
    if again != {shard: 2 for _, shard in killed}:
        wrong.append(f"{run.name}: shards {again} were started again, {killed} killed")
    return wrong


def main(folder: Path, images: int) -> int:
    """Gives the exit code."""
    from flows.orchestration.server import prefect_server

    folder.mkdir(parents=True, exist_ok=True)
    os.environ[LOG] = str(folder / "events.log")
    os.environ["OMP_NUM_THREADS"] = "1"  # sums of one thread and of two differ in their last bits; torch comes later
    source = prepare(folder, images)
    plain, undisturbed, disturbed = (folder / name for name in ("thread", "ray", "ray-killed"))
    with reporting("thread"):
        label_here(source, plain, images)
    # At exit Prefect tells its server what is left to tell, and waits long for one that has gone: ours ends after that.
    server = ExitStack()
    atexit.register(server.close)
    server.enter_context(prefect_server())
    with cluster():
        for run in (undisturbed, disturbed):
            if run == disturbed:
                armed(run).touch()
            with reporting(run.name):
                label_on_ray(source, run, images)
    wrong = judge(undisturbed, plain) + judge(disturbed, plain)
    if armed(disturbed).exists():
        wrong.append("no worker was killed")
    loads = Counter(entry["process"] for entry in read_log() if entry["event"] == "load")
    print(f"models loaded {dict(loads)}")
    if max(loads.values(), default=0) != 1:
        wrong.append("models were not loaded once a worker")
    print("\n".join(wrong) or "equal files; one load a worker; the killed shard alone was done again")
    return 1 if wrong else 0


@contextmanager
def reporting(name: str) -> Iterator[None]:
    """Prints how long the block took."""
    start = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=48)
    options = parser.parse_args()
    sys.exit(main(options.folder.resolve(), options.images))
