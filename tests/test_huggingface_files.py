"""Data sets of Hugging Face's layout as others publish them: Parquet with images, splits, lists of objects."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.cli.command import main
from formats import InputError, Omissions, read_huggingface, read_huggingface_categories, read_odvg
from formats.convert import guess_format
from formats.huggingface import save_images
from tests.format_samples import write_hub_table

BOX = (1.0, 2.0, 31.5, 22.0)


def lines(folder: Path, *rows: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def line(objects: object, name: str = "a.jpg") -> dict:
    return {"file_name": name, "width": 60, "height": 40, "objects": objects}


def test_names_sizes_and_categories_are_read_from_parquet_and_the_rest_is_counted(tmp_path: Path) -> None:
    write_hub_table(tmp_path / "data/train-00000-of-00002.parquet", ["a.png", None])
    write_hub_table(tmp_path / "data/train-00001-of-00002.parquet", ["x/b.png"])
    omissions = Omissions()
    records = list(read_huggingface(tmp_path, omissions=omissions))
    assert [(each.filename, each.height, each.width) for each in records] == [
        ("a.png", 40, 60),
        ("000001.png", 40, 61),
        ("b.png", 40, 60),
    ]
    boxes = [(box.box, box.label, box.category) for box in records[0].instances or ()]
    assert boxes == [(BOX, 0, "cat"), (BOX, 1, "dog")]
    assert read_huggingface_categories(tmp_path) == ("cat", "dog")
    assert +omissions == Omissions({"licence of lines": 3})


def test_images_with_equal_names_are_saved_separately_under_the_names_of_their_records(tmp_path: Path) -> None:
    write_hub_table(tmp_path / "0000.parquet", ["a.png", "image.png", "image.png"], sized=True)
    records = list(read_huggingface(tmp_path))
    names = ["a.png", "000001_image.png", "000002_image.png"]
    assert [each.filename for each in records] == names
    assert save_images(tmp_path, tmp_path / "all") == 3
    for each in records:
        with Image.open(tmp_path / "all" / each.filename) as image:
            assert image.size == (each.width, each.height)
    assert save_images(tmp_path, tmp_path / "some", only=names[1:2]) == 1
    assert [each.name for each in (tmp_path / "some").iterdir()] == names[1:2]


def test_a_split_is_named_where_there_are_several(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_hub_table(tmp_path / f"data/{split}-00000-of-00001.parquet", [f"{split}.png"])
    with pytest.raises(InputError, match="has the splits test, train; expected one of them: --split NAME"):
        list(read_huggingface(tmp_path))
    assert [each.filename for each in read_huggingface(tmp_path, split="test")] == ["test.png"]
    with pytest.raises(InputError, match="did you mean 'test'"):
        list(read_huggingface(tmp_path, split="tset"))
    write_hub_table(tmp_path / "more/test/0000.parquet", ["c.png"])
    with pytest.raises(InputError, match="has split test in several folders: data, more/test"):
        list(read_huggingface(tmp_path, split="test"))
    assert guess_format(tmp_path) == guess_format(tmp_path / "more/test/0000.parquet") == "huggingface"


def test_a_list_of_objects_two_corners_and_crowds_are_read(tmp_path: Path) -> None:
    cat = {"bbox": [1, 2, 31.5, 22], "category": "cat", "iscrowd": 1}
    folder = lines(tmp_path, line([cat, {**cat, "category": "dog", "iscrowd": 0}]), line([], "b.jpg"), line(None, "c"))
    records = list(read_huggingface(folder, box_format="xyxy"))
    assert [(box.box, box.label, box.ignore) for box in records[0].instances or ()] == [(BOX, 0, True), (BOX, 1, False)]
    assert [each.instances for each in records[1:]] == [(), None]
    assert read_huggingface_categories(folder) == ("cat", "dog")


def test_metadata_in_parquet_lies_beside_its_images(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    Image.new("RGB", (60, 40)).save(tmp_path / "train/a.png")
    rows = [{"file_name": "a.png", "objects": {"bbox": [[1.0, 2.0, 30.5, 20.0]], "categories": [0]}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train/metadata.parquet")
    [record] = read_huggingface(tmp_path, categories=["cat"])
    assert (record.filename, record.height, record.width) == ("a.png", 40, 60)
    with pytest.raises(InputError, match="contains no images; leave --save-images out"):
        save_images(tmp_path, tmp_path / "images")


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ({"bbox": [[1, 2, 3]], "category": [0]}, "is not four numbers; expected \\[x, y, width, height\\]"),
        ({"bbox": [[1, 2, 3, 4]], "category": [0, 1]}, "has 1 box, and not as many categories"),
        ({"bbox": [[1, 2, 3, 4]], "category": [2]}, "category 2 has no name; expected 0..1"),
        ({"category": [0]}, "has no list of boxes"),
        (["cat"], "neither {key: list} nor a list of objects"),
        ("cat", "neither {key: list} nor a list of objects"),
    ],
)
def test_objects_that_are_not_of_the_layout_are_refused(tmp_path: Path, objects: object, message: str) -> None:
    folder = lines(tmp_path, line(objects))
    with pytest.raises(InputError, match=message):
        list(read_huggingface(folder, categories=["cat", "dog"]))


@pytest.mark.parametrize("labels", [1.5, "cat", {"0": "cat"}, True])
def test_names_that_are_not_a_list_are_refused_with_their_line(tmp_path: Path, labels: object) -> None:
    odd = {"bbox": [[1, 2, 3, 4]], "category": labels}
    good = {"bbox": [[1, 2, 3, 4]], "category": ["dog"]}
    problems: list[InputError] = []
    folder = lines(tmp_path, line(odd), line(good, "b.jpg"))
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (40, 30)).save(tmp_path / name)
    records = list(read_huggingface(folder, on_problem=problems.append))
    assert [[each.category for each in record.instances or ()] for record in records] == [["dog"]]
    assert "not as many categories" in str(problems[0])
    assert read_huggingface_categories(folder) == ("dog",)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    write_hub_table(tmp_path / "a.parquet", ["a.png"])
    whole = (tmp_path / "a.parquet").read_bytes()
    for content in (b"", b"PAR1", whole[: len(whole) // 2], whole[:200] + b"\xff" * 40 + whole[240:]):
        (tmp_path / "a.parquet").write_bytes(content)
        with pytest.raises(InputError):
            list(read_huggingface(tmp_path / "a.parquet"))


def test_the_command_converts_a_part_and_saves_the_images_of_it(tmp_path: Path, capsys) -> None:
    write_hub_table(tmp_path / "hub/train.parquet", ["a.png", "b.png", "c.png"])
    out, images = tmp_path / "x/x_od.json", tmp_path / "x/images"
    command = ["convert", "huggingface", "odvg", str(tmp_path / "hub"), str(out), "--save-images", str(images)]
    assert main([*command, "--sample", "2"]) == 0
    names = {each.filename for each in read_odvg(out)}
    assert len(names) == 2
    assert {each.name for each in images.iterdir()} == names
    assert "licence of lines" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "hub")]) == main(["stats", str(tmp_path / "hub")]) == 0
    assert main([*command, "--sample", "2", "--overwrite"]) == 0
    assert main(command) == 2
    assert main(["convert", "coco", "odvg", "a.json", "b.json", "--save-images", "c"]) == 2


@pytest.mark.slow
def test_what_datasets_writes_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names, box = ["cat", "dog"], [1.0, 2.0, 30.5, 20.0]
    number, label = datasets.Value("float32"), datasets.ClassLabel(names=names)
    lists = {"bbox": datasets.List(datasets.List(number)), "category": datasets.List(label)}
    listed = datasets.List({"bbox": datasets.List(number), "category": label})
    image = Image.new("RGB", (60, 40))
    for kind, objects in (
        (lists, {"bbox": [box, box], "category": [0, 1]}),
        (listed, [{"bbox": box, "category": 0}, {"bbox": box, "category": 1}]),
    ):
        features = datasets.Features({"image": datasets.Image(), "objects": kind})
        made = datasets.Dataset.from_list([{"image": image, "objects": objects}], features=features)
        made.to_parquet(str(tmp_path / "a.parquet"))
        [record] = read_huggingface(tmp_path / "a.parquet")
        assert (record.filename, record.height, record.width) == ("000000.png", 40, 60)
        assert [(each.box, each.category) for each in record.instances or ()] == [(BOX, "cat"), (BOX, "dog")]
