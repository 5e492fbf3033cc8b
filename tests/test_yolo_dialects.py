"""YOLO as other programs write and read it: poses, tracks, odd names and folders that do not belong together."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml
from PIL import Image

from formats import InputError, Instance, Omissions, Record, read_yolo, write_yolo
from formats.convert import convert
from formats.label_map import read_category_names, read_label_map

BOX = (25.0, 40.0, 75.0, 60.0)  # of "0.5 0.5 0.5 0.2" in an image of 100 x 100


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.new("RGB", (100, 100)).save(tmp_path / "images/a.jpg")
    return tmp_path


def rows(root: Path, *lines: str) -> tuple[list[Instance], Omissions]:
    (root / "labels/a.txt").write_text("\n".join(lines))
    omissions = Omissions()
    (record,) = read_yolo(root / "labels", root / "images", ["cat", "dog"], omissions=omissions)
    return list(record.instances or ()), omissions


@pytest.mark.parametrize("behind", ["0.45 0.45 2 0.55 0.5 1", "0 0 0 0.1 0.9 2", "0.45 0.45 1 0.55 0.5 1"])
@pytest.mark.parametrize("declared", [True, False])
def test_a_pose_is_its_box(root: Path, behind: str, declared: bool) -> None:
    if declared:
        (root / "data.yaml").write_text("kpt_shape: [2, 3]\nnames: [cat, dog]\n")
    found, omissions = rows(root, f"0 0.5 0.5 0.5 0.2 {behind}", f"1 0.5 0.5 0.5 0.2 {behind}")
    assert [(each.box, each.label, each.score) for each in found] == [(BOX, 0, None), (BOX, 1, None)]
    assert omissions == {"objects with keypoints, only the bounding box is read": 2}


def test_poses_without_visibility_are_told_by_the_data_yaml(root: Path) -> None:
    (root / "data.yaml").write_text("names: [cat, dog]\nkpt_shape: [2, 2]\n")
    assert rows(root, "0 0.5 0.5 0.5 0.2 0.1 0.2 0.3 0.4")[0] == [Instance(BOX, 0, "cat")]
    assert rows(root, "0 0.5 0.5 0.5 0.2 0.1 0.2 0.3 0.4 0.75")[0] == [Instance(BOX, 0, "cat", 0.75)]
    with pytest.raises(InputError, match=r"a\.txt:1: 6 numbers .*expected cx cy w h and 2 keypoints of 2 numbers"):
        rows(root, "0 0.5 0.5 0.5 0.2 0.1 0.2")


@pytest.mark.parametrize("shape", ["17", "[17]", "[17, 4]", "[0, 3]", "[a, 3]", "{a: 1}"])
def test_a_kpt_shape_that_is_none_is_named(root: Path, shape: str) -> None:
    (root / "data.yaml").write_text(f"names: [cat]\nkpt_shape: {shape}\n")
    with pytest.raises(InputError, match=r"data\.yaml: kpt_shape is"):
        rows(root, "0 0.5 0.5 0.5 0.2")


def test_a_polygon_of_the_whole_image_is_no_pose(root: Path) -> None:
    found, omissions = rows(root, "0 0 0 1 0 1 1 0 1 0 0")
    assert [each.box for each in found] == [(0, 0, 100, 100)]
    assert omissions == {"polygons, only the bounding box is read": 1}


@pytest.mark.parametrize(
    ("lines", "scores"),
    [
        (["0 0.5 0.5 0.5 0.2 0.9 1"], [0.9]),
        (["0 0.5 0.5 0.5 0.2 0.9 4", "0 0.5 0.5 0.5 0.2 0.8 2"], [0.9, 0.8]),
        (["0 0.5 0.5 0.5 0.2 7", "0 0.5 0.5 0.5 0.2 1"], [None, None]),
        (["0 0.25 0.4 0.75 0.4 0.75 0.6 0.9 3", "1 0.25 0.4 0.75 0.4 0.75 0.6 0.5 1"], [0.9, 0.5]),
    ],
)
def test_a_tracks_number_is_neither_score_nor_coordinate(root: Path, lines: list[str], scores: list) -> None:
    found, omissions = rows(root, *lines)
    assert [each.box for each in found] == [pytest.approx(BOX)] * len(lines)
    assert [each.score for each in found] == scores
    assert omissions.total() == len(lines)


def test_a_triangle_among_polygons_stays_one(root: Path) -> None:
    found, _ = rows(root, "0 0.5 0.5 0.2 0.2 0.9 1", "0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2")
    assert [each.box for each in found] == [(20, 20, 90, 100), (10, 10, 20, 20)]


def test_what_is_outside_the_image_is_the_number_named(root: Path) -> None:
    with pytest.raises(InputError, match=r"-0\.2 is not a fraction"):
        rows(root, "0 0.5 0.5 -0.2 0.2")


def test_label_files_are_found_in_capitals_too(root: Path) -> None:
    (root / "labels/a.TXT").write_text("0 0.5 0.5 0.5 0.2")
    assert list(read_yolo(root / "labels", root / "images", ["cat"])) == [
        Record("a.jpg", 100, 100, (Instance(BOX, 0, "cat"),))
    ]
    (root / "labels/a.txt").touch()
    with pytest.raises(InputError, match=r"labels the same image as a\.TXT"):
        list(read_yolo(root / "labels", root / "images", ["cat"]))


def test_two_images_do_not_share_a_label_file(root: Path) -> None:
    Image.new("RGB", (10, 10)).save(root / "images/a.png")
    with pytest.raises(InputError, match=r"a\.txt: belongs to a\.jpg and to another image"):
        rows(root, "0 0.5 0.5 0.5 0.2")


@pytest.mark.parametrize("label_file", ["val/a.txt", "b.txt"])
def test_images_that_do_not_belong_to_the_labels_are_refused(root: Path, label_file: str) -> None:
    (root / "labels" / label_file).parent.mkdir(exist_ok=True)
    (root / "labels" / label_file).write_text("0 0.5 0.5 0.5 0.2")
    with pytest.raises(InputError, match=r"labels: 1 of 1 label file without an image in .*images"):
        list(read_yolo(root / "labels", root / "images", ["cat"]))


def test_a_folder_without_label_files_is_refused(root: Path) -> None:
    (root / "labels/classes.txt").write_text("cat\n")
    with pytest.raises(InputError, match="labels: contains no label file"):
        list(read_yolo(root / "labels", root / "images", ["cat"]))


def test_many_images_without_labels_are_a_warning(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("b.jpg", "c.jpg"):
        Image.new("RGB", (10, 10)).save(root / "images" / name)
    (root / "labels/a.txt").touch()
    with caplog.at_level(logging.WARNING):
        assert [each.instances for each in read_yolo(root / "labels", root / "images", ["cat"])] == [(), (), ()]
    assert "2 of 3 images have no label file" in caplog.text


# Names


@pytest.mark.parametrize("form", ["[{}]", "{{{}}}", "list", "table"])
def test_names_are_the_words_that_stand_there_whatever_yaml_makes_of_them(tmp_path: Path, form: str) -> None:
    names = ("on", "off", "no", "null", "~", "1e3", "0123", "2024-01-01", "true")
    lines = {
        "[{}]": "names: [" + ", ".join(names) + "]",
        "{{{}}}": "names: {" + ", ".join(f"'{i}': {name}" for i, name in enumerate(names)) + "}",
        "list": "names:\n" + "".join(f"- {name}\n" for name in names),
        "table": "names:\n" + "".join(f"  {i}: {name}\n" for i, name in enumerate(names)),
    }
    (tmp_path / "data.yaml").write_text(lines[form])
    assert read_category_names(tmp_path / "data.yaml") == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: {0: cat, x: dog}", "has the classes 0, x"),
        ("names: {0: cat, 0: dog}", r"data\.yaml:1: '0' is listed twice"),
        ("names: [cat, [dog]]", "has no names"),
        ("names: [cat, '']", "has no names"),
        ("names: " + "[" * 5000, "is not YAML"),
        ("nc: 3\nnames: [cat, dog]", "nc is 3, and names has 2"),
    ],
)
def test_names_that_are_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_category_names(tmp_path / "data.yaml")


def test_a_blank_line_between_names_would_move_the_classes(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\n\ndog\n")
    with pytest.raises(InputError, match=r"classes\.txt:2: is blank"):
        read_category_names(tmp_path / "classes.txt")
    (tmp_path / "classes.txt").write_text("cat\ndog\n\n \n")
    assert read_category_names(tmp_path / "classes.txt") == ("cat", "dog")


# Writing

SCORED = Record("a.jpg", 100, 100, (Instance(BOX, 0, "on", 0.5),))


def test_scores_are_written_when_asked_for(tmp_path: Path) -> None:
    assert write_yolo(tmp_path / "plain", [SCORED], ["on"]) == {"scores": 1}
    assert (tmp_path / "plain/labels/a.txt").read_text() == "0 0.50000000 0.50000000 0.50000000 0.20000000\n"
    assert write_yolo(tmp_path / "scored", [SCORED], ["on"], with_scores=True) == {}
    assert (tmp_path / "scored/labels/a.txt").read_text().split()[5] == "0.50000000"


def test_the_data_yaml_means_its_own_folder_and_every_name_is_a_text(tmp_path: Path) -> None:
    names = ["on", "07", 'a "b": c', "größe"]
    write_yolo(tmp_path / "out", [], names)
    content = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    assert content == {"train": "images", "val": "images", "names": dict(enumerate(names))}


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 100)).save(path)


def test_the_folder_that_was_written_is_read(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.jpg")
    records = [Record("a.jpg", 100, 100, (Instance(BOX, 1, "dog"),))]
    write_yolo(tmp_path / "out", records, ("cat", "dog"))
    [read] = read_yolo(tmp_path / "out", tmp_path / "images")
    assert (read.instances[0].box, read.instances[0].category) == (records[0].instances[0].box, "dog")
    assert list(read_yolo(tmp_path / "out" / "labels", tmp_path / "images")) == [read]
    convert("yolo", "odvg", tmp_path / "out", tmp_path / "x_od.json", image_dir=tmp_path / "images")
    assert read_label_map(tmp_path / "x_label_map.json") == {0: "cat", 1: "dog"}
    (tmp_path / "out" / "data.yaml").unlink()
    with pytest.raises(InputError, match=r"has no data\.yaml, nor have the folders above; expected --categories"):
        list(read_yolo(tmp_path / "out", tmp_path / "images"))


def test_label_files_beside_a_folder_called_labels_are_not_passed_over(tmp_path: Path) -> None:
    for name in ("a.jpg", "labels/b.jpg"):
        picture(tmp_path / "images" / name)
        label = (tmp_path / "yolo" / name).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 0.2 0.2\n")
    assert [len(each.instances) for each in read_yolo(tmp_path / "yolo", tmp_path / "images", ("cat",))] == [1, 1]


def test_lists_of_images_beside_the_labels_are_no_labels(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "train.txt").write_text("images/a.jpg\n")
    [read] = read_yolo(tmp_path, tmp_path / "images", ("cat",))
    assert read.instances
    with pytest.raises(InputError, match=r"nowhere: does not exist; expected the folder of labels"):
        list(read_yolo(tmp_path / "nowhere", tmp_path / "images"))
