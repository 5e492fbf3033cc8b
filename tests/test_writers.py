"""What writers write reads back the same; what a format has no place for is counted."""

import json
from dataclasses import replace
from inspect import signature
from pathlib import Path

import pytest
from PIL import Image

from formats import (
    READERS,
    WRITERS,
    InputError,
    Instance,
    Record,
    Region,
    describe_omissions,
    read_coco_results,
    read_odvg,
    read_voc,
    read_yolo,
    write_coco,
    write_coco_results,
    write_odvg,
    write_open_groundingdino,
    write_voc,
    write_whole_folder,
    write_yolo,
)
from formats.convert import convert
from formats.label_map import write_label_map
from formats.voc import read_voc_categories

CATEGORIES = ("cat", "dog")
PLAIN = [
    Record("a.jpg", 100, 200, ()),
    Record("sub/b.png", 100, 200, (Instance((0, 0, 200, 100), 1, "dog"), Instance((1.25, 2, 30.5, 40), 0, "cat"))),
]
RICH = Record(
    "a.jpg",
    100,
    200,
    (
        Instance((10, 10, 20, 20), 0, "cat", 0.5, weight=2.0),
        Instance((10, 10, 30, 20), 1, "dog", 0.25, ignore=True),
    ),
)
EMPTY = Record("a.jpg", 1, 1, ())
MORE = {"voc": (CATEGORIES,), "yolo": (CATEGORIES,)}  # what a writer needs beside path and records
CAPTION = Record("a.jpg", 100, 200, caption="a cat", regions=(Region(((1, 2, 3, 4),), ("a cat",), ((0, 5),)),))


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images/sub").mkdir(parents=True)
    for record in PLAIN:
        Image.new("RGB", (record.width, record.height)).save(tmp_path / "images" / record.filename)
    return tmp_path / "images"


def test_voc_comes_back(tmp_path):
    assert write_voc(tmp_path / "voc", PLAIN, CATEGORIES) == {}
    assert list(read_voc(tmp_path / "voc", CATEGORIES)) == PLAIN
    assert list(read_voc(tmp_path / "voc/Annotations")) == PLAIN  # the names of labelmap.txt


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("odvg", "coco-results")])
def test_boxes_that_are_converted_there_and_back_are_the_same(tmp_path, images, name):
    """Of every format that is written, also one that is added tomorrow."""
    write_odvg(tmp_path / "a_od.json", PLAIN)
    write_label_map(tmp_path / "a_label_map.json", dict(enumerate(CATEGORIES)))
    target, more = tmp_path / "there", {"image_dir": images, "categories": CATEGORIES}

    def taken_by(function):
        return {each: value for each, value in more.items() if each in signature(function).parameters}

    convert("odvg", name, tmp_path / "a_od.json", target, **taken_by(WRITERS[name]))
    target = target / "labels" if name == "yolo" else target  # its reader takes the folder of the text files
    convert(name, "odvg", target, tmp_path / "b_od.json", **taken_by(READERS[name]))
    assert list(read_odvg(tmp_path / "b_od.json")) == PLAIN


def test_voc_lies_as_the_devkit_does_and_declares_its_names(tmp_path):
    """CVAT and datumaro refuse names that labelmap.txt does not declare, and look for images by ImageSets/Main."""
    record = Record("sub/a.b.jpg", 10, 20, (Instance((1, 2, 3, 4), 1, "dog"),))
    omissions = write_voc(tmp_path / "voc", [record, EMPTY], ("zebra", "dog", "a: b", "# c", " d"))
    assert omissions == {"names that labelmap.txt cannot store": 3}
    lying = [path.relative_to(tmp_path / "voc").as_posix() for path in sorted((tmp_path / "voc").rglob("*.*"))]
    names = ["Annotations/a.xml", "Annotations/sub/a.b.xml", "ImageSets/Main/default.txt", "labelmap.txt"]
    assert lying == names
    assert (tmp_path / "voc/ImageSets/Main/default.txt").read_text() == "sub/a.b\na\n"
    assert (tmp_path / "voc/labelmap.txt").read_text() == "zebra:::\ndog:::\n"
    assert read_voc_categories(tmp_path / "voc") == ("zebra", "dog")


def test_a_label_map_orders_the_names_and_need_not_have_them_all(tmp_path):
    animals = [Instance((1, 2, 3, 4), label, name) for label, name in enumerate(("ant", "bee", "cat"))]
    write_voc(tmp_path / "voc", [Record("a.jpg", 10, 20, tuple(animals))], ("ant", "bee", "cat"))
    (tmp_path / "voc/labelmap.txt").write_text(
        "# name:color:parts:actions\nbackground:0,0,0::\n\ncat:1,2,3:ear,tail:\n"
    )
    assert read_voc_categories(tmp_path / "voc") == ("cat", "ant", "bee")
    assert [each.label for each in next(read_voc(tmp_path / "voc")).instances] == [1, 2, 0]


def test_yolo_comes_back(tmp_path, images):
    assert write_yolo(tmp_path / "yolo", PLAIN, CATEGORIES) == {}
    again = list(read_yolo(tmp_path / "yolo/labels", images, tmp_path / "yolo/data.yaml"))
    write_odvg(tmp_path / "again.json", again)  # 2 decimals: a fraction of the image is no whole pixel
    assert list(read_odvg(tmp_path / "again.json")) == PLAIN


def test_the_area_of_a_coco_annotation_is_that_of_its_box(tmp_path):
    write_coco(tmp_path / "coco.json", PLAIN, CATEGORIES)
    areas = [entry["area"] for entry in json.loads((tmp_path / "coco.json").read_text())["annotations"]]
    assert areas == [200 * 100, 29.25 * 38]


def test_coco_results_come_back_with_the_ids_of_the_truth(tmp_path):
    truth = tmp_path / "truth.json"
    write_coco(truth, PLAIN, CATEGORIES)
    found = [
        Record("a.jpg", 100, 200, (Instance((1, 2, 3, 4), 1, "dog", 0.5),)),
        Record("sub/b.png", 100, 200, ()),
    ]
    assert write_coco_results(tmp_path / "results.json", found, truth) == {}
    (result,) = json.loads((tmp_path / "results.json").read_text())
    assert result == {"image_id": 1, "category_id": 2, "bbox": [1, 2, 2, 2], "score": 0.5}
    assert list(read_coco_results(tmp_path / "results.json", truth)) == found


def test_coco_results_are_what_pycocotools_loads(tmp_path):
    from pycocotools.coco import COCO

    write_coco(tmp_path / "truth.json", PLAIN, CATEGORIES)
    found = [Record("a.jpg", 100, 200, (Instance((1, 2, 3, 5), 1, "dog", 0.5),))]
    write_coco_results(tmp_path / "results.json", found, tmp_path / "truth.json")
    assert COCO(tmp_path / "truth.json").loadRes(str(tmp_path / "results.json")).anns[1]["area"] == 6


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (Record("z.jpg", 100, 200, ()), "z.jpg: is not an image of"),
        (Record("a.jpg", 100, 200, (Instance((0, 0, 1, 1), 0, "cat"),)), "has no score"),
        (Record("a.jpg", 100, 200, (Instance((0, 0, 1, 1), 2, "emu", 0.5),)), "'emu' is not a category of the truth"),
    ],
)
def test_coco_results_refuse_what_the_truth_does_not_have(tmp_path, record, message):
    write_coco(tmp_path / "truth.json", PLAIN, CATEGORIES)
    with pytest.raises(InputError, match=message):
        write_coco_results(tmp_path / "results.json", [record], tmp_path / "truth.json")
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "contains a JSON dict; expected a COCO results file"),
        ("[1]", "entry 0 is not an object"),
        ('[{"image_id": 9, "category_id": 1, "bbox": [1, 1, 1, 1], "score": 1}]', "annotation 0: image_id 9"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 1, 1, 1]}]', "annotation 0: 'score' is missing"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 1, 1, 1], "score": 2}]', "annotation 0: score 2 is outside"),
    ],
)
def test_coco_results_that_are_none(tmp_path, content, message):
    write_coco(tmp_path / "truth.json", PLAIN, CATEGORIES)
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match=message):
        list(read_coco_results(tmp_path / "results.json", tmp_path / "truth.json"))


def test_open_groundingdino_has_one_box_a_region_and_no_spans(tmp_path):
    two = Region(((1, 2, 3, 4), (5, 6, 7, 8)), ("a cat",), ((0, 5),), (0.5, 0.25))
    caption = Record("a.jpg", 10, 20, caption="a cat", regions=(two, Region((), ("cat",), ((2, 5),))))
    omissions = write_open_groundingdino(tmp_path / "a.jsonl", [caption, *PLAIN])
    assert omissions == {"spans": 2, "scores": 2, "phrases without a box": 1}
    first = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])
    assert first["grounding"]["regions"] == [
        {"bbox": [1, 2, 3, 4], "phrase": "a cat"},
        {"bbox": [5, 6, 7, 8], "phrase": "a cat"},
    ]
    read = list(read_odvg(tmp_path / "a.jsonl"))
    assert read[1:] == PLAIN
    assert [region.spans for region in read[0].regions] == [((0, 5),), ((0, 5),)]


def test_odvg_counts_phrases_that_it_leaves_out(tmp_path):
    nothing = Record("a.jpg", 10, 20, caption="a cat", regions=(Region((), ("a cat",), ((0, 5),)),))
    assert write_odvg(tmp_path / "a.json", [nothing]) == {"phrases without a box": 1}
    assert write_odvg(tmp_path / "a.json", [nothing], placeholder=True) == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("odvg", ""),
        ("coco", "1 unlabelled image, now without objects, 1 weight"),
        ("voc", "2 scores, 1 unlabelled image, now without objects, 1 weight"),
        ("yolo", "1 ignored box, left out, 2 scores, 1 unlabelled image, now without objects, 1 weight"),
        (
            "open-groundingdino",
            "1 ignored box, left out, 2 scores, 1 unlabelled image, now without objects, 1 weight",
        ),
    ],
)
def test_what_has_no_place_is_told(tmp_path, name, message):
    categories = (CATEGORIES,) if name in ("coco", "voc", "yolo") else ()
    omissions = WRITERS[name](tmp_path / "out", [RICH, Record("b.jpg", 10, 10)], *categories)
    assert ", ".join(line.strip() for line in describe_omissions(omissions).splitlines()) == message


def test_boxes_beyond_the_image_are_clipped_and_counted(tmp_path):
    record = Record("a.jpg", 100, 200, (Instance((-5, 10, 210, 20), 0, "cat"),))
    assert write_voc(tmp_path / "voc", [record], CATEGORIES) == {"boxes beyond the left or top edge, clipped": 1}
    assert next(read_voc(tmp_path / "voc")).instances[0].box == (0, 10, 210, 20)
    assert write_yolo(tmp_path / "yolo", [record], CATEGORIES) == {"boxes beyond the image, clipped": 1}
    assert (tmp_path / "yolo/labels/a.txt").read_text() == "0 0.50000000 0.15000000 1.00000000 0.10000000\n"


@pytest.mark.parametrize("name", ["coco", "voc", "yolo", "coco-results"])
def test_captions_are_refused_where_there_are_categories_alone(tmp_path, name):
    write_coco(tmp_path / "truth.json", PLAIN, CATEGORIES)
    more = {"coco-results": (tmp_path / "truth.json",)}.get(name, (CATEGORIES,))
    with pytest.raises(InputError, match=r"a\.jpg: is a caption .*has no captions"):
        WRITERS[name](tmp_path / "out", [CAPTION], *more)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["truth.json"]


@pytest.mark.parametrize("name", ["voc", "yolo"])
def test_two_images_of_one_stem_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"a\.png: has the file stem of another image"):
        WRITERS[name](tmp_path / "out", [EMPTY, replace(EMPTY, filename="a.png")], *MORE[name])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["voc", "yolo"])
def test_file_names_cannot_lead_out_of_the_folder(tmp_path, name):
    with pytest.raises(InputError, match="leaves its folder"):
        WRITERS[name](tmp_path / "out", [replace(EMPTY, filename="../a.jpg")], *MORE[name])


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    with pytest.raises(FileNotFoundError), write_whole_folder(tmp_path / "a") as folder:
        (folder / "none/x").write_text("x")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    with write_whole_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("x")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]
    with (
        pytest.raises(InputError, match="a: already exists; expected a new folder"),
        write_whole_folder(tmp_path / "a"),
    ):
        pass


def test_the_page_of_formats_names_every_format():
    page = (Path(__file__).parent.parent / "docs/formats.md").read_text(encoding="utf-8")
    lines = page.partition("\n## ")[0].splitlines()  # the first table; the next ones say what is left out
    marks = {line.split("`")[1]: line.split("|")[2:4] for line in lines if line.startswith("| `")}
    assert {name for name, (read, _) in marks.items() if "yes" in read} == set(READERS)
    assert {name for name, (_, written) in marks.items() if "yes" in written} == set(WRITERS)


def test_yolo_leaves_ignored_boxes_out(tmp_path):
    write_yolo(tmp_path / "yolo", [RICH], CATEGORIES)
    assert (tmp_path / "yolo/labels/a.txt").read_text() == "0 0.07500000 0.15000000 0.05000000 0.10000000\n"


def test_a_file_for_another_program_leaves_out_what_it_takes_wrongly(tmp_path):
    ignored = Instance((1, 2, 3, 4), 0, "cat", ignore=True)
    kept = Instance((5, 6, 9, 9), 0, "cat")
    caption = Record("b.jpg", 40, 60, caption="a cat", regions=())
    records = [Record("a.jpg", 40, 60, (ignored, kept)), caption]
    assert write_odvg(tmp_path / "m.json", records, loader="mmdet") == {"ignored boxes, left out": 1}
    assert [each.instances for each in read_odvg(tmp_path / "m.json")] == [(kept,), None]
    omissions = write_odvg(tmp_path / "o.json", records, loader="open-groundingdino")
    assert omissions["ignored boxes, left out"] == 1
    assert [each.filename for each in read_odvg(tmp_path / "o.json")] == ["a.jpg"]
    with pytest.raises(InputError, match="did you mean 'mmdet'"):
        write_odvg(tmp_path / "x.json", records, loader="mmdt")
