"""`groundhog check` finds what is planted, each with its line; `groundhog stats` counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from flows.cli.command import main
from formats import InputError, Instance, Record, Region, write_coco, write_odvg, write_voc
from formats.convert import guess_format
from formats.inspect import check
from formats.io.plots import DPI
from formats.statistics import statistics_of, statistics_table

GOOD = {"bbox": [1, 2, 30, 40], "label": 0, "category": "cat"}


def line(*instances: dict, filename: str = "a.jpg", **more: object) -> str:
    image = {"filename": filename, "height": 100, "width": 120}
    return json.dumps({**image, "detection": {"instances": list(instances)}, **more})


def caption(phrase: str, *spans: list[int], text: str = "a cat and a cat") -> str:
    region = {"bbox": [[1, 2, 3, 4]], "phrase": phrase, **({"tokens_positive": list(spans)} if spans else {})}
    return json.dumps(
        {"filename": "a.jpg", "height": 100, "width": 120, "grounding": {"caption": text, "regions": [region]}}
    )


@pytest.fixture
def problems(tmp_path: Path):
    def found(*lines: str, **given: object) -> list[str]:
        path = tmp_path / "x_od.json"
        path.write_text("\n".join(lines) + "\n")
        return [str(problem).removeprefix(str(path)) for problem in check(path, **given)]

    return found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", ":1: is not JSON"),
        (
            line({**GOOD, "bbox": [1, 2, 3]}),
            ":1: instance 0: box [1, 2, 3] is not four numbers; expected [x1, y1, x2, y2]",
        ),
        (line({**GOOD, "bbox": [1, 2, 1.5, 9]}), ":1: instance 0: box [1, 2, 1.5, 9] is thinner than a pixel; remove"),
        (line({**GOOD, "bbox": [1, 2, 125, 9]}), ":1: instance 0: box [1, 2, 125, 9] leaves the image of 120x100 by 5"),
        (line(GOOD, {**GOOD, "category": "dog"}), ":1: instance 1: label 0 is 'dog'; elsewhere it is 'cat'"),
        (line(GOOD, GOOD), ":1: instance 1: duplicate box of 'cat'; remove one"),
        (
            caption("a cat"),
            ":1: region 0: 'a cat' does not occur exactly once in the caption; expected \"tokens_positive\"",
        ),
        (
            caption("a dog", [0, 5]),
            ":1: region 0: the phrase is 'a dog', its spans are 'a cat'; expected the same words",
        ),
    ],
)
def test_every_problem_has_its_line_and_remedy(problems, text, problem) -> None:
    found = problems(text)
    assert [each[: len(problem)] for each in found[:1]] == [problem]
    assert "; " in found[0]


def test_what_is_right_has_no_problem(problems) -> None:
    assert problems(line({**GOOD, "bbox": [-0.5, 0, 120.9, 100]}), caption("a cat", [10, 15])) == []


def test_all_problems_are_found_not_the_first_alone(problems) -> None:
    found = problems("{", "", line(GOOD), line({**GOOD, "bbox": [1, 1, 1, 1]}), "[]")
    assert [each[:3] for each in found] == [":1:", ":4:", ":4:", ":5:"]
    assert "a.jpg is already at" in found[1]


def test_captions_may_share_an_image(problems) -> None:
    assert problems(caption("a cat", [0, 5]), caption("a cat", [10, 15])) == []


def test_the_label_map_beside_is_held_against_the_names(problems, tmp_path: Path) -> None:
    (tmp_path / "x_label_map.json").write_text('{"1": "dog"}')
    assert "label 0 is not in the label map" in problems(line(GOOD))[0]
    (tmp_path / "x_label_map.json").write_text('{"0": "dog"}')
    assert "label 0 is 'cat'; elsewhere it is 'dog'" in problems(line(GOOD))[0]


def test_images_are_looked_for_and_measured(problems, tmp_path: Path) -> None:
    Image.new("RGB", (100, 120)).save(tmp_path / "a.jpg")
    text = line(GOOD), line(filename="b.jpg"), line(filename="../c.jpg")
    turned, missing, outside = problems(*text, image_dir=tmp_path)
    assert (
        turned
        == ":1: the size is 120x100, but the image is 100x120; expected width x height of the image after EXIF rotation"
    )
    assert "does not exist" in missing
    assert "leaves its folder" in outside


def test_other_formats_are_checked_to_the_end(tmp_path: Path) -> None:
    records = [Record(name, 100, 120, (Instance((1, 2, 30, 40), 0, "cat"),)) for name in ("a.jpg", "b.jpg", "c.jpg")]
    write_coco(tmp_path / "coco.json", records, ("cat",))
    content = json.loads((tmp_path / "coco.json").read_text())
    content["annotations"][0]["bbox"] = [1, 2]
    content["annotations"][1]["category_id"] = 5
    content["annotations"][2]["bbox"] = [1, 2, 500, 4]
    (tmp_path / "coco.json").write_text(json.dumps(content))
    found = [str(each) for each in check(tmp_path / "coco.json")]
    assert len(found) == 3
    assert "annotation 0: bbox [1, 2] is not four numbers" in found[0]
    assert "annotation 1: category_id 5" in found[1]
    assert "record 2 (c.jpg): instance 0: box [1, 2, 501, 6] leaves the image" in found[2]

    write_voc(tmp_path / "voc", records, ("cat",))
    (tmp_path / "voc/Annotations/a.xml").write_text("<")
    (tmp_path / "voc/Annotations/c.xml").write_text("<annotation/>")
    assert [str(each).split("/")[-1][:6] for each in check(tmp_path / "voc")] == ["a.xml:", "c.xml:"]


def test_formats_are_guessed(tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_text(' {\n "images": []}')
    (tmp_path / "odvg.json").write_text('{"filename": "images"}')
    assert [guess_format(tmp_path / name) for name in ("coco.json", "odvg.json")] == ["coco", "odvg"]


def test_a_folder_with_rows_of_boxes_is_yolos(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a cat that sits here\n")
    with pytest.raises(InputError, match="without labels of a format that can be detected"):
        guess_format(tmp_path)
    (tmp_path / "image.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    assert guess_format(tmp_path) == "yolo"


@pytest.mark.parametrize(
    "start", ["\ufeff", ' {"type": "instances", ', '{"info": {"images": 3}, "licenses": [{"id": 1}], ']
)
def test_coco_is_recognised_by_any_of_its_keys(tmp_path: Path, start: str) -> None:
    write_coco(tmp_path / "a.json", [Record("a.jpg", 100, 120, ())], ("cat",))
    text = (tmp_path / "a.json").read_text()
    (tmp_path / "a.json").write_text(start + (text if start == "\ufeff" else text[1:]), encoding="utf-8")
    assert guess_format(tmp_path / "a.json") == "coco"
    assert list(check(tmp_path / "a.json")) == []


def test_xml_is_cvats_or_one_error(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text('<?xml version="1.0"?>\n<annotations>\n</annotations>')
    assert guess_format(tmp_path / "a.xml") == "cvat"
    (tmp_path / "a.xml").write_text("<annotation>\n</annotation>")
    with pytest.raises(InputError, match=r"a\.xml: is XML; expected a folder of VOC files"):
        list(check(tmp_path / "a.xml"))


def test_statistics_tell_of_quarantined_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x_od.json").write_text(line(GOOD) + "\n" + line(filename="b.jpg", quarantined="is empty") + "\n")
    assert main(["stats", str(tmp_path / "x_od.json")]) == 0
    printed = capsys.readouterr().out
    assert "records     1: " in printed
    assert "1 quarantined line" in printed


def test_check_ends_with_1_when_there_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.json"
    path.write_text(line(GOOD) + "\n")
    assert main(["check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: no problems\n"
    path.write_text(line(GOOD, GOOD) + "\n")
    assert main(["check", str(path)]) == 1
    assert capsys.readouterr().out.splitlines()[1] == f"{path}: 1 problem"
    assert main(["check", str(tmp_path / "none.json")]) == 2
    assert main(["check", str(tmp_path)]) == 2


def test_what_is_not_read_is_a_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.json"
    path.write_text(line({**GOOD, "area": 12.5}, coco_url="http://x", license=0) + "\n")
    assert main(["check", str(path)]) == 0
    hint = "not read, since records have no field for it:\n  1 area of instances\n  1 coco_url of lines\n"
    assert capsys.readouterr().out == f"{path}: no problems\n{hint}"
    path.write_text(line({**GOOD, "categry": "cat"}) + "\n" + line({**GOOD, "scores": 0.5}) + "\n")
    assert main(["check", str(path)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{path}:2: instance 0: unknown key 'scores'; did you mean 'score'?",
        f"{path}: 1 problem",
        "not read, since records have no field for it:",
        "  1 categry of instances",
    ]
    record = Record("a.jpg", 100, 120, (Instance((1, 2, 30, 40), 0, "cat"),))
    write_coco(tmp_path / "coco.json", [record], ("cat",))
    content = json.loads((tmp_path / "coco.json").read_text())
    content["annotations"][0]["keypoints"] = [1, 2, 3]
    (tmp_path / "coco.json").write_text(json.dumps(content))
    assert main(["check", str(tmp_path / "coco.json")]) == 0
    assert "  1 keypoints of annotations" in capsys.readouterr().out


# Statistics

RECORDS = [
    Record(
        "a.jpg",
        500,
        500,
        (Instance((0, 0, 10, 10), 0, "cat", 0.5), Instance((0, 0, 50, 50), 1, "dog", 1.0, ignore=True)),
    ),
    Record("b.jpg", 500, 500, ()),
    Record("c.jpg", 500, 500),
    Record(
        "d.jpg", 500, 500, caption="A cat", regions=(Region(((0, 0, 200, 200), (0, 0, 5, 5)), ("A cat",), ((0, 5),)),)
    ),
]


def test_statistics_count_records_boxes_and_names() -> None:
    counted = statistics_of(RECORDS)
    assert (counted.records, counted.captions, counted.unlabelled, counted.empty, counted.ignored) == (4, 1, 1, 1, 1)
    assert counted.boxes == 4
    assert counted.sizes == {"small": 2, "medium": 1, "large": 1}
    assert counted.boxes_per_record == {2: 2, 0: 2}
    assert counted.boxes_per_category == {"cat": 1, "dog": 1, "a cat": 2}
    assert counted.scores == {10: 1, 19: 1}
    table = statistics_table(counted, max_names=2)
    assert "a cat          2          1" in table
    assert table.endswith("… and 1 more")


def test_statistics_of_nothing() -> None:
    assert "0 captions" in statistics_table(statistics_of([]))


def test_stats_print_a_table_and_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_odvg(tmp_path / "a.json", RECORDS)
    assert main(["stats", str(tmp_path / "a.json"), "--out", str(tmp_path / "plots/a.png")]) == 0
    assert "records     4: 1 caption, 1 unlabelled" in capsys.readouterr().out
    with Image.open(tmp_path / "plots/a.png") as image:
        assert image.size == (12 * DPI, 8 * DPI)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ('[{"id": 1, "data": {"image": "/data/a.jpg"}, "annotations": []}]', "labelstudio"),
        ('{"file_name": "a.jpg", "width": 4, "height": 6, "objects": {"bbox": [], "categories": []}}', "huggingface"),
        ('{"images": [], "annotations": [], "categories": []}', "coco"),
        ('[{"filename": "a.jpg", "height": 6, "width": 4}]', "odvg"),
        ("[[", "odvg"),
    ],
)
def test_the_format_of_a_file_is_seen_in_its_first_entry(tmp_path, content, name):
    (tmp_path / "a.json").write_text(content)
    assert guess_format(tmp_path / "a.json") == name


def test_coco_results_are_not_mistaken_for_odvg_lines(tmp_path):
    (tmp_path / "a.json").write_text('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]')
    with pytest.raises(InputError, match="--format coco-results with --truth"):
        guess_format(tmp_path / "a.json")
