"""Labelling on a Ray cluster of two workers, one of which is killed: equal files, the model loaded once a worker.

    python benchmarks/ray_proof.py /tmp/ray_proof [--images 96]

Draws scenes of the glyph world and labels them in this process by one thread, then through Prefect on a Ray cluster of
this machine with two cores, then so again with a worker killed by -9 while it is at a shard. Shards are grouped by
three, as thousands of them would be. Prints what each run did and ends with exit code 1 where files differ, a worker
loaded the model twice, or a shard that was whole was done again.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SHARD_SIZE, CORES, TASKS = 8, 2, 4
LOG = "GROUNDHOG_PROOF_LOG"


def log(**event: Any) -> None:
    """One line in the file that all processes share; short appends do not mix."""
    with open(os.environ[LOG], "a", encoding="utf-8") as file:
        file.write(json.dumps({"process": os.getpid(), "time": time.time(), **event}) + "\n")


def watch() -> None:
    """Logs, in this process, each model that is loaded, and each shard when it starts and when it is whole."""
    from flows import inference
    from grounding_model import detector

    load, label = detector.load_detector, inference.label_shard

    def load_and_log(*arguments: Any, **settings: Any) -> Any:
        log(event="load")
        return load(*arguments, **settings)

    def label_and_log(manifest: Any, index: int, *arguments: Any, **settings: Any) -> Any:
        log(event="start", shard=index)
        path = label(manifest, index, *arguments, **settings)
        log(event="done", shard=index)
        return path

    detector.load_detector, inference.label_shard = load_and_log, label_and_log


def prepare(folder: Path, images: int) -> Path:
    """The unlabelled scenes, bootstrapped; gives X_od.json."""
    from flows.bootstrapping import bootstrap_od
    from grounding_model.glyphs import write_scenes

    source = folder / "glyphs_od.json"
    if not source.exists():
        write_scenes(folder / "truth", "cats", images, seed=5)
        bootstrap_od(folder / "truth" / "images", ["cat"], source)
    return source


def label_here(source: Path, work_dir: Path) -> None:
    """By one thread, without Prefect."""
    from flows.filtering import filter_candidates
    from flows.inference import infer
    from flows.planning import plan
    from flows.workers import Workers

    manifest = plan(source, source.parent / "truth" / "images", "glyph-tiny", work_dir, shard_size=SHARD_SIZE)
    infer(manifest, workers=Workers(devices=("cpu",)))
    filter_candidates(manifest, out=work_dir / "labels.json")


def label_on_ray(source: Path, work_dir: Path, kill: bool) -> None:
    """Through Prefect on a Ray cluster; with `kill`, one worker is killed at its second shard."""
    import ray

    from flows import tasks
    from flows.deployments import InferParameters, infer
    from flows.filtering import filter_candidates
    from flows.planning import plan

    tasks.MAX_TASKS = TASKS
    events = Path(os.environ[LOG])
    manifest = plan(source, source.parent / "truth" / "images", "glyph-tiny", work_dir, shard_size=SHARD_SIZE)
    with cluster():
        if kill:
            threading.Thread(target=kill_a_worker, args=(events,), daemon=True).start()
        infer(InferParameters(work_dir=str(work_dir), runner="ray"))
    assert not ray.is_initialized()
    filter_candidates(manifest, out=work_dir / "labels.json")


@contextmanager
def cluster() -> Iterator[None]:
    """A Ray of this machine with so many cores, whose workers log too."""
    import ray

    environment = {LOG: os.environ[LOG], "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ray.init(
        num_cpus=CORES,
        include_dashboard=False,
        runtime_env={"worker_process_setup_hook": watch, "env_vars": environment},
    )
    try:
        yield
    finally:
        ray.shutdown()


def kill_a_worker(events: Path) -> None:
    """SIGKILL to the first worker that has done a shard, in the middle of its next one."""
    while True:
        done: set[int] = set()
        for entry in read_log(events):
            if entry["event"] == "done":
                done.add(entry["process"])
            elif entry["event"] == "start" and entry["process"] in done:
                log(event="kill", killed=entry["process"], shard=entry["shard"])
                os.kill(entry["process"], signal.SIGKILL)
                return
        time.sleep(0.05)


def read_log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def judge(folder: Path, name: str, plain: Path) -> list[str]:
    """What is wrong with a run on Ray, told; nothing where it is as it should be."""
    wrong = []
    files = sorted(path.relative_to(plain) for path in plain.rglob("*") if path.is_file() and path.name != ".lock")
    for file in files:
        other = folder / name / file
        if not other.exists() or other.read_bytes() != (plain / file).read_bytes():
            wrong.append(f"{file} differs")
    events = read_log(folder / f"{name}.log")
    loads = Counter(entry["process"] for entry in events if entry["event"] == "load")
    killed = [entry for entry in events if entry["event"] == "kill"]
    starts = Counter(entry["shard"] for entry in events if entry["event"] == "start")
    again = {shard: count for shard, count in starts.items() if count > 1}
    print(
        f"{name}: {len(files)} files compared, {sum(starts.values())} shards started, {len(loads)} workers loaded the "
        f"model {dict(loads)}, killed {[(entry['killed'], entry['shard']) for entry in killed]}, done again {again}"
    )
    if max(loads.values(), default=0) != 1:
        wrong.append(f"models were loaded {dict(loads)}")
    if set(again) != {entry["shard"] for entry in killed} or max(again.values(), default=2) > 2:
        wrong.append(f"shards {again} were started again, {killed} killed")
    return wrong


def main(folder: Path, images: int) -> int:
    """Gives the exit code."""
    from flows.server import prefect_server

    folder.mkdir(parents=True, exist_ok=True)
    source = prepare(folder, images)
    start = time.monotonic()
    label_here(source, folder / "threads")
    print(f"threads: {time.monotonic() - start:.0f} s")
    wrong = []
    with prefect_server():
        for name in ("ray", "ray-killed"):
            os.environ[LOG] = str(folder / f"{name}.log")
            start = time.monotonic()
            label_on_ray(source, folder / name, kill=name == "ray-killed")
            print(f"{name}: {time.monotonic() - start:.0f} s")
            wrong += judge(folder, name, folder / "threads")
    print("\n".join(wrong) or "equal files; one load a worker; the killed shard alone was done again")
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=96)
    options = parser.parse_args()
    sys.exit(main(options.folder.resolve(), options.images))
