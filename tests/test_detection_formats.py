"""Open Images, Cityscapes and D3: samples made as their files are."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from formats import (
    CATEGORIES,
    READERS,
    WRITERS,
    InputError,
    Instance,
    Record,
    read_cityscapes,
    read_dod,
    read_dod_details,
    read_openimages,
)

HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
ROW = "a,xclick,/m/01g317,1,0.25,0.75,0.5,1,1,0,0,0,0"


@pytest.fixture
def openimages(tmp_path):
    Image.new("RGB", (200, 100)).save(tmp_path / "a.jpg")
    Image.new("RGB", (20, 10)).save(tmp_path / "b.jpg")
    (tmp_path / "classes.csv").write_text('/m/011k07,Tortoise\n/m/01g317,"Person, sitting"\n')

    def read(*rows, header=HEADER):
        (tmp_path / "boxes.csv").write_text("\n".join([header, *rows]) + "\n")
        return list(read_openimages(tmp_path / "boxes.csv", tmp_path / "classes.csv", tmp_path))

    read.root = tmp_path
    return read


def test_openimages_sizes_come_from_the_images(openimages):
    rows = [ROW, "a,xclick,/m/011k07,1,0,1,0,1,0,0,1,0,0", "b,xclick,/m/011k07,1,0,0.5,0,0.5,0,1,0,1,1"]
    assert openimages(*rows) == [
        Record(
            "a.jpg",
            100,
            200,
            (
                Instance((50, 50, 150, 100), 1, "Person, sitting"),
                Instance((0, 0, 200, 100), 0, "Tortoise", ignore=True),
            ),
        ),
        Record("b.jpg", 10, 20, (Instance((0, 0, 10, 5), 0, "Tortoise"),)),
    ]
    root = openimages.root
    assert CATEGORIES["openimages"](root / "boxes.csv", root / "classes.csv") == ("Tortoise", "Person, sitting")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW.replace("/m/01g317", "/m/x")], r"boxes\.csv:2: class '/m/x' is unknown"),
        ([ROW.replace("0.25", "x")], r"boxes\.csv:2: XMin, .* are not fractions"),
        ([ROW.replace("0.25", "nan")], "are not fractions"),
        ([ROW.replace("0.75", "150")], "are not fractions"),
        ([ROW.replace("0.25", "0.9")], r"boxes\.csv:2: box .* swapped corners"),
        ([ROW, "a,b"], r"boxes\.csv:3: has 2 fields; expected 13"),
        ([ROW, ROW.replace("a,", "b,", 1), ROW], r"boxes\.csv:4: a occurs again"),
        ([ROW.replace("a,", "../a,", 1)], "leaves its folder"),
        ([ROW.replace("a,", "z,", 1)], r"z\.jpg: does not exist"),
    ],
)
def test_openimages_errors_name_the_line(openimages, rows, message):
    with pytest.raises(InputError, match=message):
        openimages(*rows)


def test_openimages_header_is_checked(openimages):
    with pytest.raises(InputError, match=r"boxes\.csv:1: the header lacks XMin"):
        openimages(ROW, header=HEADER.replace("XMin,", "X,"))


# Cityscapes


def city(path, numbers):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(numbers, dtype=np.uint16)).save(path)


def test_cityscapes_boxes_enclose_the_visible_part(tmp_path):
    numbers = np.full((40, 60), 7)  # road
    numbers[10:20, 5:30] = 26001  # a car,
    numbers[10:15, 5:30] = 24000  # whose upper half a person hides
    numbers[0:4, 50:60] = 33  # a group of bicycles
    numbers[30, 30] = 29000  # a caravan, which is not evaluated
    city(tmp_path / "val/bonn/bonn_000000_000019_gtFine_instanceIds.png", numbers)
    assert list(read_cityscapes(tmp_path / "val")) == [
        Record(
            "bonn/bonn_000000_000019_leftImg8bit.png",
            40,
            60,
            (
                Instance((50, 0, 60, 4), 7, "bicycle", ignore=True),
                Instance((5, 10, 30, 15), 0, "person"),
                Instance((5, 15, 30, 20), 2, "car"),
            ),
        )
    ]
    assert CATEGORIES["cityscapes"](tmp_path)[7] == "bicycle"


def test_cityscapes_errors_name_the_file(tmp_path):
    with pytest.raises(InputError, match=r"contains no \*_gtFine_instanceIds.png"):
        list(read_cityscapes(tmp_path))
    path = tmp_path / "a_gtFine_instanceIds.png"
    Image.new("RGB", (4, 4)).save(path)
    with pytest.raises(InputError, match="has 3 channels"):
        list(read_cityscapes(tmp_path))
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot be read as an image"):
        list(read_cityscapes(tmp_path))


# D3

D3 = {
    "images": [{"id": 0, "file_name": "g1/a.jpg", "height": 50, "width": 60}],
    "annotations": [{"id": 1, "image_id": 0, "category_id": 2, "bbox": [1, 2, 3, 4], "iscrowd": 0}],
    "categories": [{"id": 1, "name": "dog without leash"}, {"id": 2, "name": "dog on a leash"}],
}


def d3_pickles(folder, **changes):
    content = {
        "images": {0: {"id": 0, "file_name": "g1/a.jpg", "group_id": 5}},
        "groups": {5: {"id": 5, "inner_sent_id": [2, 1], "outer_sent_id": []}},
        "sentences": {
            1: {"id": 1, "raw_sent": "dog without leash", "is_negative": True},
            2: {"id": 2, "raw_sent": "dog on a leash", "is_negative": False},
        },
        **changes,
    }
    for name, value in content.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(value))
    return folder


def test_d3_categories_are_descriptions(tmp_path):
    (tmp_path / "d3.json").write_text(json.dumps(D3))
    assert list(read_dod(tmp_path / "d3.json")) == [
        Record("g1/a.jpg", 50, 60, (Instance((1, 2, 4, 6), 1, "dog on a leash"),))
    ]
    details = read_dod_details(d3_pickles(tmp_path))
    assert details.queried == {"g1/a.jpg": (0, 1)}
    assert details.absence == {0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": {}}, "image 0: group_id 5 is not a group"),
        ({"groups": {5: {}}}, "group 5: 'inner_sent_id' is missing"),
        ({"images": []}, r"images\.pkl: is not a dict of entries"),
        ({"sentences": np.zeros(1)}, r"sentences\.pkl: is not a pickle of plain containers"),
    ],
)
def test_d3_errors_name_the_pickle(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read_dod_details(d3_pickles(tmp_path, **changes))


def test_the_categories_of_every_readable_format_are_known():
    assert set(CATEGORIES) <= set(READERS)
    assert set(WRITERS) <= set(READERS)
