"""Bootstrapping: what becomes a line, what is quarantined, and what is refused."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from flows.labelling.bootstrap import bootstrap_od, bootstrap_vg
from flows.labelling.captions import read_captions
from formats.io.errors import InputError
from formats.label_map import read_label_map
from formats.odvg import read_odvg
from tests.pipeline_cases import make_images


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_image_becomes_a_line_in_sorted_order(tmp_path: Path) -> None:
    names = make_images(tmp_path / "images", 3)
    made = bootstrap_od(tmp_path / "images", ["cat", "dog"], tmp_path / "x_od.json")
    assert lines_of(made.annotations) == [{"filename": name, "height": 30, "width": 40} for name in names]
    assert made.label_map == tmp_path / "x_label_map.json"
    assert read_label_map(made.label_map) == {0: "cat", 1: "dog"}
    assert all(record.instances is None for record in read_odvg(made.annotations))


def test_the_size_is_the_one_after_the_exif_turn(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "turned.jpg", exif=exif)
    made = bootstrap_od(tmp_path / "images", ["cat"], tmp_path / "x_od.json")
    assert lines_of(made.annotations) == [{"filename": "turned.jpg", "height": 40, "width": 30}]


def test_unreadable_images_stay_as_quarantined_lines(tmp_path: Path) -> None:
    make_images(tmp_path / "images", 1)
    (tmp_path / "images" / "text.jpg").write_text("not an image")
    (tmp_path / "images" / "void.jpg").write_bytes(b"")
    made = bootstrap_od(tmp_path / "images", ["cat"], tmp_path / "x_od.json")
    assert made.lines == 3
    assert [(problem.line, problem.filename) for problem in made.quarantined] == [(1, "text.jpg"), (2, "void.jpg")]
    for line in lines_of(made.annotations)[1:]:
        assert (line["height"], line["width"]) == (None, None)
        assert line["quarantined"]
    assert str(tmp_path) not in made.annotations.read_text()
    assert len(list(read_odvg(made.annotations))) == 1


@pytest.mark.parametrize(("categories", "said"), [([], "none"), (["cat", " "], "empty"), (["cat", "cat"], "twice")])
def test_bad_categories_are_refused(tmp_path: Path, categories: list[str], said: str) -> None:
    make_images(tmp_path / "images", 1)
    with pytest.raises(InputError, match=said):
        bootstrap_od(tmp_path / "images", categories, tmp_path / "x_od.json")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        bootstrap_od(tmp_path, ["cat"], tmp_path / "x_od.json")


def test_given_phrases_become_placeholder_regions(tmp_path: Path) -> None:
    names = make_images(tmp_path / "images", 2)
    caption = "Two men beside a horse ."
    made = bootstrap_vg(
        tmp_path / "images", dict.fromkeys(names, caption), tmp_path / "x_vg.json", {caption: ["a horse", "two men"]}
    )
    regions = lines_of(made.annotations)[0]["grounding"]["regions"]
    assert regions == [
        {"bbox": [0, 0, 1, 1], "phrase": "a horse", "tokens_positive": [[15, 22]]},
        {"bbox": [0, 0, 1, 1], "phrase": "Two men", "tokens_positive": [[0, 7]]},
    ]


def test_a_phrase_that_is_only_part_of_a_word_is_quarantined(tmp_path: Path) -> None:
    names = make_images(tmp_path / "images", 1)
    made = bootstrap_vg(
        tmp_path / "images", {names[0]: "a container ship"}, tmp_path / "x_vg.json", {"a container ship": ["contain"]}
    )
    assert "is not in this caption" in made.quarantined[0].reason
    line = lines_of(made.annotations)[0]
    assert (line["height"], line["width"]) == (30, 40)
    assert line["grounding"] == {"caption": "a container ship", "regions": []}


def test_captions_come_in_six_forms(tmp_path: Path) -> None:
    names = make_images(tmp_path / "images", 2)
    (tmp_path / "a.csv").write_text(f'image,caption\n{names[0]},"a cat, black"\n{names[1]},a dog\n')
    (tmp_path / "b.json").write_text(json.dumps({names[0]: "a cat, black", names[1]: ["a dog"]}))
    (tmp_path / "c.jsonl").write_text(
        "".join(json.dumps({"filename": n, "caption": c}) + "\n" for n, c in zip(names, ("a cat, black", "a dog")))
    )
    (tmp_path / "metadata.jsonl").write_text(
        "".join(json.dumps({"file_name": n, "text": c}) + "\n" for n, c in zip(names, ("a cat, black", "a dog")))
    )
    coco = {"images": [{"id": 7 - i, "file_name": name} for i, name in enumerate(names)]}
    coco["annotations"] = [{"id": 1, "image_id": 7, "caption": "a cat, black"}, {"image_id": 6, "caption": "a dog"}]
    (tmp_path / "captions_val.json").write_text(json.dumps(coco))
    (tmp_path / "d").mkdir()
    for name, caption in zip(names, ("a cat, black", "a dog")):
        (tmp_path / "d" / name).with_suffix(".txt").write_text(caption + "\n")
    for form in ("a.csv", "b.json", "c.jsonl", "metadata.jsonl", "captions_val.json", "d"):
        pairs = list(read_captions(tmp_path / form, tmp_path / "images"))
        assert pairs == [(names[0], "a cat, black"), (names[1], "a dog")], form


@pytest.mark.parametrize("annotation", [{"image_id": 2, "caption": "a cat"}, {"image_id": 1}, 3])
def test_coco_captions_of_no_image_are_refused(tmp_path: Path, annotation: object) -> None:
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [annotation]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"a\.json: (is not a file of COCO captions|has a caption of image 2)"):
        list(read_captions(tmp_path / "a.json", tmp_path))


def test_a_table_without_captions_names_its_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,label\nx.jpg,cat\n")
    with pytest.raises(InputError, match="columns image, label"):
        list(read_captions(tmp_path / "a.csv", tmp_path))


def test_a_caption_of_a_file_outside_the_folder_is_quarantined(tmp_path: Path) -> None:
    make_images(tmp_path / "images", 1)
    make_images(tmp_path, 1)
    captions = {"../image-000.png": "a cat", "image-000.png": "a cat"}
    made = bootstrap_vg(tmp_path / "images", captions, tmp_path / "x_vg.json", {"a cat": ["a cat"]})
    assert [problem.filename for problem in made.quarantined] == ["../image-000.png"]


@pytest.mark.parametrize("text", ['[{"filename": "a.png", "caption": 3}]', '{"a.png": 3}', '{"a.png": ["a", 1]}'])
def test_captions_that_are_no_text_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match="expected a string or a list of strings"):
        list(read_captions(tmp_path / "a.json", tmp_path))


def test_captions_are_kept_as_written(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("image_name| comment_number| comment\na.jpg| 0| null\nb.jpg| 1| 007\nc.jpg| 2\n")
    assert list(read_captions(path, tmp_path)) == [("a.jpg", "null"), ("b.jpg", "007"), ("c.jpg", "")]


@pytest.mark.parametrize("rows", ["a.jpg,a cat, black", "a.jpg,a dog\nb.jpg,a cat, black", 'a.jpg,"a cat'])
def test_a_comma_that_would_cut_a_caption_is_named(rows: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"image,caption\n{rows}\n")
    with pytest.raises(InputError, match=r"a\.csv: is not a table .*in quotes"):
        list(read_captions(path, tmp_path))


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_captions_in_another_encoding_are_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes("image,caption\na.png,un café\n".encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8"):
        list(read_captions(tmp_path / f"a{suffix}", tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_a_file_name_that_is_not_utf8_is_quarantined(tmp_path: Path) -> None:
    names = make_images(tmp_path / "images", 2)
    os.rename(tmp_path / "images" / names[0], os.fsencode(tmp_path / "images") + b"/\xff.png")
    made = bootstrap_od(tmp_path / "images", ["cat"], tmp_path / "x_od.json")
    assert [problem.filename for problem in made.quarantined] == ["\\udcff.png"]
    assert [record.filename for record in read_odvg(made.annotations)] == [names[1]]


def test_an_empty_caption_is_quarantined(tmp_path: Path) -> None:
    names = make_images(tmp_path / "images", 2)
    (tmp_path / "a.csv").write_text(f"image,caption\n{names[0]},a cat\n{names[1]},\n")
    made = bootstrap_vg(tmp_path / "images", tmp_path / "a.csv", tmp_path / "x_vg.json", {"a cat": ["a cat"]})
    assert made.lines == 2
    assert [(problem.line, problem.reason) for problem in made.quarantined] == [(1, "the caption is empty")]


def test_phrases_come_from_a_file_too(tmp_path: Path) -> None:
    names = make_images(tmp_path / "images", 1)
    (tmp_path / "phrases.json").write_text('{"a black cat": ["cat"]}')
    made = bootstrap_vg(tmp_path / "images", {names[0]: "a black cat"}, phrases=tmp_path / "phrases.json")
    assert made.annotations == tmp_path / "images_vg.json"
    assert lines_of(made.annotations)[0]["grounding"]["regions"][0]["phrase"] == "cat"


@pytest.mark.parametrize("text", ["no JSON", "[1]", '{"a cat": "cat"}', '{"a cat": [1]}'])
def test_phrases_of_another_form_are_refused(tmp_path: Path, text: str) -> None:
    names = make_images(tmp_path / "images", 1)
    (tmp_path / "phrases.json").write_text(text)
    with pytest.raises(InputError, match="expected a JSON file such as"):
        bootstrap_vg(tmp_path / "images", {names[0]: "a cat"}, tmp_path / "x_vg.json", tmp_path / "phrases.json")


def test_names_that_a_detector_cannot_distinguish_are_reported(tmp_path, caplog):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "photos/a.jpg")
    bootstrap_od(tmp_path / "photos", ["bat (animal)", "bat (sports)", "dog"], tmp_path / "x_od.json")
    assert "'bat (animal)' and 'bat (sports)', are the same words to a detector" in caplog.text
