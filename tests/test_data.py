"""Sources of labelled images: what they hold, what they cost, and what they say of files that are wrong."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from formats.coco import read_coco, write_coco
from formats.io.errors import InputError
from formats.odvg import write_odvg
from formats.record import Instance, Record, Region
from grounding_model.data.sources import (
    CocoData,
    CocoDataset,
    GlyphData,
    LabelledImages,
    OdvgData,
    OdvgDataset,
    open_dataset,
    open_for_training,
    repeats,
)
from tests.grey_images import write_images

CAT, DOG, HAT = (
    Instance((10, 10, 30, 20), 0, "cat"),
    Instance((0.25, 0, 60, 39.5), 1, "dog"),
    Instance((1, 1, 3, 3), 2, "hat"),
)
RECORDS = [
    Record("upright.png", 60, 40, (CAT,)),
    Record("flat.png", 40, 60, (DOG, CAT, Instance((5, 5, 9, 9), 2, "hat", ignore=True))),
    Record("folder/empty.png", 40, 40, ()),
]
NAMES = ["cat", "dog", "hat"]


@pytest.fixture
def odvg(tmp_path: Path) -> OdvgData:
    write_images(tmp_path, RECORDS)
    write_odvg(tmp_path / "od.jsonl", RECORDS)
    return OdvgData(tmp_path / "od.jsonl", tmp_path)


@pytest.fixture
def coco(tmp_path: Path) -> CocoData:
    write_images(tmp_path, RECORDS)
    write_coco(tmp_path / "coco.json", RECORDS, NAMES)
    return CocoData(tmp_path / "coco.json", tmp_path)


def records_of(dataset: LabelledImages) -> list[Record]:
    return [dataset.load(index)[1] for index in range(len(dataset))]


@pytest.mark.parametrize("source", ["odvg", "coco"])
def test_a_source_gives_what_its_file_says(source: str, request: pytest.FixtureRequest) -> None:
    dataset = open_dataset(request.getfixturevalue(source))
    assert records_of(dataset) == RECORDS
    assert dict(dataset.categories) == dict(enumerate(NAMES))
    assert dataset.portrait.tolist() == [True, False, False]
    assert [dataset.load(index)[0].shape for index in range(3)] == [(60, 40, 3), (40, 60, 3), (40, 40, 3)]


@pytest.mark.parametrize("source", ["odvg", "coco"])
def test_an_image_is_of_the_size_that_its_exif_turn_gives(source: str, request: pytest.FixtureRequest) -> None:
    data = request.getfixturevalue(source)
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn: stored as 60 x 40, seen as 40 x 60
    Image.new("RGB", (60, 40)).save(data.image_root / "upright.png", exif=turned)
    assert open_dataset(data).load(0)[0].shape == (60, 40, 3)
    Image.new("RGB", (60, 40)).save(data.image_root / "upright.png")
    with pytest.raises(InputError, match="image is 60x40, its labels say 40x60"):
        open_dataset(data).load(0)


def test_glyph_scenes_are_no_portraits() -> None:
    dataset = open_dataset(GlyphData(count=3))
    assert dataset.portrait.tolist() == [False] * 3
    assert dataset.load(0)[0].shape[0] == dataset.load(0)[0].shape[1]


# COCO


def test_a_coco_file_is_what_its_reader_reads(coco: CocoData) -> None:
    dataset = CocoDataset(coco)
    assert [dataset.record(index) for index in range(len(dataset))] == list(read_coco(coco.annotations))


def test_only_the_requested_categories_and_in_that_order(coco: CocoData) -> None:
    dataset = open_dataset(CocoData(coco.annotations, coco.image_root, ("dog", "cat")))
    assert dict(dataset.categories) == {0: "dog", 1: "cat"}
    # An image that holds nothing else stays, as one where nothing is to be found.
    assert [[(each.label, each.category) for each in record.instances or ()] for record in records_of(dataset)] == [
        [(1, "cat")],
        [(0, "dog"), (1, "cat")],
        [],
    ]


def test_a_category_that_the_file_does_not_have_is_refused_with_a_suggestion(coco: CocoData) -> None:
    with pytest.raises(InputError, match="did you mean 'cat'"):
        open_dataset(CocoData(coco.annotations, coco.image_root, ("cats",)))


def rewritten(coco: CocoData, **entries: object) -> CocoData:
    content = json.loads(coco.annotations.read_text())
    coco.annotations.write_text(json.dumps({key: value for key, value in {**content, **entries}.items() if value}))
    return coco


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"annotations": None}, 'has no "annotations"'), ({"images": None}, "'images' is missing")],
)
def test_a_coco_file_without_labels_or_images_is_refused(coco: CocoData, changes: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_dataset(rewritten(coco, **changes))


def test_broken_annotations_are_skipped_and_reported(coco: CocoData, caplog: pytest.LogCaptureFixture) -> None:
    content = json.loads(coco.annotations.read_text())
    content["annotations"][0]["bbox"] = [1, 2, -3, 4]
    content["annotations"][1]["image_id"] = 77
    coco.annotations.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        assert [len(record.instances or ()) for record in records_of(open_dataset(coco))] == [0, 2, 0]
    assert len(caplog.messages) == 1
    assert "skipped 2 entries" in caplog.messages[0]
    assert "coco.json: annotation" in caplog.messages[0]


def test_the_group_that_roboflow_writes_among_the_categories_is_none(coco: CocoData) -> None:
    group = {"id": 0, "name": "animals", "supercategory": "none"}
    named = [{"id": index + 1, "name": name, "supercategory": "animals"} for index, name in enumerate(NAMES)]
    assert list(open_dataset(rewritten(coco, categories=[group, *named])).categories.values()) == NAMES
    # COCO's person is its own supercategory, and stays where nobody is to be seen.
    named[2] |= {"name": "person", "supercategory": "person"}
    records = json.loads(coco.annotations.read_text())["annotations"]
    without = [record for record in records if record["category_id"] != 3]
    kept = open_dataset(rewritten(coco, categories=named, annotations=without)).categories
    assert list(kept.values()) == ["cat", "dog", "person"]


def test_a_category_with_boxes_is_not_a_group_although_it_has_subcategories(coco: CocoData) -> None:
    named = [{"id": index + 1, "name": name, "supercategory": "cat"} for index, name in enumerate(NAMES)]
    assert list(open_dataset(rewritten(coco, categories=named)).categories.values()) == NAMES


def test_two_ids_of_one_name_are_one_category(coco: CocoData) -> None:
    entries = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "cat"}]
    dataset = open_dataset(rewritten(coco, categories=entries))
    assert dict(dataset.categories) == {0: "cat", 1: "dog"}
    assert [each.label for each in records_of(dataset)[1].instances or ()] == [1, 0, 0]


def test_a_coco_file_costs_bytes_not_objects(coco: CocoData) -> None:
    boxes = [CAT] * 1000
    write_coco(coco.annotations, [Record(f"{index}.png", 40, 60, boxes[:100]) for index in range(10)], NAMES)
    held = [value for value in vars(CocoDataset(coco)).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in held) < 25 * 1000


# Categories that are rare


def test_rare_categories_come_as_often_as_the_paper_says_rounded_up() -> None:
    """LVIS, appendix B, image by image and category by category."""
    rng = np.random.default_rng(0)
    labels = [set(np.flatnonzero(rng.random(30) < 0.3 / np.arange(1, 31)).tolist()) for _ in range(300)]
    threshold = 0.05
    images_with = Counter(label for image_labels in labels for label in image_labels)
    expected = [
        math.ceil(max([1.0, *(math.sqrt(threshold / (images_with[label] / 300)) for label in image_labels)]))
        for image_labels in labels
    ]
    assert repeats(labels, threshold).tolist() == expected
    assert set(expected) > {1, 2}


def test_nothing_is_rare_where_nothing_is_labelled() -> None:
    assert repeats([set(), set()], 0.1).tolist() == [1, 1]


@pytest.mark.parametrize("source", ["odvg", "coco"])
def test_images_of_rare_categories_come_more_often_in_training_alone(
    source: str, request: pytest.FixtureRequest
) -> None:
    found = request.getfixturevalue(source)
    data = type(found)(found.annotations, found.image_root, oversample=1.0)
    dataset = open_for_training(data)
    # One image in three has a dog: ceil(sqrt(3)). Two in three have a cat: ceil(sqrt(1.5)).
    assert [record.filename for record in records_of(dataset)] == ["upright.png"] * 2 + ["flat.png"] * 2 + [
        "folder/empty.png"
    ]
    assert dataset.portrait.tolist() == [True, True, False, False, False]
    assert dict(dataset.categories) == dict(enumerate(NAMES))
    assert len(open_dataset(data)) == 3


# ODVG


def test_the_label_map_beside_the_file_is_used(tmp_path: Path) -> None:
    write_odvg(tmp_path / "photos_od.json", RECORDS)
    (tmp_path / "photos_label_map.json").write_text('{"0": "cat", "1": "dog", "2": "hat", "3": "never seen"}')
    assert len(open_dataset(OdvgData(tmp_path / "photos_od.json", tmp_path)).categories) == 4
    (tmp_path / "photos_label_map.json").unlink()
    assert len(open_dataset(OdvgData(tmp_path / "photos_od.json", tmp_path)).categories) == 3


def test_a_label_map_that_contradicts_the_lines_is_refused(tmp_path: Path) -> None:
    write_odvg(tmp_path / "photos_od.json", RECORDS)
    label_map = tmp_path / "other_map.json"
    data = OdvgData(tmp_path / "photos_od.json", tmp_path, label_map)
    label_map.write_text('{"0": "cat", "1": "umbrella", "2": "hat"}')
    with pytest.raises(InputError, match=r"photos_od.json: .*label 1 is 'dog', in the label map it is 'umbrella'"):
        open_dataset(data)
    label_map.write_text('{"0": "cat", "2": "hat"}')
    with pytest.raises(InputError, match="label 1 is not in the label map"):
        open_dataset(data)
    label_map.write_text('{"0": "Cat", "1": "dog (pet)", "2": "hat"}')  # the same words
    assert len(open_dataset(data)) == 3


def test_sizes_are_read_from_lines_as_they_come(tmp_path: Path) -> None:
    lines = [
        '{"filename": "a.jpg", "height": 10, "width": 9, "detection": {"instances": []}}',
        '{"width":9,"height":9,"filename":"b.jpg","detection":{"instances":[]}}',
        '{"filename": "\\"height\\": 99", "width" : 8, "height" : 7, "grounding": {"caption": "", "regions": []}}',
        "no JSON at all",
    ]
    (tmp_path / "od.jsonl").write_text("\n".join(lines))
    assert OdvgDataset(OdvgData(tmp_path / "od.jsonl", tmp_path)).portrait.tolist() == [True, False, False, False]


def test_captions_have_no_categories(tmp_path: Path) -> None:
    regions = (Region(((1, 1, 5, 5),), ("a cat",), ((0, 5),)),)
    write_odvg(tmp_path / "vg.jsonl", [Record("a.png", 9, 9, caption="a cat", regions=regions)])
    assert open_dataset(OdvgData(tmp_path / "vg.jsonl", tmp_path)).categories == {}


def test_quarantined_and_blank_lines_are_no_items(odvg: OdvgData) -> None:
    with open(odvg.annotations, "a") as stream:
        stream.write('\n{"filename": "x.png", "quarantined": "truncated"}\n  \n')
    dataset = OdvgDataset(odvg)
    assert len(dataset) == len(dataset.portrait) == 3


def test_a_line_of_brackets_without_end_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "od.jsonl").write_text('{"a":' * 100_000)
    with pytest.raises(InputError, match="not JSON"):
        OdvgDataset(OdvgData(tmp_path / "od.jsonl", tmp_path)).record(0)


def test_files_without_lines_and_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "od.jsonl"
    for content, words in (("", "no line"), ('[{"filename": "a"}]', "array")):
        path.write_text(content)
        with pytest.raises(InputError, match=words):
            OdvgDataset(OdvgData(path, tmp_path))
    with pytest.raises(InputError, match=r"missing\.jsonl"):
        OdvgDataset(OdvgData(tmp_path / "missing.jsonl", tmp_path))


def test_a_huge_file_costs_nine_bytes_a_line(odvg: OdvgData) -> None:
    odvg.annotations.write_text(odvg.annotations.read_text() * 1000)
    dataset = OdvgDataset(odvg)
    assert len(dataset) == 3000
    assert dataset._offsets.itemsize * len(dataset) + dataset.portrait.nbytes == 27_000
    assert dataset.record(2998) == RECORDS[1]


@pytest.mark.parametrize("count", [0, -3])
def test_a_glyph_world_without_scenes_is_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"count: {count} scenes; expected at least one"):
        GlyphData(count=count)
