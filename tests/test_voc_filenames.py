"""Which image a VOC file is about: what <filename> says, held against the image folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from formats import Record, read_coco, read_coco_results, read_cvat, read_voc, write_coco, write_coco_results


def annotation(path: Path, filename: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = "<size><width>12</width><height>10</height></size>"
    path.write_text(f"<annotation><filename>{filename}</filename>{size}</annotation>")


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10)).save(path)


def names(*where: Path) -> list[str]:
    return [record.filename for record in read_voc(where[0], [], *where[1:])]


def test_the_same_name_in_two_folders_is_two_images(tmp_path: Path) -> None:
    for folder in ("x", "y/z"):
        annotation(tmp_path / "Annotations" / folder / "a.xml", "a.jpg")
    assert names(tmp_path / "Annotations") == names(tmp_path) == ["x/a.jpg", "y/z/a.jpg"]


@pytest.mark.parametrize(
    ("xml", "said", "there", "name"),
    [
        ("a.xml", "a", "a.JPG", "a.JPG"),
        ("x/a.xml", "a.jpg", "a.jpg", "a.jpg"),
        ("x/a.xml", "a.jpg", "x/a.jpg", "x/a.jpg"),
        ("x/a.xml", "x/a.jpg", "x/a.jpg", "x/a.jpg"),
        ("a.xml", "a.b", "a.b.png", "a.b.png"),
        ("a.xml", "a.png", "a.jpg", "a.jpg"),
        ("new.xml", "IMG_1.jpg", "new.jpg", "new.jpg"),
        ("a.xml", "C:\\photos\\a.jpg", "a.jpg", "a.jpg"),
        ("a.xml", "/home/me/a.jpg", "a.jpg", "a.jpg"),
        ("a.xml", "sub\\a.jpg", "sub/a.jpg", "sub/a.jpg"),
        ("a.xml", "lost.jpg", "other.jpg", "lost.jpg"),
    ],
)
@pytest.mark.parametrize("folder", ["JPEGImages", "images", "elsewhere"])
def test_the_image_that_is_there_is_the_one_that_is_meant(
    tmp_path: Path, xml: str, said: str, there: str, name: str, folder: str
) -> None:
    annotation(tmp_path / "Annotations" / xml, said)
    image(tmp_path / folder / there)
    more = (tmp_path / folder,) if folder == "elsewhere" else ()
    assert names(tmp_path / "Annotations", *more) == [name]


@pytest.mark.parametrize(
    ("said", "name"),
    [("D:\\photos\\a.jpg", "a.jpg"), ("\\\\host\\share\\a.jpg", "a.jpg"), ("/data/a.jpg", "a.jpg"), ("a", "a")],
)
def test_without_images_a_name_keeps_what_can_be_relative(tmp_path: Path, said: str, name: str) -> None:
    annotation(tmp_path / "a.xml", said)
    assert names(tmp_path) == [name]


def test_images_beside_their_annotations_are_found(tmp_path: Path) -> None:
    annotation(tmp_path / "train/a.xml", "a")
    image(tmp_path / "train/a.png")
    assert names(tmp_path) == ["train/a.png"]


def test_backslashes_of_coco_and_cvat_part_folders_too(tmp_path: Path) -> None:
    write_coco(tmp_path / "a.json", [Record("sub\\a.jpg", 10, 12, ())], [])
    assert [each.filename for each in read_coco(tmp_path / "a.json")] == ["sub/a.jpg"]
    write_coco_results(tmp_path / "results.json", [Record("sub/a.jpg", 10, 12, ())], tmp_path / "a.json")
    assert [each.filename for each in read_coco_results(tmp_path / "results.json", tmp_path / "a.json")] == [
        "sub/a.jpg"
    ]
    xml = '<annotations><image id="0" name="sub\\a.jpg" width="12" height="10"/></annotations>'
    (tmp_path / "a.xml").write_text(xml)
    assert [each.filename for each in read_cvat(tmp_path / "a.xml")] == ["sub/a.jpg"]
