"""What a reader leaves out is counted, one odd entry does not cost the others, and no labels are written over."""

from __future__ import annotations

import base64
import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from flows import bootstrap_od, bootstrap_vg
from flows.cli.arguments import names
from flows.cli.command import main
from flows.labelling.captions import read_captions
from formats import (
    Instance,
    Omissions,
    Record,
    read_coco,
    read_cvat,
    read_fiftyone,
    read_huggingface,
    read_labelstudio,
    read_odvg,
    read_voc,
    read_yolo,
    write_coco,
    write_odvg,
)
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
    assert omissions["tasks without the URL of an image, left out"] == 3
    assert omissions["boxes without a label, left out"] == 1
    assert omissions["boxes with several labels, now one box per label"] == 1


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


# Brothers of the above, one of a kind each


def coco_file(path: Path, name: str = "a.jpg", **changes: object) -> Path:
    content = {
        "images": [{"id": 1, "file_name": name, "width": 64, "height": 48}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 10]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    path.write_text(json.dumps(content | changes))
    return path


def test_a_list_that_coco_gives_twice_is_not_read_as_its_second(tmp_path: Path) -> None:
    path = coco_file(tmp_path / "c.json")
    path.write_text(path.read_text()[:-1] + ', "annotations": []}')
    with pytest.raises(InputError, match=r"'annotations' is listed twice"):
        list(read_coco(path))


def test_a_category_without_a_name_is_refused_in_conversion(tmp_path: Path) -> None:
    path = coco_file(tmp_path / "c.json", categories=[{"id": 1, "name": " "}])
    with pytest.raises(InputError, match="the category of label 0 has no name"):
        convert("coco", "odvg", path, tmp_path / "x_od.json")
    assert not (tmp_path / "x_od.json").exists()


def test_a_size_in_parts_of_pixels_is_none(tmp_path: Path) -> None:
    path = coco_file(tmp_path / "c.json", images=[{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48.5}])
    with pytest.raises(InputError, match="is not a size"):
        list(read_coco(path))


def test_coco_finds_encoded_names_and_counts_those_that_are_not_there(tmp_path: Path, caplog) -> None:
    image(tmp_path / "images" / "my photos" / "é #1.jpg")
    encoded = "my%20photos/%C3%A9%20%231.jpg"
    images = [{"id": number, "file_name": name, "width": 64, "height": 48} for number, name in ((1, encoded), (2, "b"))]
    path = coco_file(tmp_path / "c.json", images=images)
    first, second = read_coco(path, image_dir=tmp_path / "images")
    assert (first.filename, second.filename) == ("my photos/é #1.jpg", "b")
    assert "1 image is not in" in caplog.text
    with pytest.raises(InputError, match="nothing: does not exist; expected a folder of images"):
        list(read_coco(path, image_dir=tmp_path / "nothing"))


@pytest.mark.parametrize("name", ["../a.jpg", "/home/u/a.jpg", "C:/a.jpg", "https://h/a.jpg"])
def test_names_that_no_stage_finds_are_counted(tmp_path: Path, name: str) -> None:
    said = convert("coco", "odvg", coco_file(tmp_path / "c.json", name), tmp_path / "x_od.json")
    assert "1 file name is not inside an image folder" in said
    assert "not inside" not in convert("coco", "odvg", coco_file(tmp_path / "d.json", "a..b/c"), tmp_path / "y_od.json")


def test_boxes_in_fractions_are_named(tmp_path: Path) -> None:
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0.1, 0.2, 0.3, 0.4]}]
    said = convert("coco", "odvg", coco_file(tmp_path / "c.json", annotations=annotations), tmp_path / "x_od.json")
    assert "are these fractions?" in said
    annotations.append({"id": 2, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40]})
    said = convert("coco", "odvg", coco_file(tmp_path / "d.json", annotations=annotations), tmp_path / "y_od.json")
    assert "are these fractions?" not in said


def test_voc_reads_either_case_of_xml_and_counts_what_it_does_not_know(tmp_path: Path) -> None:
    twice = f"<object><name>cat</name>{BOX}{BOX}<difficult>false</difficult></object>"
    voc(tmp_path / "a.xml", "a.jpg", twice)
    voc(tmp_path / "B.XML", "b.jpg", f"<objects>{CAT}</objects>{CAT.replace('object', 'Object')}")
    voc(tmp_path / "c.xml", "c.jpg", CAT.replace("<name>", "<difficult>True</difficult><name>"))
    (tmp_path / "folder.xml").mkdir()
    omissions = Omissions()
    records = {record.filename: record for record in read_voc(tmp_path, omissions=omissions)}
    assert set(records) == {"a.jpg", "b.jpg", "c.jpg"}
    assert [[box.ignore for box in records[name].instances or ()] for name in ("a.jpg", "b.jpg", "c.jpg")] == [
        [False],
        [],
        [True],
    ]
    assert +omissions == {"more <bndbox> of one object": 1, "<objects> of images": 1, "<Object> of images": 1}


def test_an_encoded_voc_filename_is_decoded_where_the_image_is_there(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a b.jpg")
    voc(tmp_path / "Annotations" / "z.xml", "a%20b.jpg")
    assert [record.filename for record in read_voc(tmp_path / "Annotations")] == ["a b.jpg"]


def labelstudio(path: Path, *results: object, address: str = "a.jpg") -> Path:
    tasks = [{"data": {"image": address}, "annotations": [{"result": result}]} for result in results]
    path.write_text(json.dumps(tasks))
    return path


def result(kind: str, **value: object) -> dict:
    return {"id": "r", "type": kind, "original_width": 100.0, "original_height": 50, "value": value}


def test_labelstudio_reads_the_boxes_of_outlines_and_of_separate_labels(tmp_path: Path) -> None:
    sides = {"x": 10, "y": 20, "width": 30, "height": 40}
    split = [result("rectangle", **sides), result("labels", **sides, labels=["cat"])]
    polygon = [result("polygonlabels", points=[[10, 20], [40, 20], [20, 60]], polygonlabels=["cat"])]
    ellipse = [result("ellipselabels", x=25, y=40, radiusX=15, radiusY=20, ellipselabels=["cat"])]
    omissions = Omissions()
    path = labelstudio(tmp_path / "l.json", split, polygon, ellipse, None)
    boxes = [box.box for record in read_labelstudio(path, omissions=omissions) for box in record.instances or ()]
    assert boxes == [pytest.approx((10, 10, 40, 30))] * 3
    assert +omissions == {
        "polygons, only the bounding box is read": 1,
        "ellipses, only the bounding box is read": 1,
        "tasks without an image size, left out; --images would provide it": 1,
    }


def test_labelstudio_decodes_the_address_of_a_file_in_a_bucket(tmp_path: Path) -> None:
    address = "/tasks/1/resolve/?fileuri=" + base64.b64encode(b"s3://bucket/x/a.jpg").decode()
    box = result("rectanglelabels", x=1, y=1, width=5, height=5, rectanglelabels=["cat"])
    path = labelstudio(tmp_path / "l.json", [box], address=address)
    assert [record.filename for record in read_labelstudio(path)] == ["x/a.jpg"]


def fiftyone(folder: Path, box: list[float]) -> Path:
    detection = {"label": "cat", "bounding_box": box}
    (folder / "labels.json").write_text(json.dumps({"classes": ["cat"], "labels": {"a": [detection]}}))
    return folder


def test_fiftyone_refuses_pixels_and_a_stem_of_two_images(tmp_path: Path) -> None:
    image(tmp_path / "data" / "a.jpg")
    with pytest.raises(InputError, match="are pixels, not fractions of the image"):
        list(read_fiftyone(fiftyone(tmp_path, [10, 10, 30, 30])))
    list(read_fiftyone(fiftyone(tmp_path, [-0.1, 0, 1.2, 1])))
    image(tmp_path / "data" / "a.png")
    with pytest.raises(InputError, match=r"'a': may be a\.jpg or a\.png"):
        list(read_fiftyone(tmp_path))


def test_names_of_a_data_card_are_text_and_its_depth_is_bounded(tmp_path: Path) -> None:
    line = {"file_name": "a.jpg", "width": 64, "height": 48, "objects": {"bbox": [[1, 2, 3, 4]], "category": [0]}}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line))
    card = tmp_path / "README.md"
    names = "class_label: {names: {'0': no}}"
    card.write_text(f"---\ndataset_info:\n  features:\n  - name: objects\n    {names}\n---\n")
    assert [box.category for record in read_huggingface(tmp_path) for box in record.instances or ()] == ["no"]
    card.write_text("---\na: " + "[" * 100_000 + "\n---\n")  # the C library would end the interpreter
    with pytest.raises(InputError, match="its header is not YAML"):
        list(read_huggingface(tmp_path))


def test_accents_of_a_mac_are_the_same_accents_to_yolo(tmp_path: Path) -> None:
    image(tmp_path / "images" / "caf\u00e9.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "cafe\u0301.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (record,) = read_yolo(tmp_path / "labels", tmp_path / "images", ["cat"])
    assert len(record.instances or ()) == 1


def test_texts_of_either_case_are_captions_and_those_without_an_image_are_counted(tmp_path: Path, caplog) -> None:
    for name in ("a.png", "sub/b.png"):
        image(tmp_path / "images" / name)
    for name, text in (("a.TXT", "a cat"), ("sub/b.txt", "a dog"), ("c.txt", "a cow")):
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text(text)
    pairs = list(read_captions(tmp_path / "texts", tmp_path / "images"))
    assert pairs == [("a.png", "a cat"), ("sub/b.png", "a dog")]
    assert "1 text file without an image" in caplog.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a.png": "a cat", "a.png": "a dog"}', "'a.png' is listed twice; expected a list of all its captions"),
        ('{"images": [], "annotations": [{"image_id": 9, "caption": "lost"}]}', "has a caption of image 9"),
    ],
)
def test_captions_that_would_be_lost_are_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "captions.json").write_text(content)
    with pytest.raises(InputError, match=said):
        list(read_captions(tmp_path / "captions.json", tmp_path))


def test_boxes_that_leave_the_image_and_other_sizes_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "b.png")
    boxes = {"a.png": ((1, 1, 9, 9), (30, 1, 41, 9)), "b.png": ((-3, 0, 5, 5), (1, 1, 50, 9))}
    records = [Record(name, 20, 40, tuple(Instance(box, 0, "cat") for box in found)) for name, found in boxes.items()]
    write_coco(tmp_path / "a.json", records, ("cat",))
    command = ["convert", "coco", "odvg", str(tmp_path / "a.json"), str(tmp_path / "a_od.json")]
    assert main([*command, "--images", str(tmp_path / "images")]) == 0
    said = capsys.readouterr().out
    assert "2 boxes leave the image by more than a pixel, first in 'b.png'; `groundhog check` lists each" in said
    assert (
        "1 of the first 1 image has another size than the annotations say, first 'b.png', 40x30 and not 40x20" in said
    )
    assert [each.instances for each in read_odvg(tmp_path / "a_od.json")] == [each.instances for each in records]
