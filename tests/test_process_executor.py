"""A process for each device labels what one thread does, and a killed one is said and resumed."""

from __future__ import annotations

import multiprocessing
import threading
import time
from pathlib import Path

import pytest

from flows.labelling.bootstrap import bootstrap_od
from flows.labelling.infer import infer
from flows.labelling.manifest import Manifest, as_manifest
from flows.labelling.plan import plan
from flows.labelling.process_executor import ProcessExecutor
from formats.io.errors import InputError
from grounding_model.glyphs import write_scenes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, "source", 6, 0, labelled=False)
    return bootstrap_od(folder / "images", ["red cat", "blue star"], folder / "scenes_od.json").annotations


def planned(source: Path, work_dir: Path) -> Manifest:
    return as_manifest(plan(source, source.parent / "images", work_dir=work_dir, shard_size=2))


def shards_of(manifest: Manifest) -> list[bytes]:
    return [manifest.shard_path(shard.index).read_bytes() for shard in manifest.shards]


def test_two_processes_write_what_one_thread_writes(source: Path, tmp_path: Path) -> None:
    one, two = planned(source, tmp_path / "one"), planned(source, tmp_path / "two")
    infer(one, progress=False)
    infer(two, executor=ProcessExecutor(("cpu", "cpu"), progress=False))
    assert shards_of(one) == shards_of(two)


def test_a_killed_process_is_said_and_the_plan_resumes(source: Path, tmp_path: Path) -> None:
    manifest = planned(source, tmp_path / "work")

    def kill() -> None:
        while not (children := multiprocessing.active_children()):
            time.sleep(0.05)
        children[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RuntimeError, match="was killed; run again to resume"):
        infer(manifest, executor=ProcessExecutor(("cpu",), progress=False))
    killer.join()
    infer(manifest, progress=False)
    assert len(shards_of(manifest)) == 3


def test_what_every_shard_would_say_is_said_once(source: Path, tmp_path: Path) -> None:
    manifest = planned(source, tmp_path / "work")
    with pytest.raises(InputError, match="'tpu' is not a device"):
        infer(manifest, executor=ProcessExecutor(("tpu",), progress=False))
