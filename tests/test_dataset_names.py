"""File names of a data set: what is written together is found again from any of its names."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from formats.dataset_names import (
    AnnotationName,
    annotation_path,
    annotations_beside,
    label_map_beside,
    label_map_path,
    labels_of_other_round,
    labels_path,
    metadata_path,
    parse_annotation_name,
    part_path,
    reviewed_path,
    suspects_path,
    work_dir_name,
)

DATA_SETS = ("cat", "my_cats", "photos_v2", "a.b", "od", "cat_od_reviewed", "")


@pytest.mark.parametrize(("data_set", "task"), product(DATA_SETS, ("od", "vg")))
@pytest.mark.parametrize("version", [None, 1, 12])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_every_name_parses_back(data_set: str, task: str, version: int | None, suffix: str) -> None:
    name = AnnotationName(data_set, task, version, suffix)
    assert parse_annotation_name(Path("data", str(name))) == name


@pytest.mark.parametrize("data_set", [name for name in DATA_SETS if name])
def test_a_name_without_a_task_is_whole(data_set: str) -> None:
    assert parse_annotation_name(f"data/{data_set}.json") == AnnotationName(data_set)


@pytest.mark.parametrize(("data_set", "task"), product(DATA_SETS, ("od", "vg")))
def test_all_rounds_share_the_files_of_their_source(data_set: str, task: str) -> None:
    source = annotation_path("data", data_set, task)
    labels = labels_path(source, 3)
    assert parse_annotation_name(labels) == AnnotationName(data_set, task, 3)
    assert label_map_beside(labels) == label_map_beside(source)
    assert reviewed_path(labels) == reviewed_path(source)
    assert metadata_path(labels) != metadata_path(source)


# These names are on users' disks: they may not change.
@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (annotation_path("data", "cat", "vg"), "data/cat_vg.json"),
        (label_map_path("data", "cat"), "data/cat_label_map.json"),
        (label_map_beside("data/cat_od.json"), "data/cat_label_map.json"),
        (label_map_beside("data/cat_vg_v1.json"), "data/cat_vg_label_map.json"),
        (label_map_beside("data/photos_v2.json"), "data/photos_v2_label_map.json"),
        (labels_path("data/cat_od.jsonl", 2), "data/cat_od_v2.jsonl"),
        (labels_path("photos.json", 2), "photos_v2.json"),
        (labels_of_other_round("data/cat_od_v2.json", 2, 3), "data/cat_od_v3.json"),
        (labels_of_other_round("photos_v2_v1.json", 1, 2), "photos_v2_v2.json"),
        (suspects_path("data/cat_od_v2.json"), "data/cat_od_v2_suspects.jsonl"),
        (metadata_path("data/cat_od_v2.json"), "data/cat_od_v2.meta.json"),
        (reviewed_path("data/cat_od_v2.jsonl"), "data/cat_od_reviewed.jsonl"),
        (reviewed_path("photos.json"), "photos_reviewed.json"),
        (part_path("data/cat_od.json", "train"), "data/cat_train_od.json"),
        (part_path("data/cat_vg.json", "train"), "data/cat_train_vg.json"),
        (part_path("data/cat_od_v1.json", "train"), "data/cat_od_v1_train.json"),
        (part_path("photos", "train"), "photos_train"),
    ],
)
def test_names_are_those_on_disk(made: Path, expected: str) -> None:
    assert made == Path(expected)


def test_a_work_dir_is_named_by_its_source() -> None:
    sources = ("data/cat_od.json", "cat_vg.json", "cat_od_v1.json", "photos.json")
    assert [work_dir_name(source) for source in sources] == ["cat", "cat_vg", "cat_od_v1", "photos"]


def test_an_address_stays_one() -> None:
    assert str(label_map_beside("memory://bucket/cat_od_v1.json")) == "memory://bucket/cat_label_map.json"


def test_a_label_map_knows_whose_labels_it_names(tmp_path: Path) -> None:
    """Also of a data set whose name a pattern would read as its own signs."""
    mine = ["a[1]_od.json", "a[1]_od_reviewed.json", "a[1]_od_v2.json"]
    for name in (*mine, "a[1]_od_v2.meta.json", "a1_od.json", "a[1]_vg.json"):
        (tmp_path / name).touch()
    assert [path.name for path in annotations_beside(tmp_path / "a[1]_label_map.json")] == mine


def test_names_are_made_in_one_module() -> None:
    """A name that another module puts together is found again by nobody but that module."""
    made = re.compile(r"\}(_v\{|_suspects|_reviewed|_label_map|\.meta\.json|\.audit)|\"[a-z]+_label_map\.json\"")
    packages = ("flows", "grounding_model", "browse", "formats")
    modules = [path for package in packages for path in Path(__file__).parent.parent.joinpath(package).rglob("*.py")]
    assert [path.name for path in modules if made.search(path.read_text(encoding="utf-8"))] == ["dataset_names.py"]
