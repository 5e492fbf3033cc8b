"""COCO files as labelling tools write them: without sizes, with scores as text, with ids given twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from formats import InputError, Instance, Record, read_coco

BOX = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}


def coco(path: Path, *annotations: dict, **image: object) -> Path:
    images = [{"id": 1, "file_name": "a.jpg", **image}]
    content = {"images": images, "annotations": list(annotations), "categories": [{"id": 1, "name": "cat"}]}
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("said", [{}, {"height": None, "width": None}, {"height": 0, "width": 0}])
def test_a_size_that_the_file_lacks_comes_from_the_image(tmp_path: Path, said: dict) -> None:
    path = coco(tmp_path / "a.json", BOX, **said)
    with pytest.raises(InputError, match=r"image 1: .*size"):
        list(read_coco(path))
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg")
    assert list(read_coco(path, image_dir=tmp_path)) == [Record("a.jpg", 20, 30, (Instance((1, 2, 4, 6), 0, "cat"),))]


@pytest.mark.parametrize("score", ["0.9", True, [0.5], {}])
def test_a_score_that_is_no_number_is_named(tmp_path: Path, score: object) -> None:
    path = coco(tmp_path / "a.json", {**BOX, "score": score}, height=20, width=30)
    with pytest.raises(InputError, match=r"annotation 0: score is .*; expected a number in 0\.\.1"):
        list(read_coco(path))


@pytest.mark.parametrize("ids", [[1, 2, 2], [3, 1, 3], [1, 5, 2, 5], ["a", "b", "a"]])
def test_an_annotation_id_given_twice_is_named(tmp_path: Path, ids: list) -> None:
    path = coco(tmp_path / "a.json", *({**BOX, "id": each} for each in ids), height=20, width=30)
    with pytest.raises(InputError, match=f"annotation {len(ids) - 1}: id {ids[-1]!r} is listed twice"):
        list(read_coco(path))
    found: list[InputError] = []
    assert len(list(read_coco(path, found.append))) == 1
    assert len(found) == 1


def test_annotations_without_ids_or_in_any_order_pass(tmp_path: Path) -> None:
    boxes = [{**BOX, "id": 7}, {**BOX, "id": 2}, {**BOX, "id": "x"}, {**BOX, "id": None}]
    (record,) = read_coco(coco(tmp_path / "a.json", *boxes, height=20, width=30))
    assert len(record.instances or ()) == 4
