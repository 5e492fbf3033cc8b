"""Splits, samples, label maps by name, and a data set without another's images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flows.cli.command import main
from formats import (
    InputError,
    Instance,
    Record,
    image_key,
    merge_label_maps,
    only_part,
    part_of,
    read_coco,
    read_label_map,
    read_odvg,
    relabelled,
    sample,
    without_images,
    write_coco,
    write_odvg,
)
from formats.selection import parse_parts
from tests.format_samples import SAMPLES

PARTS = {"train": 0.75, "val": 0.25}
RECORDS = [Record(f"{index // 2}.jpg", 10, 10, caption=f"caption {index}") for index in range(2000)]


def test_parts_are_a_partition_of_about_their_shares() -> None:
    train, val = (list(only_part(RECORDS, PARTS, name, seed=1)) for name in PARTS)
    assert sorted(train + val, key=RECORDS.index) == RECORDS
    assert not {record.filename for record in train} & {record.filename for record in val}
    assert 0.7 < len(train) / len(RECORDS) < 0.8
    assert train == sorted(train, key=RECORDS.index)


def test_a_part_depends_on_the_name_and_the_seed_alone() -> None:
    few = [part_of(record.filename, PARTS) for record in RECORDS[:10]]
    assert few == [part_of(record.filename, PARTS) for record in RECORDS][:10]
    assert [part_of(str(each), PARTS, 0) for each in range(50)] != [part_of(str(each), PARTS, 1) for each in range(50)]


@pytest.mark.parametrize("text", ["train", "train=x", "train=0.8,val=0.3", "train=1.5,val=-0.5", "=1"])
def test_shares_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="expected shares that sum to 1"):
        parse_parts(text)
    assert parse_parts("a=0.1, b=0.9") == {"a": 0.1, "b": 0.9}


@given(st.integers(1, 30), st.integers(0, 5))
def test_a_sample_holds_whole_images_in_their_order(images: int, seed: int) -> None:
    records = RECORDS[:40]
    drawn = sample(iter(records), images, seed)
    assert len({record.filename for record in drawn}) == min(images, 20)
    assert len(drawn) == 2 * min(images, 20)
    assert drawn == [record for record in records if record in drawn]


def test_a_sample_does_not_depend_on_the_order_and_grows_by_images() -> None:
    drawn = [{record.filename for record in sample(RECORDS[:200], images)} for images in (10, 11)]
    assert drawn[0] < drawn[1]
    assert {record.filename for record in sample(RECORDS[199::-1], 10)} == drawn[0]
    assert {record.filename for record in sample(RECORDS[:200], 10, seed=1)} != drawn[0]


def test_a_sample_needs_an_image() -> None:
    with pytest.raises(InputError, match="expected at least one image"):
        sample(RECORDS, 0)


@pytest.mark.parametrize(
    ("filename", "key"),
    [
        ("COCO_train2014_000000581857.jpg", "000000581857"),
        ("train2017/000000581857.jpg", "000000581857"),
        ("coco/train2014/COCO_val2014_000000000042.jpg", "000000000042"),
        ("000000581857_16.jpg", "000000581857_16.jpg"),
        ("obj365_train_000000581857.jpg", "obj365_train_000000581857.jpg"),
        ("2331.jpg", "2331.jpg"),
    ],
)
def test_coco_names_of_2014_and_2017_are_one_picture(filename: str, key: str) -> None:
    assert image_key(filename) == key


def test_images_of_another_data_set_are_left_out() -> None:
    records = [Record(f"{each:012}.jpg", 10, 10) for each in range(3)]
    assert list(without_images(records, {image_key("COCO_train2014_000000000001.jpg")})) == [records[0], records[2]]


# Label maps


def test_label_maps_merge_by_name() -> None:
    merged, moves = merge_label_maps([{0: "cat", 5: "dog"}, {0: "Dog ", 1: "emu", 2: "CAT"}, {0: "emu", 1: "ox"}])
    assert merged == {0: "cat", 5: "dog", 6: "emu", 7: "ox"}
    assert moves == [{0: 0, 5: 5}, {0: 5, 1: 6, 2: 0}, {0: 6, 1: 7}]


def test_records_follow_the_merged_map() -> None:
    record = Record("a.jpg", 10, 10, (Instance((0, 0, 5, 5), 2, "CAT", 0.5),))
    assert relabelled(record, {2: 0}, {0: "cat"}).instances == (Instance((0, 0, 5, 5), 0, "cat", 0.5),)
    assert relabelled(Record("a.jpg", 10, 10), {}, {}) == Record("a.jpg", 10, 10)
    with pytest.raises(InputError, match=r"a\.jpg: label 2 is not in its label map"):
        relabelled(record, {}, {})


# As commands


@pytest.fixture
def source(tmp_path: Path) -> Path:
    records = [
        Record(f"{each:012}.jpg", 10, 10, (Instance((0, 0, 5, 5), 0, "dog"), Instance((0, 0, 5, 6), 1, "cat")))
        for each in range(40)
    ]
    write_odvg(tmp_path / "x_od.json", records)
    return tmp_path / "x_od.json"


def convert(*arguments: object) -> int:
    return main(["convert", *map(str, arguments)])


def test_convert_splits_into_files_with_label_maps(source: Path) -> None:
    assert convert("odvg", "odvg", source, source.with_name("y_od.json"), "--parts", "train=0.5,val=0.5") == 0
    parts = [list(read_odvg(source.with_name(f"y_{part}_od.json"))) for part in ("train", "val")]
    assert sorted(parts[0] + parts[1], key=lambda record: record.filename) == list(read_odvg(source))
    assert read_label_map(source.with_name("y_val_label_map.json")) == {0: "dog", 1: "cat"}


def test_convert_samples_and_relabels(source: Path) -> None:
    (source.parent / "map.json").write_text('{"0": "cat"}')
    out = source.with_name("y_od.json")
    assert convert("odvg", "odvg", source, out, "--sample", 3, "--label-map", source.parent / "map.json") == 0
    records = list(read_odvg(out))
    assert len(records) == 3
    assert [(each.label, each.category) for each in records[0].instances] == [(1, "dog"), (0, "cat")]
    assert read_label_map(source.with_name("y_label_map.json")) == {0: "cat", 1: "dog"}


def test_convert_leaves_out_the_images_of_mdetr_files(source: Path) -> None:
    image = {"id": 7, "file_name": "COCO_train2014_000000000002.jpg", "original_id": 2, "caption": "the lady"}
    (source.parent / "val.json").write_text(json.dumps({"images": [image], "annotations": [], "categories": []}))
    out = source.with_name("y_od.json")
    assert convert("odvg", "odvg", source, out, "--without", source.parent / "val.json") == 0
    kept = [record.filename for record in read_odvg(out)]
    assert len(kept) == 39
    assert f"{2:012}.jpg" not in kept


def test_the_reference_keeps_refcocos_validation_images_out_of_coco_so(tmp_path: Path, capsys) -> None:
    """remove_cocotrain2017_from_refcoco.py takes ids out by "original_id"; the same images go by their names."""
    train = [Record(f"{image_id:012}.jpg", 10, 10, (Instance((1, 1, 5, 5), 0, "cat"),)) for image_id in range(1, 9)]
    write_coco(tmp_path / "instances_train2017.json", train, ("cat",))
    without: list[object] = []
    for name, ids in (("refcoco", [2, 3]), ("refcoco+", [3]), ("refcocog", [5, 99]), ("grefcoco", [7])):
        images = [
            {"id": index, "original_id": each, "file_name": f"COCO_train2014_{each:012}.jpg", "height": 10, "width": 10}
            for index, each in enumerate(ids)
        ]
        content = {"info": {}, "licenses": [], "images": images, "annotations": [], "categories": []}
        path = tmp_path / f"finetune_{name}_val.json"
        path.write_text(json.dumps(content))
        without += ["--without", path]
    out = tmp_path / "norefval.json"
    assert convert("coco", "coco", tmp_path / "instances_train2017.json", out, *without) == 0
    assert [record.filename for record in read_coco(out)] == [f"{each:012}.jpg" for each in (1, 4, 6, 8)]
    assert "4 records of images in --without, left out" in capsys.readouterr().out


def test_what_is_lost_is_told_a_line_a_kind(tmp_path: Path, capsys) -> None:
    source, _ = SAMPLES["coco"](tmp_path)
    assert convert("coco", "voc", source, tmp_path / "voc") == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"{source}: left out in reading:",
        "  1 date_captured of images",
        "  1 license of images",
        "  1 segmentation of annotations",
        "  1 supercategory of categories",
    ]


def test_convert_makes_an_unlabelled_coco_file_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "images/a.png")
    assert convert("images", "coco", tmp_path / "images", tmp_path / "coco.json", "--categories", "cat,dog") == 0
    assert list(read_coco(tmp_path / "coco.json")) == [Record("a.png", 10, 20)]
    assert [each["name"] for each in json.loads((tmp_path / "coco.json").read_text())["categories"]] == ["cat", "dog"]


def test_an_option_that_nobody_asks_for_is_refused(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert("odvg", "coco", source, source.with_name("c.json"), "--refs", "x") == 2
    assert "--refs: odvg and coco do not have this option; leave it out" in capsys.readouterr().err


def test_categories_of_a_source_that_names_its_own_are_refused(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert("odvg", "coco", source, source.with_name("c.json")) == 0
    assert convert("coco", "odvg", source.with_name("c.json"), source.with_name("d.json"), "--categories", "cat") == 2
    assert "--categories: coco has its own; leave it out, or use --label-map" in capsys.readouterr().err
