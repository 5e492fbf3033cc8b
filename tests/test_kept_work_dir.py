"""What an older commit began is continued, not repeated: a labelling and a training of c26635f (tests/kept)."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path

import pytest

from flows.cli.command import main
from flows.labelling.manifest import read_manifest
from formats.io.storage import as_path
from grounding_model.glyphs import write_scenes

KEPT = Path(__file__).parent / "kept"
LABELLING = KEPT / "labelling"
IMAGES = "memory://groundhog-kept/cats"  # the plan's key contains it
LOST = "shard-00001.parquet"
LOST_LINES = slice(2, 4)


@pytest.fixture
def labelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kept data and work_dir in a new place, with the images drawn again."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(LABELLING, tmp_path, dirs_exist_ok=True)
    write_scenes("drawn", "cats", 6, 0, labelled=False)
    root = as_path(IMAGES)
    root.mkdir(parents=True, exist_ok=True)
    for path in Path("drawn", "images").iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    return tmp_path


def infer() -> int:
    settings = ["--shard-size", "2", "--distractors", "umbrella"]
    return main(["infer", "data/cats_od.json", IMAGES, "work_dir", *settings])


def shards(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (folder / "candidates").glob("*.parquet")
    }


def test_an_old_plan_keeps_its_key(labelling: Path) -> None:
    key = json.loads((LABELLING / "work_dir" / "manifest.json").read_text())["key"]
    assert read_manifest("work_dir").key == key
    assert infer() == 0
    assert read_manifest("work_dir").key == key


def test_a_whole_labelling_is_not_repeated(labelling: Path) -> None:
    before = shards(labelling / "work_dir")
    assert len(before) == 3
    assert infer() == 0
    assert shards(labelling / "work_dir") == before


def test_only_the_missing_shard_is_labelled(labelling: Path) -> None:
    work_dir = labelling / "work_dir"
    before = shards(work_dir)
    (work_dir / "candidates" / LOST).unlink()
    assert infer() == 0
    after = shards(work_dir)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {LOST}
    labels, kept = filtered(labelling)
    assert labels[:2] + labels[4:] == kept[:2] + kept[4:]
    for line, old in zip(labels[LOST_LINES], kept[LOST_LINES], strict=True):
        assert_same_boxes(json.loads(line), json.loads(old))


def test_old_candidates_give_the_labels_they_gave(labelling: Path) -> None:
    assert infer() == 0  # tells the plan where its source lies now
    labels, kept = filtered(labelling)
    assert labels == kept
    old, new = (json.loads((folder / "data" / "cats_od_v1.meta.json").read_text()) for folder in (LABELLING, labelling))
    for entry in ("labels_sha256", "plan", "counts"):
        assert new[entry] == old[entry]


def test_an_interrupted_training_resumes_from_an_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(KEPT / "training" / "train.toml", tmp_path)
    Path("run").mkdir()
    Path("run", "state.pt").write_bytes(lzma.decompress((KEPT / "training" / "state.pt.xz").read_bytes()))
    assert main(["train", "train.toml", "--resume"]) == 0
    [second] = [json.loads(line) for line in Path("run", "log.jsonl").read_text().splitlines()]
    expected = json.loads((KEPT / "training" / "finished.jsonl").read_text().splitlines()[1])
    assert second["step"] == 2
    assert second["loss"] == pytest.approx(expected["loss"], rel=1e-4)  # processors differ in the last bits


def filtered(folder: Path) -> tuple[list[bytes], list[bytes]]:
    """The lines of a new v1, and those of the kept one."""
    (folder / "data" / "cats_od_v1.json").unlink()
    assert main(["filter", "work_dir", "--score-threshold", "0.5"]) == 0
    return tuple((root / "data" / "cats_od_v1.json").read_bytes().splitlines() for root in (folder, LABELLING))


def assert_same_boxes(record: dict, other: dict) -> None:
    """Processors and numbers of threads differ in the last bits of a score."""
    assert record["filename"] == other["filename"]
    new, old = record["detection"]["instances"], other["detection"]["instances"]
    assert [box["category"] for box in new] == [box["category"] for box in old]
    for box, kept in zip(new, old, strict=True):
        assert box["bbox"] == pytest.approx(kept["bbox"], abs=0.02)
        assert box["score"] == pytest.approx(kept["score"], abs=1e-4)
