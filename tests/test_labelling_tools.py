"""Label Studio, CVAT and FiftyOne: what goes out comes back, and what is broken is named."""

import json

import pytest
from PIL import Image

from flows.cli.command import main
from formats import (
    CATEGORIES,
    READERS,
    WRITERS,
    InputError,
    Instance,
    Omissions,
    Record,
    read_cvat,
    read_fiftyone,
    read_labelstudio,
    read_odvg,
    write_cvat,
    write_fiftyone,
    write_labelstudio,
    write_odvg,
)

NAMES = ("cat", "dog & <co>")
DRAWN = (Instance((0, 0, 33.33, 50), 0, "cat"), Instance((1.25, 2, 30.5, 40), 1, NAMES[1]))
SCORED = (Instance((7, 9, 111, 77), 1, NAMES[1], 0.5),)
RECORDS = [
    Record("a&b.jpg", 100, 120, DRAWN),
    Record("sub/b.png", 100, 120, SCORED),
    Record("c.jpg", 100, 120, ()),
]
UNLABELLED = Record("d.jpg", 100, 120)


def rounded(records, tmp_path):
    """With 2 decimals, as ODVG has them: percents and fractions are no whole pixels."""
    write_odvg(tmp_path / "rounded.json", records)
    return list(read_odvg(tmp_path / "rounded.json"))


def test_labelstudio_comes_back(tmp_path):
    records = [*RECORDS, UNLABELLED]
    assert write_labelstudio(tmp_path / "tasks.json", records) == {}
    assert rounded(read_labelstudio(tmp_path / "tasks.json", NAMES), tmp_path) == records


def test_labelstudio_boxes_are_percents_and_scored_ones_predictions(tmp_path):
    write_labelstudio(tmp_path / "tasks.json", RECORDS)
    drawn, scored, _ = json.loads((tmp_path / "tasks.json").read_text())
    assert drawn["data"] == {"image": "/data/local-files/?d=a%26b.jpg", "height": 100, "width": 120}
    value = drawn["annotations"][0]["result"][0]["value"]
    assert value == {"x": 0, "y": 0, "width": 27.775, "height": 50, "rotation": 0, "rectanglelabels": ["cat"]}
    assert "predictions" not in drawn
    assert scored["predictions"][0]["result"][0]["score"] == 0.5
    assert "annotations" not in scored


def test_what_a_person_drew_wins_over_predictions(tmp_path):
    write_labelstudio(tmp_path / "tasks.json", [Record("a.jpg", 100, 120, DRAWN + SCORED)])
    (task,) = json.loads((tmp_path / "tasks.json").read_text())
    task["annotations"].append({"was_cancelled": True, "result": []})
    (tmp_path / "tasks.json").write_text(json.dumps([task]))
    (record,) = read_labelstudio(tmp_path / "tasks.json")
    assert [instance.score for instance in record.instances] == [None, None]


def test_the_last_annotation_counts(tmp_path):
    write_labelstudio(tmp_path / "tasks.json", [Record("a.jpg", 100, 120, DRAWN)])
    (task,) = json.loads((tmp_path / "tasks.json").read_text())
    task["annotations"].append({"result": task["annotations"][0]["result"][:1]})
    (tmp_path / "tasks.json").write_text(json.dumps([task]))
    assert len(next(read_labelstudio(tmp_path / "tasks.json")).instances) == 1


BOX = {"x": 1, "y": 2, "width": 3, "height": 4, "rotation": 0, "rectanglelabels": ["cat"]}
ENTRY = {"type": "rectanglelabels", "original_width": 10, "original_height": 10, "value": BOX}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({}, "task 0: has no image"),
        ({"data": {"image": "a.jpg"}}, "task 0: lacks the size of its image"),
        ({"annotations": [{}]}, "task 0: its annotations or predictions are broken"),
        ({"annotations": 3}, "task 0: its annotations or predictions are broken"),
        ({"predictions": [{"result": [{**ENTRY, "value": {**BOX, "x": None}}]}]}, "a box of 'cat' is invalid"),
        ({"predictions": [{"result": [{**ENTRY, "value": {**BOX, "width": -3}}]}]}, "box .* swapped corners"),
        ({"predictions": [{"result": [{**ENTRY, "score": "0.9"}]}]}, "its score '0.9'; expected .*a score in 0..1"),
    ],
)
def test_labelstudio_errors_name_the_task(tmp_path, task, message):
    data = {} if not task or "data" in task else {"data": {"image": "a.jpg"}}
    (tmp_path / "tasks.json").write_text(json.dumps([{**data, **task}]))
    with pytest.raises(InputError, match=message):
        list(read_labelstudio(tmp_path / "tasks.json"))


def labelstudio(tmp_path, tasks, **given):
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    return list(read_labelstudio(tmp_path / "tasks.json", **given))


def boxed(address, key="image"):
    return {"data": {key: address}, "annotations": [{"result": [ENTRY]}]}


@pytest.mark.parametrize(
    ("address", "filename"),
    [
        ("/data/local-files/?d=my%20photos/cam%231%20%C3%A9t%C3%A9.jpg", "my photos/cam#1 été.jpg"),
        ("/data/local-files/?d=a&b.jpg", "a&b.jpg"),
        ("/data/local-files/?d=sub%5Ca.jpg", "sub/a.jpg"),
        ("/data/upload/3/1a2b3c4d-a%20b.jpg", "a b.jpg"),
        ("https://images.test/sub/a%20b.jpg?token=1", "sub/a b.jpg"),
        ("s3://bucket/sub/a.jpg", "sub/a.jpg"),
        ("a.jpg", "a.jpg"),
    ],
)
@pytest.mark.parametrize("key", ["image", "url"])
def test_labelstudio_addresses_are_file_names(tmp_path, address, filename, key):
    (record,) = labelstudio(tmp_path, [boxed(address, key)])
    assert record.filename == filename


def test_uploads_of_one_name_stay_apart(tmp_path):
    tasks = [boxed("/data/upload/3/1a2b3c4d-a.jpg"), boxed("/data/upload/3/00000000-a.jpg")]
    assert [each.filename for each in labelstudio(tmp_path, tasks)] == ["1a2b3c4d-a.jpg", "00000000-a.jpg"]


@pytest.mark.parametrize("name", ["my photos/cam#1 50%25.jpg", "a&b?.jpg", "größe+1.jpg"])
def test_file_names_come_back_from_addresses(tmp_path, name):
    record = Record(name, 10, 10, ())
    write_labelstudio(tmp_path / "a.json", [record])
    assert list(read_labelstudio(tmp_path / "a.json")) == [record]


def test_labelstudio_serves_files_of_a_folder_in_its_root(tmp_path):
    (tmp_path / "pho tos").mkdir()
    Image.new("RGB", (10, 10)).save(tmp_path / "pho tos/a.jpg")
    write_labelstudio(tmp_path / "a.json", [Record("a.jpg", 10, 10, ())], tmp_path / "pho tos")
    (task,) = json.loads((tmp_path / "a.json").read_text())
    assert task["data"]["image"] == "/data/local-files/?d=pho%20tos/a.jpg"
    (record,) = read_labelstudio(tmp_path / "a.json", image_dir=tmp_path / "pho tos")
    assert record.filename == "a.jpg"


@pytest.mark.parametrize(
    ("prefix", "address"),
    [
        ("photos", "/data/local-files/?d=photos/sub/a%20%231.jpg"),
        ("https://images.test/x/", "https://images.test/x/sub/a%20%231.jpg"),
        ("/data/local-files/?d=", "/data/local-files/?d=sub/a%20%231.jpg"),
        ("s3://bucket/x", "s3://bucket/x/sub/a #1.jpg"),
    ],
)
def test_a_prefix_goes_before_encoded_file_names(tmp_path, prefix, address):
    write_labelstudio(tmp_path / "a.json", [Record("sub/a #1.jpg", 10, 10, ())], image_prefix=prefix)
    assert json.loads((tmp_path / "a.json").read_text())[0]["data"]["image"] == address


def test_predictions_say_whose_they_are_and_how_doubtful(tmp_path):
    scored = (*SCORED, Instance((1, 2, 3, 4), 0, "cat", 0.25))
    write_odvg(tmp_path / "x_od_v2.json", [Record("a.jpg", 100, 120, scored), Record("b.jpg", 100, 120, ())])
    command = ["convert", "odvg", "labelstudio", str(tmp_path / "x_od_v2.json"), str(tmp_path / "ls.json")]
    assert main(command) == 0
    first, empty = (task["predictions"][0] for task in json.loads((tmp_path / "ls.json").read_text()))
    assert (first["model_version"], first["score"]) == ("x_od_v2", 0.25)
    assert (empty["model_version"], "score" in empty) == ("x_od_v2", False)
    assert main([*command[:2], "cvat", *command[3:], "--overwrite", "--image-prefix", "x"]) == 2


def test_sizes_that_a_task_does_not_tell_come_from_the_images(tmp_path):
    empty = {"data": {"image": "/data/local-files/?d=photos/b.jpg"}, "annotations": [{"result": []}]}
    omissions = Omissions()
    assert len(labelstudio(tmp_path, [boxed("a.jpg"), empty], omissions=omissions)) == 1
    assert (+omissions).total() == 1
    (tmp_path / "sub").mkdir()
    for name in ("a.jpg", "sub/b.jpg"):
        Image.new("RGB", (30, 20)).save(tmp_path / name)
    assert labelstudio(tmp_path, [empty], image_dir=tmp_path / "sub") == [Record("b.jpg", 20, 30, ())]


def test_predictions_that_are_only_ids_say_nothing(tmp_path):
    skipped = {**boxed("a.jpg"), "annotations": [{"was_cancelled": True, "result": []}], "predictions": [30]}
    skipped["data"] |= {"height": 10, "width": 20}
    assert labelstudio(tmp_path, [skipped]) == [Record("a.jpg", 10, 20)]


def test_turned_boxes_of_labelstudio_are_left_out_and_counted(tmp_path):
    turned = {**ENTRY, "value": {**BOX, "rotation": 30}}
    omissions = Omissions()
    task = {"data": {"image": "a.jpg"}, "annotations": [{"result": [turned, ENTRY]}]}
    (record,) = labelstudio(tmp_path, [task], omissions=omissions)
    assert len(record.instances) == 1
    assert +omissions == {"rotated boxes, left out": 1}


def test_every_broken_task_is_handed_on(tmp_path):
    found = []
    tasks = [boxed("a.jpg"), {**boxed("c.jpg"), "predictions": 3}, {**boxed("b.jpg"), "annotations": 3}]
    assert len(labelstudio(tmp_path, tasks, on_problem=found.append)) == 1
    assert len(found) == 2


# CVAT


def test_cvat_comes_back_but_for_scores(tmp_path):
    assert write_cvat(tmp_path / "a.xml", RECORDS, NAMES) == {"scores": 1}
    drawn = [*RECORDS[:1], Record("sub/b.png", 100, 120, (Instance((7, 9, 111, 77), 1, NAMES[1]),)), *RECORDS[2:]]
    assert list(read_cvat(tmp_path / "a.xml")) == drawn
    assert CATEGORIES["cvat"](tmp_path / "a.xml") == NAMES
    assert 'source="auto"' in (tmp_path / "a.xml").read_text()


def cvat(shapes: str) -> str:
    return f'<annotations><image id="0" name="a.jpg" width="120" height="100">{shapes}</image></annotations>'


def test_cvat_polygons_are_the_boxes_round_them(tmp_path):
    (tmp_path / "a.xml").write_text(cvat('<polygon label="cat" points="1,2;30.5,4;5,60"/><tag label="day"/>'))
    (record,) = read_cvat(tmp_path / "a.xml")
    assert [instance.box for instance in record.instances] == [(1, 2, 30.5, 60)]


SIDES = 'xtl="1" ytl="2" xbr="3" ybr="4"'


def test_cvat_shapes_without_an_upright_box_are_left_out_and_counted(tmp_path):
    shapes = [
        f'<box label="cat" rotation="360.0" {SIDES}/>',
        f'<box label="cat" rotation="9" {SIDES}/>',
        '<ellipse label="cat" rotation="9" cx="5" cy="6" rx="2" ry="1"/>',
        '<polyline label="cat" points="1,2;3,4"/>',
        '<points label="cat" points="1,2"/>',
        '<cuboid label="cat" xtl1="1"/>',
        '<skeleton label="cat"><points label="nose" points="1,2"/></skeleton>',
        '<mask label="cat" rle="3, 5" left="10" top="20" width="30" height="40"/>',
        '<ellipse label="cat" cx="50" cy="60" rx="20" ry="10"/>',
    ]
    (tmp_path / "a.xml").write_text(cvat("".join(shapes)))
    omissions = Omissions()
    (record,) = read_cvat(tmp_path / "a.xml", omissions=omissions)
    assert [instance.box for instance in record.instances] == [(1, 2, 3, 4), (10, 20, 40, 60), (30, 50, 70, 70)]
    assert +omissions == {
        "rotated boxes, left out": 1,
        "rotated ellipses, left out": 1,
        "polylines, left out": 1,
        "points, left out": 1,
        "cuboids, left out": 1,
        "skeletons, left out": 1,
        "masks, only the bounding box is read": 1,
        "ellipses, only the bounding box is read": 1,
    }


def test_a_cvat_video_is_refused_not_read_as_nothing(tmp_path):
    track = f'<track id="0" label="cat"><box frame="0" outside="0" {SIDES}/></track>'
    (tmp_path / "a.xml").write_text(f"<annotations>{track}</annotations>")
    with pytest.raises(InputError, match=r"contains 1 track of a video, and no image .*export the task"):
        list(read_cvat(tmp_path / "a.xml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations>", "is not XML"),
        ("<annotation/>", "is <annotation>; expected CVAT for images 1.1"),
        ("<annotations><image/></annotations>", "image 0: <image> has no height"),
        (cvat('<box label="cat"/>'), "image 0, shape 0: <box> has no xtl"),
        (cvat('<box label="cat" xtl="x" ytl="1" xbr="1" ybr="1"/>'), "shape 0: 'x' is not a number"),
        (cvat('<box label="cat" xtl="9" ytl="1" xbr="1" ybr="1"/>'), "shape 0: box .* swapped corners"),
        (cvat('<box label="cat" rotation="x" xtl="1" ytl="1" xbr="1" ybr="1"/>'), "shape 0: 'x' is not a number"),
        (cvat('<polygon label="cat" points="1;2"/>'), "shape 0: has broken points"),
        (cvat('<mask label="cat" left="1" top="2" width="3"/>'), "shape 0: <mask> has no height"),
        (cvat("<box/>"), "shape 0: <box> has no label"),
    ],
)
def test_cvat_errors_name_the_shape(tmp_path, text, message):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(InputError, match=message):
        list(read_cvat(tmp_path / "a.xml"))


# FiftyOne


def test_fiftyone_comes_back_whole(tmp_path):
    records = [*RECORDS, UNLABELLED, Record("e.jpg", 100, 120, (Instance((1, 2, 3, 4), 0, "cat", 0.5, 2.0, True),))]
    assert write_fiftyone(tmp_path / "fo", records, NAMES) == {}
    (tmp_path / "fo/data/sub").mkdir(parents=True)
    for record in records:
        Image.new("RGB", (120, 100)).save(tmp_path / "fo/data" / record.filename)
    assert rounded(read_fiftyone(tmp_path / "fo"), tmp_path) == records
    assert CATEGORIES["fiftyone"](tmp_path / "fo") == NAMES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "has no classes"),
        ({"classes": [1]}, "has no classes"),
        ({"classes": ["cat"]}, "has no labels"),
        ({"classes": ["cat"], "labels": {"z": []}}, "'z': has no image in"),
        ({"classes": ["cat"], "labels": {"a": 3}}, "'a': contains a JSON int"),
        ({"classes": ["cat"], "labels": {"a": [{"label": 1}]}}, r"'a': label 1 is unknown; expected 0\.\.0"),
        ({"classes": ["cat"], "labels": {"a": [{"label": 0}]}}, "'a': has a broken box"),
        ({"classes": ["cat"], "labels": {"a": [{"label": 0, "bounding_box": [1, 2]}]}}, "'a': has a broken box"),
    ],
)
def test_fiftyone_errors_name_the_image(tmp_path, content, message):
    (tmp_path / "data").mkdir()
    Image.new("RGB", (12, 10)).save(tmp_path / "data/a.jpg")
    (tmp_path / "labels.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        list(read_fiftyone(tmp_path))


def test_fiftyone_reads_boxes_that_bear_their_names(tmp_path):
    """As FiftyOne exports a data set that has no list of classes."""
    box = {"bounding_box": [0.1, 0.2, 0.3, 0.4]}
    content = {"classes": None, "labels": {"a": [{"label": "dog"} | box, {"label": "cat"} | box], "b": None}}
    (tmp_path / "labels.json").write_text(json.dumps(content))
    (tmp_path / "data").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (10, 10)).save(tmp_path / "data" / name)
    assert CATEGORIES["fiftyone"](tmp_path) == ("cat", "dog")
    labelled, unlabelled = read_fiftyone(tmp_path)
    assert [(each.label, each.category) for each in labelled.instances] == [(1, "dog"), (0, "cat")]
    assert unlabelled.instances is None
    (tmp_path / "labels.json").write_text(json.dumps(content | {"classes": ["cat", "cow", "dog"]}))
    assert [each.label for each in next(read_fiftyone(tmp_path)).instances] == [2, 0]
    (tmp_path / "labels.json").write_text(json.dumps(content | {"classes": ["cat"]}))
    with pytest.raises(InputError, match=r"'a': label 'dog' is unknown; expected 0\.\.0, or a class by name"):
        list(read_fiftyone(tmp_path))


@pytest.mark.parametrize("name", ["labelstudio", "cvat", "fiftyone"])
def test_captions_are_refused(tmp_path, name):
    more = () if name == "labelstudio" else (NAMES,)
    with pytest.raises(InputError, match="is a caption"):
        WRITERS[name](tmp_path / "out", [Record("a.jpg", 1, 1, caption="a cat")], *more)
    assert list(tmp_path.iterdir()) == []
    assert name in READERS


def test_ignored_boxes_do_not_reach_reviewers(tmp_path):
    ignored = Record("a.jpg", 100, 120, (Instance((1, 2, 30, 40), 0, "cat", ignore=True),))
    assert write_labelstudio(tmp_path / "a.json", [ignored]) == {"ignored boxes, left out": 1}
    assert write_cvat(tmp_path / "a.xml", [ignored], NAMES) == {"ignored boxes, left out": 1}
    assert next(read_cvat(tmp_path / "a.xml")).instances == ()
    assert next(read_labelstudio(tmp_path / "a.json")).instances == ()
