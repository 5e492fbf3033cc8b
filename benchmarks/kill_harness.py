"""Self-training that is killed again and again, and goes on: what is left is what an undisturbed run leaves.

    python benchmarks/kill_harness.py /tmp/kills --points 100 --seed 0
    python benchmarks/kill_harness.py /tmp/kills --points 0 --prefect 8      # the server or the flow, through Prefect
    python benchmarks/kill_harness.py /tmp/kills --points 0 --disks 5        # full and read-only ones, needs root
    python benchmarks/kill_harness.py /tmp/kills --points 0 --second         # another loop on the same work_dir

A run is the whole loop on a few scenes of the glyph world: label, filter, evaluate, train, and again. It is killed with
-9 at random moments (the loop itself, or a process that loads its batches), and at random writes, just before or just
after a file gets its name. Then it is started again, until it comes through; then all files are compared with those of
an undisturbed run at the same place, byte by byte (figures of the clock left out), the label files line by line with
their source, and every process that was ever seen has to be gone.

The runs are forked from this process, which has imported everything and done nothing: no run waits for imports.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from flows.policies.policy import Policy
from flows.self_training.config import GlyphScenes, Labelling, SelfTrainConfig
from flows.self_training.gate import Gate
from flows.self_training.loop import self_train
from flows.self_training.stages import PLAIN_STAGES
from formats.io.child_process import end_with_parent
from formats.io.files import write_whole
from grounding_model.data.sources import GlyphData
from grounding_model.training.config import TrainConfig

CLOCK = frozenset({"seconds", "images_per_second", "memory_gib"})  # figures of the machine, not of the run
UNCOMPARED = frozenset({".lock", ".glyphs_od.lock", "curves.png"})  # the last is a picture of figures of the clock too
SERVER = "http://127.0.0.1:42871/api"
LATEST = 20  # seconds after which no process of a killed run may be left


def small_run(work_dir: Path, evaluate: bool) -> SelfTrainConfig:
    """Two labellings in three shards, a training of three steps with a state after each; evaluations if asked for."""
    return SelfTrainConfig(
        name="kills",
        data=GlyphScenes(count=6),
        policy=Policy(score_threshold=0.5),
        labelling=Labelling(shard_size=2),
        evaluation=GlyphData(domain="cats", count=2, seed=1000) if evaluate else None,
        gate=Gate(enabled=False, resamples=50),
        train=TrainConfig(
            work_dir,
            steps=3,
            batch_size=2,
            checkpoint_every=1,
            log_every=1,
            device="cpu",
            threads=1,
            check_memory=False,
        ),
    )


def short_report(run_dir: Path) -> Path:
    """In place of the pictures, which would be most of such a run."""
    out = run_dir / "report.html"
    with write_whole(out) as file:
        file.write(f"{run_dir}\n")
    return out


def run_loop(work_dir: Path, evaluate: bool) -> None:
    self_train(small_run(work_dir, evaluate), stages=PLAIN_STAGES._replace(report=short_report))


def run_flow(work_dir: Path) -> None:
    """The same as a Prefect flow, with a server of its own."""
    # Prefect reads its settings when it is imported.
    os.environ |= {"PREFECT_HOME": f"{work_dir}-prefect", "PREFECT_API_URL": SERVER}
    from flows.orchestration import deployments, tasks
    from flows.orchestration.server import prefect_server

    tasks.STAGES = tasks.STAGES._replace(report=short_report)
    deployments.read_self_train = lambda path, overrides: small_run(work_dir, evaluate=False)
    with prefect_server(SERVER):
        deployments.self_train(deployments.SelfTrainParameters(config="small"))


class Plan(NamedTuple):
    """A kill. after: seconds, where a moment is meant. victim: "loop", "loader" or "server". write: the so manyth write
    of the run, counted from 1, where one is meant; before: it gets its name, or after.
    """

    after: float | None
    victim: str = "loop"
    write: int | None = None
    before: bool = True

    def __str__(self) -> str:
        if self.write is not None:
            return f"{'before' if self.before else 'after'} write {self.write}"
        return f"{self.victim} after {self.after:.2f} s"


def kill_at_write(number: int, before: bool) -> None:
    """This process kills itself at its so manyth rename of a finished file."""
    rename, count = os.replace, 0

    def replace(source: Any, target: Any, **settings: Any) -> None:
        nonlocal count
        count += 1
        if count == number and before:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target, **settings)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace  # type: ignore[assignment]


def fork(body: Callable[[], None], log: Path) -> int:
    """Runs the body in a child of its own session, which dies with us; gives its id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        end_with_parent(signal.SIGKILL)
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        body()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: int) -> int | None:
    """The exit code of a child, negative for a signal; None while it runs."""
    found, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


class Attempt(NamedTuple):
    """hit: the kill reached a process. code: how the loop ended. stage: where it was. seen: all its processes."""

    hit: bool
    code: int
    seconds: float
    seen: set[tuple[int, float]]


def attempt(body: Callable[[], None], log: Path, plan: Plan | None) -> Attempt:
    """One start of the loop, killed as planned."""

    def planned() -> None:
        if plan is not None and plan.write is not None:
            kill_at_write(plan.write, plan.before)
        body()

    start, hit, seen = time.monotonic(), False, set()
    child = fork(planned, log)
    process = psutil.Process(child)
    while (code := ended(child)) is None:
        try:
            children = process.children(recursive=True)
        except psutil.NoSuchProcess:
            children = []
        seen |= {(one.pid, one.create_time()) for one in children if one.is_running()}
        passed = time.monotonic() - start
        if not hit and plan is not None and plan.after is not None and passed >= plan.after:
            for victim in victims(plan.victim, process, children)[:1]:
                victim.kill()
                hit = True
        time.sleep(0.01)
    return Attempt(hit or code == -signal.SIGKILL, code, time.monotonic() - start, seen)


def victims(kind: str, loop: psutil.Process, children: list[psutil.Process]) -> list[psutil.Process]:
    if kind == "loop":
        return [loop]
    with suppress(psutil.NoSuchProcess):
        return [one for one in children if ("uvicorn" in one.cmdline()) == (kind == "server")]
    return []


def still_there(seen: set[tuple[int, float]]) -> list[int]:
    """Of the processes, those that live; waits for them as long as is allowed."""
    deadline = time.monotonic() + LATEST
    while True:
        living = [pid for pid, born in seen if psutil.pid_exists(pid) and _born(pid) == born]
        if not living or time.monotonic() > deadline:
            return living
        time.sleep(0.1)


def _born(pid: int) -> float | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def differences(found: Path, wanted: Path) -> list[str]:
    """What is wrong with a run's files; nothing where they are those of the undisturbed run."""
    names = [
        {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name not in UNCOMPARED}
        for root in (found, wanted)
    ]
    wrong = [f"{name} is one too many" for name in sorted(names[0] - names[1])]
    wrong += [f"{name} is missing" for name in sorted(names[1] - names[0])]
    wrong += [
        f"{name} differs" for name in sorted(names[0] & names[1]) if content(found / name) != content(wanted / name)
    ]
    lines = len((found / "data" / "glyphs_od.json").read_text().splitlines())
    for labels in found.glob("data/glyphs_od_v?.json"):
        if len(labels.read_text().splitlines()) != lines:
            wrong.append(f"{labels.name} has not the {lines} lines of its source")
    return wrong


def content(path: Path) -> Any:
    """The bytes; of the files that hold figures of the clock, everything else."""
    if path.suffix == ".pt":  # the state, and the one before
        import torch

        return tensor_bytes(torch.load(path, weights_only=False, map_location="cpu"))
    if path.parent.name == "images" and path.suffix == ".json":  # when a picture was written, and its digest
        return re.sub(r"\b\d{16,}\b", "", path.read_text(encoding="utf-8"))
    if path.suffix in (".json", ".jsonl") and path.parent.name.startswith("train-"):
        text = path.read_text(encoding="utf-8")
        values = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
        return without_clock(values)
    return path.read_bytes()


def _bytes_of(tensor: Any) -> bytes:
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def tensor_bytes(value: Any) -> Any:
    """The value with each tensor as its type, shape and bytes: repr shortens large ones."""
    if hasattr(value, "numpy"):
        return str(value.dtype), tuple(value.shape), _bytes_of(value)
    if isinstance(value, dict):
        return {str(key): tensor_bytes(entry) for key, entry in value.items()}
    return [tensor_bytes(entry) for entry in value] if isinstance(value, list | tuple) else repr(value)


def without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_clock(entry) for key, entry in value.items() if key not in CLOCK}
    return [without_clock(entry) for entry in value] if isinstance(value, list) else value


class Harness:
    """The place where runs are made, one after another, and what they are compared with."""

    def __init__(self, folder: Path, seed: int, evaluate: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.work_dir, self.reference, self.log = folder / "run", folder / "undisturbed", folder / "log.txt"
        self.random = random.Random(seed)
        self.body = lambda: run_loop(self.work_dir, evaluate)
        self.victims = {"loop": 0.48, "loader": 0.12, "write": 0.4}
        self.failures: list[str] = []

    def undisturbed(self) -> float:
        """The run that others are compared with, made twice unless it is there; gives its seconds."""
        seconds_file = self.reference.with_name("seconds.json")
        if seconds_file.exists():
            shutil.rmtree(self.work_dir, ignore_errors=True)
            return json.loads(seconds_file.read_text())
        for old in (self.work_dir, self.reference):
            shutil.rmtree(old, ignore_errors=True)
        for again in (False, True):
            done = attempt(self.body, self.log, None)
            if done.code:
                raise RuntimeError(f"an undisturbed run failed: {self.log}")
            if again:
                self.check("undisturbed, a second time", done.seen)
            else:
                self.work_dir.rename(self.reference)
        with write_whole(seconds_file) as file:
            json.dump(done.seconds, file)
        return done.seconds

    def check(self, name: str, seen: set[tuple[int, float]]) -> None:
        """Compares and forgets the run."""
        wrong = differences(self.work_dir, self.reference)
        wrong += [f"process {pid} is left" for pid in still_there(seen)]
        self.failures += [f"{name}: {what}" for what in wrong]
        print(f"{name}: {'; '.join(wrong) or 'equal'}", flush=True)
        if wrong:
            shutil.copytree(self.work_dir, self.work_dir.with_name(f"wrong-{len(self.failures)}"), dirs_exist_ok=True)
        for path in self.work_dir.iterdir() if self.work_dir.is_mount() else [self.work_dir]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def plan(self, seconds: float) -> Plan:
        kinds, shares = zip(*self.victims.items())
        (victim,) = self.random.choices(kinds, shares)
        if victim == "write":
            return Plan(None, write=self.random.randint(1, 12), before=self.random.random() < 0.5)
        return Plan(self.random.uniform(0.0, seconds), victim)

    def kill(self, points: int, limit: float) -> int:
        """So many kills, over as many runs as that takes; gives their number."""
        seconds = self.undisturbed()
        print(f"an undisturbed run takes {seconds:.1f} s", flush=True)
        kinds: Counter[str] = Counter()
        start, number = time.monotonic(), 0
        while kinds.total() < points and time.monotonic() - start < limit:
            number += 1
            kills, seen = [], set()
            while True:
                plan = self.plan(seconds) if kinds.total() < points else None
                done = attempt(self.body, self.log, plan)
                seen |= done.seen
                if done.hit:
                    kills.append(str(plan))
                    kinds["write" if plan and plan.write is not None else plan.victim if plan else "?"] += 1
                if done.code == 0:
                    break
                if not done.hit:
                    self.failures.append(f"run {number}: ended with {done.code} by itself after {kills}; {self.log}")
                    return kinds.total()
            self.check(f"run {number}, {len(kills)} kills ({', '.join(kills)})", seen)
        kinds_text = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
        print(f"{kinds.total()} kills in {number} runs ({kinds_text}), {time.monotonic() - start:.0f} s")
        return kinds.total()

    def disks(self, sizes: int) -> None:
        """The work_dir on a disk of its own, which is full somewhere, then read-only, then has room; needs root."""
        self.undisturbed()
        whole = sum(path.stat().st_size for path in self.reference.rglob("*") if path.is_file())
        for _ in range(sizes):
            size = int(whole * 10 ** self.random.uniform(-3.5, 0.0))  # most files are small
            with disk(self.work_dir, size):
                full = self.refused("No space left on device")
                remount(self.work_dir, f"size={4 * whole}")
                self.finish(f"full at {size / 1e6:.1f} of {whole / 1e6:.1f} MB", full)
        with disk(self.work_dir, 4 * whole):
            seen = attempt(self.body, self.log, Plan(None, write=5)).seen
            remount(self.work_dir, "ro")
            seen |= self.refused("cannot be written (Read-only file system); expected a folder to write into")
            remount(self.work_dir, "rw")
            self.finish("read-only", seen)

    def second(self) -> None:
        """Another loop is started on the work_dir while one is at work."""
        self.undisturbed()
        first = fork(self.body, self.log)
        while not (self.work_dir / ".lock").exists() or not (self.work_dir / ".lock").read_text():
            time.sleep(0.05)
        self.refused(f"in use by process {first}")
        os.waitpid(first, 0)
        self.check("a second loop was refused", set())

    def refused(self, words: str) -> set[tuple[int, float]]:
        """A start that has to fail with these words; gives the processes that were seen."""
        before = self.log.stat().st_size
        done = attempt(self.body, self.log, None)
        with self.log.open("rb") as file:
            file.seek(before)
            last = file.read().decode().strip().splitlines()[-1]
        if not done.code or words not in last:
            self.failures.append(f"expected a failure with {words!r}; exit code {done.code}, {last!r}")
        print(f"refused: {last}", flush=True)
        return done.seen

    def finish(self, name: str, seen: set[tuple[int, float]]) -> None:
        done = attempt(self.body, self.log, None)
        if done.code:
            self.failures.append(f"{name}: the run did not go on, exit code {done.code}; {self.log}")
        self.check(name, seen | done.seen)


@contextmanager
def disk(mount: Path, size: int) -> Iterator[None]:
    mount.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mount], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


def remount(mount: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", mount], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--points", type=int, default=100, help="kills of the plain loop")
    parser.add_argument("--evaluate", action="store_true", help="with evaluations, which take half of such a run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--disks", type=int, default=0, help="so many full disks, and a read-only one")
    parser.add_argument("--second", action="store_true", help="a second loop on the same work_dir")
    parser.add_argument("--prefect", type=int, default=0, help="kills of the loop or the server, as a Prefect flow")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which no other run begins")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.argv[1:] = []  # a checkpoint tells the command that made it
    harness = Harness(options.folder.resolve(), options.seed, options.evaluate)
    if options.points:
        harness.kill(options.points, options.limit)
    if options.disks:
        harness.disks(options.disks)
    if options.second:
        harness.second()
    if options.prefect:
        harness.body = lambda: run_flow(harness.work_dir)
        harness.victims = {"loop": 0.5, "server": 0.5}
        harness.kill(options.prefect, options.limit)
    print("\n".join(harness.failures) or "no failure")
    return 1 if harness.failures else 0


if __name__ == "__main__":
    # Whatever a run imports later would be imported by every run again.

    sys.exit(main())
