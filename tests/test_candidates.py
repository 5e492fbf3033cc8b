"""Candidates come back as they were written, in the same bytes; damage is seen."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from formats import (
    Candidates,
    ImageCandidates,
    ImageProblem,
    InputError,
    candidates_key,
    read_candidates,
    write_candidates,
)
from formats.candidates import is_intact

FIELDS = ("line", "filename", "region", "box", "score")


def make_candidates(count: int = 3) -> Candidates:
    random = np.random.default_rng(0)
    images = [
        ImageCandidates(
            2 * line, f"größe/{line}.jpg", random.integers(0, 5, 7), random.random((7, 4)) * 900, random.random(7)
        )
        for line in range(count)
    ]
    return Candidates.of_images(
        reversed(images), [ImageProblem(5, "b.jpg", "is empty (0 bytes)"), ImageProblem(1, "a", "x")]
    )


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_is_written_is_read(tmp_path, count):
    path = tmp_path / "shard.parquet"
    written = make_candidates(count)
    write_candidates(path, written, "key-1")
    read = read_candidates(path)
    for name in FIELDS:
        assert getattr(read, name).dtype == getattr(written, name).dtype
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    assert read.problems == (ImageProblem(1, "a", "x"), ImageProblem(5, "b.jpg", "is empty (0 bytes)"))
    assert candidates_key(path) == "key-1"


def test_equal_candidates_give_equal_bytes(tmp_path):
    write_candidates(tmp_path / "a", make_candidates(), "key")
    write_candidates(tmp_path / "b", read_candidates(tmp_path / "a"), "key")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_images_come_back_one_by_one_in_the_order_of_their_lines():
    candidates = make_candidates()
    images = list(candidates.by_line())
    assert [(image.line, image.filename) for image in images] == [
        (0, "größe/0.jpg"),
        (2, "größe/1.jpg"),
        (4, "größe/2.jpg"),
    ]
    again = Candidates.of_images(images)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(again, name), getattr(candidates, name))


def test_a_frame_has_a_row_a_box():
    candidates = make_candidates()
    frame = candidates.to_frame()
    assert list(frame.columns) == ["line", "filename", "region", "x1", "y1", "x2", "y2", "score"]
    np.testing.assert_array_equal(frame[["x1", "y1", "x2", "y2"]].to_numpy(), candidates.box)
    assert frame.groupby("filename").size().to_dict() == {f"größe/{line}.jpg": 7 for line in range(3)}


def test_an_image_without_boxes_has_no_rows():
    candidates = Candidates.of_images([ImageCandidates(3, "a.jpg", [], [], [])])
    assert len(candidates) == 0
    assert list(candidates.by_line()) == []


def test_wrong_shapes_and_orders_are_refused():
    good = make_candidates()
    columns = {name: getattr(good, name) for name in FIELDS}
    with pytest.raises(ValueError, match="score has shape"):
        Candidates(**{**columns, "score": good.score[:-1]})
    with pytest.raises(ValueError, match="go back"):
        Candidates(**{**columns, "line": good.line[::-1]})


def test_damage_leaves_no_key(tmp_path):
    path = tmp_path / "shard.parquet"
    assert candidates_key(path) is None
    write_candidates(path, make_candidates(200), "key")
    whole = path.read_bytes()
    for kept in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        assert candidates_key(path) is None, kept
        with pytest.raises(InputError, match=r"shard\.parquet: (cannot be read|is damaged)"):
            read_candidates(path)
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 0x55  # inside a page: the footer still reads
    path.write_bytes(flipped)
    assert candidates_key(path) is None


def test_another_table_is_no_shard(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    assert candidates_key(tmp_path / "other.parquet") is None
    with pytest.raises(InputError, match="has the columns"):
        read_candidates(tmp_path / "other.parquet")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_reading_a_shard_starts_no_threads(tmp_path: Path) -> None:
    """One that held a buffer of Python's when the interpreter ended aborted a labelling that was done."""
    path = tmp_path / "shard.parquet"
    write_candidates(path, Candidates.of_images([], [ImageProblem(0, "a.jpg", "gone")]), "key")
    program = "import os, sys; from formats.candidates import read_candidates\n"
    program += "threads = lambda: len(os.listdir('/proc/self/task'))\n"
    program += "before = threads(); read_candidates(sys.argv[1]); print(threads() - before)"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_any_flipped_bit_of_a_shard_is_noticed(tmp_path):
    path = tmp_path / "shard.parquet"
    write_candidates(path, make_candidates(1), "key")
    whole = path.read_bytes()
    assert is_intact(whole)
    for at in range(len(whole)):
        damaged = whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]
        assert not is_intact(damaged), f"byte {at} of {len(whole)}"
        if at % 100 == 0:
            path.write_bytes(damaged)
            assert candidates_key(path) is None


def test_a_shard_of_a_version_without_checksums_is_read(tmp_path):
    path = tmp_path / "shard.parquet"
    write_candidates(path, make_candidates(), "key")
    table = pq.read_table(path, use_threads=False)
    metadata = {b"groundhog.key": b"key"}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "old.parquet", use_dictionary=["filename"])
    assert b"groundhog.sha256" not in (tmp_path / "old.parquet").read_bytes()
    assert candidates_key(tmp_path / "old.parquet") == "key"
    np.testing.assert_array_equal(read_candidates(tmp_path / "old.parquet").box, make_candidates().box)
