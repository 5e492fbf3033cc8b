"""COCO, VOC and YOLO become records; the package's names."""

import json
import logging
import subprocess
import sys

import pytest
from PIL import Image

import formats
from formats import InputError, Instance, Record, read_coco, read_coco_categories, read_voc, read_yolo, write_coco
from tests.paths import GOLDEN


def test_every_exported_name_is_there():
    assert [name for name in formats.__all__ if not hasattr(formats, name)] == []
    assert set(formats.WRITERS) <= set(formats.READERS)


def test_the_package_opens_without_the_heavy_libraries():
    code = "import sys, formats; print([name for name in ('torch', 'pyarrow', 'numpy', 'yaml') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# COCO

COCO = {
    "images": [
        {"id": 7, "file_name": "b.jpg", "height": 100, "width": 120},
        {"id": 3, "file_name": "a.jpg", "height": 50, "width": 60},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 30, 40], "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 5, "bbox": [5, 5, 0, 8.5], "iscrowd": 1, "score": 0.5},
    ],
    "categories": [{"id": 90, "name": "zebra"}, {"id": 5, "name": "cat"}],
}


@pytest.fixture
def coco(tmp_path):
    def write(**changes) -> str:
        path = tmp_path / "coco.json"
        path.write_text(json.dumps({key: value for key, value in {**COCO, **changes}.items() if value is not None}))
        return path

    return write


def test_coco_images_categories_and_annotations_keep_the_order_of_the_file(coco):
    assert list(read_coco(coco())) == [
        Record(
            "b.jpg",
            100,
            120,
            (
                Instance((1.0, 2.0, 31.0, 42.0), 0, "zebra"),
                Instance((5.0, 5.0, 5.0, 13.5), 1, "cat", 0.5, ignore=True),
            ),
        ),
        Record("a.jpg", 50, 60, ()),
    ]
    assert read_coco_categories(coco()) == ("zebra", "cat")


def test_coco_without_annotations_is_unlabelled(coco):
    assert [record.instances for record in read_coco(coco(annotations=None))] == [None, None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [{**COCO["annotations"][0], "image_id": 8}]}, "0: image_id 8 is not the id of an image"),
        (
            {"annotations": [{**COCO["annotations"][0], "category_id": 1}]},
            r"category_id 1 is .*; expected one of \[90, 5\]",
        ),
        ({"annotations": [{**COCO["annotations"][0], "bbox": [1, 2, -3, 4]}]}, "annotation 0: bbox .* negative side"),
        ({"annotations": [{**COCO["annotations"][0], "bbox": [1, 2]}]}, "annotation 0: bbox .* not four numbers"),
        ({"annotations": [{"image_id": 7, "category_id": 5}]}, "annotation 0: 'bbox' is missing"),
        ({"images": [COCO["images"][0], COCO["images"][0]]}, "images 1: id 7 is listed twice"),
        ({"categories": [{"id": 5, "name": "a"}, {"id": 5, "name": "b"}]}, "categories 1: id 5 is listed twice"),
        (
            {"images": [{"id": 7, "file_name": "b.jpg", "height": 5}], "annotations": []},
            "image 7: lacks the .* size",
        ),
        (
            {"images": [{"id": 7, "file_name": "b.jpg", "height": 0, "width": 1}], "annotations": []},
            "lacks the image's size",
        ),
        ({"images": None}, "'images' is missing"),
        ({"categories": {}}, "'categories' is not a list"),
    ],
)
def test_coco_errors_name_the_entry(coco, changes, message):
    path = coco(**changes)
    with pytest.raises(InputError, match=message) as caught:
        list(read_coco(path))
    assert str(caught.value).startswith(str(path))


def test_coco_comes_back_as_it_was_written(tmp_path, coco):
    records = list(read_coco(coco()))
    write_coco(tmp_path / "again.json", iter(records), ("zebra", "cat"))
    assert list(read_coco(tmp_path / "again.json")) == records
    assert read_coco_categories(tmp_path / "again.json") == ("zebra", "cat")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            Record("a", 1, 1, (Instance((0, 0, 1, 1), 2, "dog"),)),
            "label 2 is 'dog', in the category list it is missing",
        ),
        (
            Record("a", 1, 1, (Instance((0, 0, 1, 1), 0, "cat"),)),
            "label 0 is 'cat', in the category list it is 'zebra'",
        ),
        (Record("a", 1, 1, caption="a cat"), "is a caption"),
    ],
)
def test_coco_refuses_records_that_it_cannot_hold(tmp_path, record, message):
    with pytest.raises(InputError, match=message):
        write_coco(tmp_path / "a.json", [record], ("zebra", "cat"))
    assert list(tmp_path.iterdir()) == []


def test_coco_agrees_with_pycocotools(tmp_path):
    from pycocotools.coco import COCO as CocoApi

    path = GOLDEN / "eval/coco_ann.json"
    api = CocoApi(path)
    records = list(read_coco(path))
    assert len(records) == len(api.imgs)
    write_coco(tmp_path / "again.json", records, read_coco_categories(path))
    again = CocoApi(tmp_path / "again.json")
    assert sum(len(record.instances) for record in records) == len(api.anns) == len(again.anns)
    assert sorted(round(entry["bbox"][2], 4) for entry in api.anns.values()) == sorted(
        entry["bbox"][2] for entry in again.anns.values()
    )


# VOC

OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult>"
    "<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
)


def voc_file(path, filename="a.jpg", size=(100, 120), objects=""):
    height, width = size
    path.write_text(
        f"<annotation><filename>{filename}</filename><size><width>{width}</width><height>{height}</height></size>"
        f"{objects}</annotation>"
    )


def voc_object(name="cat", difficult=0, x1=1, y1=1, x2=120, y2=100):
    return OBJECT.format(name=name, difficult=difficult, x1=x1, y1=y1, x2=x2, y2=y2)


def test_voc_boxes_count_from_1_and_hold_both_corners(tmp_path):
    voc_file(
        tmp_path / "b.xml", "b.jpg", objects=voc_object() + voc_object("ant", 1, 3, 4, 3, 4) + voc_object(x1=0, y1=0)
    )
    voc_file(tmp_path / "a.xml")
    assert list(read_voc(tmp_path)) == [
        Record("a.jpg", 100, 120, ()),
        Record(
            "b.jpg",
            100,
            120,
            (
                Instance((0.0, 0.0, 120.0, 100.0), 1, "cat"),  # the whole image
                Instance((2.0, 3.0, 3.0, 4.0), 0, "ant", ignore=True),  # one pixel
                Instance((0.0, 0.0, 120.0, 100.0), 1, "cat"),  # a tool that counts from 0
            ),
        ),
    ]


def test_voc_labels_follow_the_given_categories(tmp_path):
    voc_file(tmp_path / "a.xml", objects=voc_object("cat"))
    assert next(read_voc(tmp_path, ["dog", "cat"])).instances[0].label == 1
    with pytest.raises(InputError, match=r"a\.xml: object 0: 'cat' is not a category; did you mean 'cats'\?"):
        list(read_voc(tmp_path, ["dog", "cats"]))


def test_voc_size_is_looked_up_when_the_file_has_none(tmp_path):
    voc_file(tmp_path / "a.xml", size=(0, 0))
    with pytest.raises(InputError, match=r"a\.xml: has no image size; expected <size>, or the image folder"):
        list(read_voc(tmp_path))
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg")
    assert list(read_voc(tmp_path, image_dir=tmp_path)) == [Record("a.jpg", 20, 30, ())]
    voc_file(tmp_path / "a.xml", filename="../a.jpg", size=(0, 0))
    with pytest.raises(InputError, match="leaves its folder"):
        list(read_voc(tmp_path, image_dir=tmp_path))
    voc_file(tmp_path / "a.xml", filename="../a.jpg")  # also where nobody opens the image
    with pytest.raises(InputError, match="leaves its folder"):
        list(read_voc(tmp_path))


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (voc_object(x1="left"), "object 0: <bndbox/xmin> is 'left'; expected a number"),
        (voc_object(x1="nan"), "object 0: <bndbox/xmin> is 'nan'"),
        (voc_object(x1=50, x2=20), "object 0: box .* swapped corners"),
        (voc_object(name=""), "<name> is missing or empty"),
        (voc_object() + "<object><name>cat</name><bndbox/></object>", "object 1: <bndbox/xmin> is missing"),
        ("<object>", "is not XML"),
    ],
)
def test_voc_errors_name_the_file_and_the_object(tmp_path, objects, message):
    voc_file(tmp_path / "a.xml", objects=objects)
    with pytest.raises(InputError, match=message) as caught:
        list(read_voc(tmp_path))
    assert "a.xml" in str(caught.value)


def test_voc_without_a_file_is_named(tmp_path):
    with pytest.raises(InputError, match="contains no XML file"):
        list(read_voc(tmp_path))
    with pytest.raises(InputError, match="does not exist"):
        list(read_voc(tmp_path / "none"))


# YOLO


@pytest.fixture
def yolo(tmp_path):
    (tmp_path / "images/sub").mkdir(parents=True)
    (tmp_path / "labels/sub").mkdir(parents=True)
    Image.new("RGB", (200, 100)).save(tmp_path / "images/a.jpg")
    Image.new("RGB", (200, 100)).save(tmp_path / "images/sub/b.png")

    def read(text: str, categories=("cat", "dog")) -> list[Record]:
        (tmp_path / "labels/sub/b.txt").write_text(text)
        return list(read_yolo(tmp_path / "labels", tmp_path / "images", categories))

    read.root = tmp_path
    return read


def test_yolo_boxes_predictions_and_polygons(yolo):
    empty, record = yolo("1 0.5 0.5 0.5 0.5\n\n0 0.25 0.5 0.5 1 0.75\n0 0.25 0.5 0.5 0.25 0.75 0.75\n")
    assert empty == Record("a.jpg", 100, 200, ())
    assert record == Record(
        "sub/b.png",
        100,
        200,
        (
            Instance((50.0, 25.0, 150.0, 75.0), 1, "dog"),
            Instance((0.0, 0.0, 100.0, 100.0), 0, "cat", 0.75),
            Instance((50.0, 25.0, 150.0, 75.0), 0, "cat"),
        ),
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "names: [cat, dog]"),
        ("a.yml", "path: .\nnames:\n  1: dog\n  0: cat\n"),
        ("a.txt", "cat\ndog\n\n"),
    ],
)
def test_yolo_names_come_from_a_file_too(yolo, name, text):
    (yolo.root / name).write_text(text)
    assert yolo("1 0.5 0.5 0.5 0.5", yolo.root / name)[1].instances[0].category == "dog"


@pytest.mark.parametrize("text", ["nc: 2", "names: {1: cat}", "names: [", "names: []"])
def test_yolo_names_that_are_none(yolo, text):
    (yolo.root / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=r"a\.yaml: .*names"):
        yolo("", yolo.root / "a.yaml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.5 0.5", r"class 2 is unknown; expected 0\.\.1"),
        ("0.5 0.5 0.5 0.5 0.5", "class 0.5 is unknown"),
        ("cat 0.5 0.5 0.5 0.5", "is not a row of numbers"),
        ("0 nan 0.5 0.5 0.5", "has a number that is not finite"),
        ("0 100 50 20 20", "100 is not a fraction of the image; expected numbers in 0..1, not pixels"),
        ("0 0.5 0.5 0.5", "3 numbers after the class"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "7 numbers after the class"),
        ("0", "0 numbers after the class"),
    ],
)
def test_yolo_errors_name_the_line(yolo, line, message):
    with pytest.raises(InputError, match=message) as caught:
        yolo("0 0.5 0.5 0.5 0.5\n" + line)
    assert "b.txt:2: " in str(caught.value)


def test_yolo_files_that_are_not_utf8_are_named(yolo):
    (yolo.root / "names.txt").write_bytes("größe".encode("latin-1"))
    with pytest.raises(InputError, match=r"names\.txt: is not UTF-8"):
        yolo("", yolo.root / "names.txt")


def test_yolo_labels_without_an_image_are_counted(yolo, caplog):
    (yolo.root / "labels/lost.txt").touch()
    (yolo.root / "labels/classes.txt").write_text("cat\ndog\n")
    with caplog.at_level(logging.WARNING):
        assert len(yolo("")) == 2
    (message,) = caplog.messages
    assert "1 label file without an image" in message
    assert "lost.txt" in message
