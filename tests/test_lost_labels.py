"""What a reader leaves out is counted, one odd entry does not cost the others, and no labels are written over."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from flows import bootstrap_od, bootstrap_vg
from flows.cli.arguments import names
from flows.cli.command import main
from flows.labelling.bootstrap import read_captions
from formats import Instance, Omissions, Record, read_coco, read_cvat, read_labelstudio, read_odvg, read_voc, write_odvg
from formats.convert import Selection, convert
from formats.io.errors import InputError
from formats.label_map import join_same_names, name_problems

BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
CAT = f"<object><name>cat</name>{BOX}</object>"


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48)).save(path)
    return path


def voc(path: Path, filename: str | None, objects: str = CAT, folder: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    said = "" if filename is None else f"<filename>{filename}</filename>"
    size = "<size><width>64</width><height>48</height></size>"
    path.write_text(f"<annotation><folder>{folder}</folder>{said}{size}{objects}</annotation>")


def test_lines_that_their_label_map_contradicts_are_not_converted(tmp_path: Path) -> None:
    source, out = tmp_path / "x_od.json", tmp_path / "out" / "y_od.json"
    write_odvg(source, [Record("a.jpg", 48, 64, (Instance((1, 2, 3, 4), 0, "cat"),))])
    (tmp_path / "x_label_map.json").write_text('{"0": "umbrella", "1": "cat"}')
    (tmp_path / "known.json").write_text('{"0": "dog"}')
    for selection in (Selection(), Selection(label_map=tmp_path / "known.json"), Selection(join_names=True)):
        with pytest.raises(InputError, match=r"x_od.json: a.jpg: label 0 is 'cat', in the label map it is 'umbrella'"):
            convert("odvg", "odvg", source, out, selection=selection)
        assert not out.exists()


# Nothing with labels is written over


@pytest.mark.parametrize("make", [bootstrap_od, bootstrap_vg])
def test_bootstrap_in_python_refuses_what_the_command_refuses(
    tmp_path: Path, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.labelling.bootstrap.noun_phrases", lambda caption: [(2, 5)])  # without NLTK's data
    image(tmp_path / "images" / "a.jpg")
    labels = tmp_path / "x_od.json"
    write_odvg(labels, [Record("a.jpg", 48, 64, (Instance((1, 2, 3, 4), 0, "cat"),))])
    before = labels.read_bytes()
    given = ["cat"] if make is bootstrap_od else {"a.jpg": "a cat"}
    with pytest.raises(InputError, match=r"contains labels; .*overwrite=True"):
        make(tmp_path / "images", given, labels)
    assert labels.read_bytes() == before
    make(tmp_path / "images", given, labels, overwrite=True)
    assert labels.read_bytes() != before


@pytest.mark.parametrize("target", ["odvg", "coco", "cvat", "labelstudio", "huggingface", "fiftyone", "yolo", "voc"])
def test_no_format_is_converted_over_labels_that_are_there(tmp_path: Path, target: str) -> None:
    source, out = tmp_path / "x_od.json", tmp_path / "out"
    write_odvg(source, [Record("a.jpg", 48, 64, (Instance((1, 2, 3, 4), 0, "cat"),))])
    convert("odvg", target, source, out)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"exists"):
        convert("odvg", target, source, out)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    convert("odvg", target, source, out, overwrite=True)


# Names


@pytest.mark.parametrize("text", ["", ",", "cat,,dog", "raccoon. dog", "cat.dog", "cat;dog", "classes.md", "./clases"])
def test_what_is_no_list_of_names_is_no_category(text: str) -> None:
    with pytest.raises(InputError, match="expected"):
        names(text)


def test_names_come_between_commas_on_lines_or_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("classes").write_text("cat\r\ndog\r\n")
    assert names("cat, 2.5 l bottle") == ["cat", "2.5 l bottle"]
    assert names("cat\ndog\n") == names("classes") == names("./classes") == ["cat", "dog"]
    Path("one.txt").write_text("cat,dog\n")
    Path("table.csv").write_text("id,name\n0,cat\n")
    for odd in ("one.txt", "table.csv"):
        with pytest.raises(InputError, match="has commas; expected one name per line"):
            names(odd)


def test_names_of_the_same_words_are_joined_into_one_label(tmp_path: Path) -> None:
    joined, move = join_same_names({0: "Cat", 1: "dog", 2: "cat", 3: "bat (animal)", 4: "bat (sports)"})
    assert joined == {0: "Cat", 1: "dog", 2: "bat (animal)"}
    assert move == {0: 0, 1: 1, 2: 0, 3: 2, 4: 2}
    (tmp_path / "x_label_map.json").write_text('{"0": "Cat", "1": "cat", "2": "dog"}')
    instances = tuple(Instance((1, 2, 3, 4), label, name) for label, name in enumerate(("Cat", "cat", "dog")))
    write_odvg(tmp_path / "x_od.json", [Record("a.jpg", 48, 64, instances)])
    convert("odvg", "odvg", tmp_path / "x_od.json", tmp_path / "y_od.json", selection=Selection(join_names=True))
    (record,) = read_odvg(tmp_path / "y_od.json")
    assert [(each.label, each.category) for each in record.instances] == [(0, "Cat"), (0, "Cat"), (1, "dog")]
    assert json.loads((tmp_path / "y_label_map.json").read_text()) == {"0": "Cat", "1": "dog"}


def test_a_name_of_unknown_words_alone_is_named() -> None:
    assert "has no word" in str(*name_problems({0: "[UNK]"}, "x"))


# One odd entry does not cost the others


def test_voc_takes_the_image_that_is_called_as_its_file(tmp_path: Path) -> None:
    for name in ("x1", "x2", "x3", "sub/x4"):
        image(tmp_path / f"JPEGImages/{name}.jpg")
    folder = tmp_path / "Annotations"
    voc(folder / "x1.xml", "x1.jpg")
    voc(folder / "x2.xml", "x1.jpg")  # renamed with its image
    voc(folder / "x3.xml", None)
    voc(folder / "x4.xml", "x4.jpg", folder="sub")
    assert [record.filename for record in read_voc(folder)] == ["x1.jpg", "x2.jpg", "x3.jpg", "sub/x4.jpg"]


def test_voc_refuses_two_files_of_one_image_and_counts_images_not_found(tmp_path: Path, caplog) -> None:
    image(tmp_path / "JPEGImages/a.jpg")
    voc(tmp_path / "Annotations/a.xml", "a.jpg")
    voc(tmp_path / "Annotations/b.xml", "b.jpg")
    assert len(list(read_voc(tmp_path / "Annotations"))) == 2
    assert "1 file without an image" in caplog.text
    voc(tmp_path / "Annotations/c.xml", "a.jpg")
    with pytest.raises(InputError, match=r"c\.xml: labels a\.jpg, as a\.xml does"):
        list(read_voc(tmp_path / "Annotations"))


def test_voc_counts_objects_without_a_box(tmp_path: Path) -> None:
    voc(tmp_path / "a.xml", "a.jpg", CAT + "<object><name>cat</name><polygon><x1>3</x1></polygon></object>")
    omissions = Omissions()
    (record,) = read_voc(tmp_path, omissions=omissions)
    assert len(record.instances) == 1
    assert omissions["objects without <bndbox>, left out"] == 1


def test_cvat_counts_tracks_beside_images_and_names_a_zip(tmp_path: Path) -> None:
    box = '<box label="cat" xtl="1" ytl="2" xbr="30" ybr="40"/>'
    picture = f'<image id="0" name="a.jpg" width="64" height="48">{box}</image>'
    (tmp_path / "a.xml").write_text(f'<annotations>{picture}<track id="0" label="cat"/></annotations>')
    omissions = Omissions()
    assert len(list(read_cvat(tmp_path / "a.xml", omissions=omissions))) == 1
    assert omissions["tracks of a video, left out"] == 1
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.write(tmp_path / "a.xml", "annotations.xml")
    with pytest.raises(InputError, match="is a zip archive; expected the file in it"):
        list(read_cvat(tmp_path / "a.zip"))


def task(address: str | None, *labels: str, size: bool = True) -> dict:
    value = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": list(labels)}
    entry = {"type": "rectanglelabels", "value": value}
    entry |= {"original_width": 64, "original_height": 48} if size else {}
    return {"data": {} if address is None else {"image": address}, "annotations": [{"result": [entry]}]}


def test_labelstudio_counts_tasks_and_boxes_that_it_cannot_use(tmp_path: Path) -> None:
    path, omissions = tmp_path / "tasks.json", Omissions()
    tasks = [task("a.jpg", "cat"), task(None, "cat"), {}, task("data:image/png;base64,AAAA", "cat")]
    path.write_text(json.dumps([*tasks, task("b.jpg"), task("c.jpg", "cat", "dog")]))
    records = {record.filename: record for record in read_labelstudio(path, omissions=omissions)}
    assert {name: len(record.instances) for name, record in records.items()} == {"a.jpg": 1, "b.jpg": 0, "c.jpg": 2}
    assert omissions["tasks without the address of an image, left out"] == 3
    assert omissions["boxes without a label, left out"] == 1
    assert omissions["boxes with several labels, now a box of each"] == 1


def test_labelstudio_counts_images_that_the_folder_lacks(tmp_path: Path) -> None:
    path, omissions = tmp_path / "tasks.json", Omissions()
    image(tmp_path / "images/a.jpg")
    path.write_text(json.dumps([task("a.jpg", "cat", size=False), task("zzz.jpg", "cat", size=False)]))
    assert len(list(read_labelstudio(path, omissions=omissions, image_dir=tmp_path / "images"))) == 1
    assert omissions["tasks whose image is not in the folder, left out"] == 1
    path.write_text(json.dumps([task("zzz.jpg", "cat", size=False)]))
    with pytest.raises(InputError, match="does not exist; expected the tasks' images"):
        list(read_labelstudio(path, image_dir=tmp_path / "images"))


@pytest.mark.parametrize("said", ["/home/me/a.jpg", "C:\\photos\\a.jpg", "..\\..\\media\\upload\\1\\a.jpg"])
def test_coco_names_of_another_machine_lose_their_folders(tmp_path: Path, said: str) -> None:
    image(tmp_path / "images/a.jpg")
    entry = {"id": 1, "file_name": said, "width": 64, "height": 48}
    (tmp_path / "c.json").write_text(json.dumps({"images": [entry], "annotations": [], "categories": []}))
    (record,) = read_coco(tmp_path / "c.json", image_dir=tmp_path / "images")
    assert record.filename == "a.jpg"


def test_quarantined_and_unlabelled_lines_are_counted(tmp_path: Path) -> None:
    source = tmp_path / "x_od.json"
    write_odvg(source, [Record("a.jpg", 48, 64, ()), Record("b.jpg", 48, 64)])
    line = {"filename": "c.jpg", "height": None, "width": None, "quarantined": "no such image"}
    source.write_text(source.read_text() + json.dumps(line) + "\n")
    said = convert("odvg", "odvg", source, tmp_path / "y_od.json")
    assert "1 quarantined line, left out" in said
    for loader in ("mmdet", "open-groundingdino"):
        said = convert("odvg", "odvg", source, tmp_path / f"{loader}_od.json", loader=loader)
        assert "1 unlabelled image, left out" in said
        assert [record.filename for record in read_odvg(tmp_path / f"{loader}_od.json")] == ["a.jpg"]


def test_statistics_of_nothing_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x_od.json").write_text("\n")
    assert main(["stats", str(tmp_path / "x_od.json")]) == 2
    assert "has no image; expected annotations" in capsys.readouterr().err


# Captions


def test_captions_of_a_folder_with_metadata_and_of_windows_are_read(tmp_path: Path) -> None:
    lines = ['{"file_name": "sub\\\\a.jpg", "text": "a cat"}', '{"file_name": "b.jpg", "text": null}']
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert list(read_captions(tmp_path, tmp_path)) == [("sub/a.jpg", "a cat"), ("b.jpg", "")]
    (tmp_path / "one.json").write_text('{"file_name": "a.jpg"}')
    with pytest.raises(InputError, match="no filename and caption"):
        list(read_captions(tmp_path / "one.json", tmp_path))
