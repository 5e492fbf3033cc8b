"""Addresses that fsspec opens, and folders that one process locks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from formats.images import image_size, list_images, safe_join
from formats.io.errors import InputError
from formats.io.files import load_json, sha256_of, write_whole, write_whole_folder
from formats.io.locks import lock, remove_leftovers
from formats.io.storage import absolute, as_path, is_address
from formats.label_map import read_label_map, write_label_map
from tests.pipeline_cases import make_images

ROOT = Path(__file__).parent.parent
LOCKING = (
    "import sys; from formats.io.locks import lock\nwith lock(sys.argv[1]): print('in', flush=True); sys.stdin.read()"
)


@pytest.fixture
def memory() -> str:
    """A folder of a file system that only this test knows."""
    return f"memory://{uuid.uuid4().hex}"


@pytest.mark.parametrize("path_text", ["a/b.json", "/a/b.json", "C:/photos", "odd:name.json"])
def test_a_path_of_this_machine_is_a_path(path_text: str) -> None:
    assert as_path(path_text) == Path(path_text)
    assert not is_address(path_text)


def test_addresses_of_this_machine_are_paths() -> None:
    assert as_path("file:///a/b.json") == as_path("file://localhost/a/b.json") == Path("/a/b.json")


def test_an_address_survives_what_path_does_to_it(memory: str) -> None:
    assert absolute(Path(memory) / "a" / "b.json") == absolute(f"{memory}/a/b.json") == f"{memory}/a/b.json"
    assert str(as_path(memory) / "a b?#.png") == f"{memory}/a b?#.png"


def test_an_address_that_nothing_speaks_says_what_is_missing() -> None:
    with pytest.raises(InputError, match=r"gopher://x: gopher:// cannot be opened.*expected groundhog\[s3\]"):
        as_path("gopher://x")


def test_a_file_at_an_address_is_there_whole_or_not_at_all(memory: str) -> None:
    path_text = f"{memory}/new/a.json"
    with write_whole(path_text) as stream:
        stream.write('"größe"\n')
        assert not as_path(path_text).exists()
    assert load_json(path_text, "") == "größe"
    with pytest.raises(ValueError, match="I/O"), write_whole(path_text) as stream:
        stream.close()
    assert load_json(path_text, "") == "größe"
    assert [path.name for path in as_path(path_text).parent.iterdir()] == ["a.json"]


def test_what_is_read_at_an_address_is_what_is_read_on_disk(memory: str, tmp_path: Path) -> None:
    make_images(tmp_path / "sub", 3)
    (tmp_path / "sub" / ".hidden.png").write_bytes(b"")
    for path in tmp_path.rglob("*.png"):
        with write_whole(f"{memory}/{path.relative_to(tmp_path).as_posix()}", "wb") as stream:
            stream.write(path.read_bytes())
    names = list_images(memory)
    assert names == list_images(tmp_path)
    assert len(names) == 3
    for name in names:
        assert image_size(safe_join(memory, name)) == image_size(safe_join(tmp_path, name))
        assert sha256_of(safe_join(memory, name)) == sha256_of(safe_join(tmp_path, name))
    write_label_map(f"{memory}/map.json", {0: "cat"})
    assert read_label_map(f"{memory}/map.json") == {0: "cat"}


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "s3://other/a.png/../../b.png", "a/../../b.png", "c:\\a.png"])
def test_a_name_cannot_lead_out_of_an_address(memory: str, name: str) -> None:
    with pytest.raises(InputError):
        safe_join(memory, name)


@pytest.mark.parametrize("name", ["s3://other/a.png", "memory://other/a.png", "zip://a.png::file:///b.zip"])
def test_an_address_in_a_data_file_is_no_name(memory: str, tmp_path: Path, name: str) -> None:
    for root in (memory, tmp_path):
        with pytest.raises(InputError, match="is an address"):
            safe_join(root, name)


@pytest.mark.parametrize("name", ["~/a.png", "a?b#c.png", "$HOME/a b.png"])
def test_odd_names_stay_below_an_address(memory: str, name: str) -> None:
    assert absolute(safe_join(memory, name)) == f"{memory}/{name}"


def test_an_empty_address_is_no_folder_of_images(memory: str) -> None:
    with pytest.raises(InputError, match="does not exist; expected a folder of images"):
        list_images(f"{memory}/none")


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", LOCKING, str(tmp_path / "work")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "in\n"
    with pytest.raises(InputError, match=f"in use by process {first.pid}"), lock(tmp_path / "work"):
        pass
    first.kill()
    first.communicate()
    with lock(tmp_path / "work"):
        assert (tmp_path / "work" / ".lock").read_text() == f"{os.getpid()}\n"
    with lock(tmp_path / "work"):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_forked_child_that_lives_on_does_not_keep_the_lock(tmp_path: Path) -> None:
    program = "import os, sys, time\nfrom formats.io.locks import lock\nwith lock(sys.argv[1]):\n"
    program += "    child = os.fork()\n    if child: print(child, flush=True)\n    time.sleep(60)"
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        time.sleep(0.2)  # the child closes its copy right after the fork
        parent.kill()
        parent.wait()
        with lock(tmp_path):
            pass
    finally:
        os.kill(child, 9)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"file/work: cannot be written .*; expected a folder"),
        lock(tmp_path / "file/work"),
    ):
        pass


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    dead = [tmp_path / f".a.json.{uuid.uuid4().hex}.tmp", tmp_path / "below" / f".b.{uuid.uuid4().hex}.tmp"]
    for path in dead:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    (tmp_path / f".folder.{uuid.uuid4().hex}.tmp" / "inner").mkdir(parents=True)
    others = tmp_path / ".mine.tmp"
    others.write_text("somebody's own")
    with write_whole(tmp_path / "a.json") as stream, write_whole_folder(tmp_path / "b") as folder:
        (folder / "inside").write_text("new")
        remove_leftovers(tmp_path)
        stream.write("new")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        ".mine.tmp",
        "a.json",
        "b",
        "b/inside",
        "below",
    ]


def test_files_of_one_name_can_be_locked_alone(tmp_path: Path) -> None:
    mine, other = (tmp_path / f".{name}.{uuid.uuid4().hex}.tmp" for name in ("x_od_v1.json", "y_od_v1.json"))
    mine.write_text("")
    with lock(tmp_path, "x_od"):
        assert not mine.exists()
    other.write_text("")
    with lock(tmp_path, "x_od"), lock(tmp_path, "y"), pytest.raises(InputError), lock(tmp_path, "x_od"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x_od.lock", ".y.lock"]
