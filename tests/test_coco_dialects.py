"""LVIS, Objects365, V3Det and ODinW: samples made as their files are."""

import json
import logging

import pytest

from formats import (
    CATEGORIES,
    READERS,
    InputError,
    Instance,
    Record,
    read_categories_by_id,
    read_coco,
    read_lvis,
    read_lvis_categories,
    read_lvis_details,
    read_objects365v1,
    read_objects365v2,
    read_objects365v2_categories,
    read_odinw,
    read_odinw_categories,
    read_v3det,
)


def box(image_id, category_id, bbox=(1, 2, 3, 4), **more):
    area = bbox[2] * bbox[3]
    return {"id": 1, "image_id": image_id, "category_id": category_id, "bbox": bbox, "area": area, **more}


@pytest.fixture
def write(tmp_path):
    def to_file(content, name="a.json"):
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path / name

    return to_file


LVIS = {
    "images": [
        {
            "id": 391895,
            "height": 360,
            "width": 640,
            "coco_url": "http://images.cocodataset.org/train2017/000000391895.jpg",
            "neg_category_ids": [2],
            "not_exhaustive_category_ids": [7],
        }
    ],
    "annotations": [box(391895, 7)],
    "categories": [  # not in the order of their ids
        {"id": 7, "name": "zebra", "frequency": "f", "synset": "zebra.n.01", "image_count": 1674},
        {"id": 2, "name": "bat_(animal)", "frequency": "r", "synset": "bat.n.01", "image_count": 3},
    ],
}


def test_lvis_labels_follow_the_ids_and_names_come_from_the_address(write):
    path = write(LVIS)
    assert list(read_lvis(path)) == [
        Record("train2017/000000391895.jpg", 360, 640, (Instance((1, 2, 4, 6), 1, "zebra"),))
    ]
    assert read_categories_by_id(path) == ("bat_(animal)", "zebra")


def test_lvis_of_some_frequencies_keeps_every_image_and_their_boxes_alone(write):
    path = write({**LVIS, "annotations": [box(391895, 7), box(391895, 2, (5, 6, 7, 8))]})
    (whole,), (frequent,), (rare,) = (list(read_lvis(path, each)) for each in (None, "f,c", "r"))
    assert [(each.category, each.label) for each in frequent.instances] == [("zebra", 0)]
    assert {each.box for each in frequent.instances + rare.instances} == {each.box for each in whole.instances}
    names = read_lvis_categories(path, "f,c") + read_lvis_categories(path, "r")
    assert sorted(names) == sorted(read_lvis_categories(path))
    with pytest.raises(InputError, match=r"frequencies: 'x'; expected some of r, c and f"):
        list(read_lvis(path, "x"))


def test_lvis_details_are_kept_beside_the_records(write):
    details = read_lvis_details(write(LVIS))
    assert details.frequency == ("r", "f")
    assert details.absent == {"train2017/000000391895.jpg": frozenset({0})}
    assert details.not_exhaustive == {"train2017/000000391895.jpg": frozenset({1})}


def test_lvis_of_2014_names_its_files(write):
    image = {"id": 1, "height": 3, "width": 4, "file_name": "COCO_val2014_000000000042.jpg"}
    assert next(read_lvis(write({**LVIS, "images": [image], "annotations": []}))).filename == "000000000042.jpg"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [{**LVIS["images"][0], "neg_category_ids": [3]}]}, r"neg_category_ids \[3\] is not a list"),
        ({"images": [{**LVIS["images"][0], "neg_category_ids": 3}]}, "neg_category_ids 3 is not a list"),
        ({"images": [{"id": 1, "height": 1, "width": 1}]}, "image 1: 'file_name' is missing"),
        ({"categories": [{"id": 7, "name": "a"}]}, "category 7: 'frequency' is missing"),
        ({"categories": [{"id": 7, "name": "a", "frequency": "x"}]}, "frequency is 'x'; expected r, c or f"),
        ({"categories": [{"id": 7, "name": "a"}, {"id": "b", "name": "b"}]}, "category ids are of several kinds"),
    ],
)
def test_lvis_errors_name_the_entry(write, change, message):
    with pytest.raises(InputError, match=message):
        read_lvis_details(write({**LVIS, **change}))


OBJECTS365_V2 = {
    "images": [
        {"id": 420917, "file_name": "images/v1/patch8/objects365_v1_00420917.jpg", "height": 512, "width": 769},
        {"id": 908726, "file_name": "images/v2/patch16/objects365_v2_00908726.jpg", "height": 5, "width": 7},
    ],
    "annotations": [box(420917, 38), box(420917, 91, iscrowd=1), box(908726, 38)],
    "categories": [{"id": 91, "name": "Ballon"}, {"id": 38, "name": "Moniter/TV"}],
}


def test_objects365v2_names_are_put_right_and_lost_images_left_out(write, caplog):
    path = write(OBJECTS365_V2)
    with caplog.at_level(logging.WARNING):
        (record,) = read_objects365v2(path)
    assert record == Record(
        "patch8/objects365_v1_00420917.jpg",
        512,
        769,
        (Instance((1, 2, 4, 6), 0, "Monitor/TV"), Instance((1, 2, 4, 6), 1, "Ballon", ignore=True)),
    )
    assert read_objects365v2_categories(path) == ("Monitor/TV", "Ballon")
    assert "1 image left out, missing in the published archives" in caplog.text


def test_objects365v1_keeps_names_and_leaves_lost_images_out(write):
    images = [{"id": each, "file_name": f"obj365_train_{each:012}.jpg", "height": 5, "width": 7} for each in (6, 8)]
    path = write({"images": images, "annotations": [box(6, 2), box(8, 2)], "categories": [{"id": 2, "name": "tv"}]})
    assert list(read_objects365v1(path)) == [
        Record("obj365_train_000000000008.jpg", 5, 7, (Instance((1, 2, 4, 6), 0, "tv"),))
    ]


def test_v3det_labels_follow_the_ids(write):
    image = {"id": 1, "file_name": "images/a00000066/0_380_a.jpg", "height": 5, "width": 7}
    names = [{"id": 2, "name": "b"}, {"id": 1, "name": "a", "cat_info": "…"}]
    path = write({"images": [image], "annotations": [box(1, 1)], "categories": names})
    assert list(read_v3det(path)) == [Record(image["file_name"], 5, 7, (Instance((1, 2, 4, 6), 0, "a"),))]


ODINW = {
    "images": [{"id": 0, "file_name": "img-1.jpg", "height": 300, "width": 400}],
    "annotations": [box(0, 1)],
    "categories": [
        {"id": 0, "name": "potholes", "supercategory": "none"},
        {"id": 1, "name": "pothole", "supercategory": "potholes"},
    ],
}


def test_odinw_is_found_in_its_folder_without_the_category_that_nothing_bears(write, tmp_path):
    write(ODINW, "_annotations.coco.json")
    assert list(read_odinw(tmp_path)) == [Record("img-1.jpg", 300, 400, (Instance((1, 2, 4, 6), 0, "pothole"),))]
    assert read_odinw_categories(tmp_path) == ("pothole",)
    used = {**ODINW, "annotations": [box(0, 0)]}
    write({**used, "images": ODINW["images"]}, "annotations_without_background.json")  # goes first
    assert read_odinw_categories(tmp_path) == ("potholes", "pothole")


def test_odinw_without_annotations_says_what_is_expected(tmp_path):
    with pytest.raises(InputError, match="contains no ODinW annotations; expected annotations_without_background"):
        list(read_odinw(tmp_path))


# What nobody should send: every reader of this family refuses it with the place.


@pytest.mark.parametrize("name", ["coco", "lvis", "objects365v1", "objects365v2", "v3det", "odinw"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"images": 1, "categories": []}',
        '{"images": [1], "categories": []}',
        '{"images": [{"id": [1]}], "categories": []}',
        '{"images": [{"id": 1, "file_name": "a", "height": [], "width": 1}], "categories": []}',
        '{"images": [{"id": 1, "file_name": "a", "height": "x", "width": 1}], "categories": []}',
        '{"images": [], "annotations": [{}], "categories": []}',
        '{"images": [], "annotations": [{"image_id": {}}], "categories": []}',
        '{"images": [], "annotations": {}, "categories": []}',
        '{"images": [], "annotations": [], "categories": [{"id": 1}]}',
        "[" * 100_000,
    ],
)
def test_broken_files_are_input_errors(tmp_path, name, text):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"broken\.json"):
        list(READERS[name](path))
    if name in CATEGORIES and "categories" not in text:
        with pytest.raises(InputError, match=r"broken\.json"):
            CATEGORIES[name](path)


def test_ignored_annotations_are_ignored(write):
    boxes = [box(0, 1, ignore=1), box(0, 1, iscrowd=1), box(0, 1, ignore=0)]
    content = {**ODINW, "annotations": [{**each, "id": index} for index, each in enumerate(boxes)]}
    assert [instance.ignore for instance in next(read_coco(write(content))).instances] == [True, True, False]
