"""A folder of one's own is found in the layouts that tools write, or it is said where it was looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from formats.coco import write_coco
from formats.io.errors import InputError
from formats.io.toml_config import read_config
from formats.record import Instance, Record
from grounding_model.data.coco_folder import CocoFolder
from grounding_model.data.sources import open_dataset
from grounding_model.training.config import TrainConfig
from tests.grey_images import write_images
from tests.paths import GOLDEN

CONFIG = GOLDEN.parent.parent / "configs" / "finetune_coco_format.toml"
LAYOUTS = {
    "ours": ("annotations/train.json", "train", "annotations/val.json", "val"),
    "valid": ("annotations/train.json", "train", "annotations/valid.json", "valid"),
    "roboflow": ("train/_annotations.coco.json", "train", "valid/_annotations.coco.json", "valid"),
    "coco": ("annotations/instances_train2017.json", "train2017", "annotations/instances_val2017.json", "val2017"),
    "images inside": (
        "annotations/instances_train.json",
        "images/train",
        "annotations/instances_val.json",
        "images/val",
    ),
    "one folder": ("train.json", "images", "val.json", "images"),
    "root": ("train.json", ".", "val.json", "."),
}


def write_split(root: Path, annotations: str, images: str, name: str) -> None:
    records = [Record(f"{name}-é.png", 30, 40, (Instance((1, 1, 9, 9), 0, "cat"),))]
    write_images(root / images, records)
    (root / annotations).parent.mkdir(parents=True, exist_ok=True)
    write_coco(root / annotations, records, ["cat"])


def write_layout(root: Path, layout: str) -> None:
    train_annotations, train_images, validation_annotations, validation_images = LAYOUTS[layout]
    write_split(root, train_annotations, train_images, "a")
    write_split(root, validation_annotations, validation_images, "b")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_found(tmp_path: Path, layout: str) -> None:
    write_layout(tmp_path, layout)
    folder = CocoFolder(tmp_path)
    for data, name in ((folder.train(), "a"), (folder.validation(), "b")):
        assert open_dataset(data).load(0)[1].filename == f"{name}-é.png"


def test_names_of_images_may_hold_their_folder(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_split(tmp_path, f"annotations/{split}.json", ".", f"{split}/1")
    assert open_dataset(CocoFolder(tmp_path).train()).load(0)[1].filename == "train/1-é.png"


def test_the_images_are_found_though_the_first_is_missing(tmp_path: Path) -> None:
    records = [Record(f"{index}.png", 9, 9, ()) for index in range(3)]
    write_images(tmp_path / "images", records[1:])
    write_coco(tmp_path / "train.json", records, ["cat"])
    assert CocoFolder(tmp_path).train().image_root == tmp_path / "images"


def test_other_names_can_be_given(tmp_path: Path) -> None:
    write_split(tmp_path, "labels/mine.json", "photos/first", "a")
    folder = CocoFolder(tmp_path, train_annotations=Path("labels/mine.json"), train_images=Path("photos/first"))
    assert len(open_dataset(folder.train())) == 1
    with pytest.raises(InputError, match="has no annotations for validation"):
        folder.validation()


def test_what_is_missing_is_named_with_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        CocoFolder(tmp_path / "nowhere").train()
    with pytest.raises(InputError, match=r"looked at annotations/train\.json.*expected for example") as error:
        CocoFolder(tmp_path).train()
    assert str(tmp_path / "annotations" / "train.json") in error.value.remedy
    write_layout(tmp_path, "ours")
    (tmp_path / "train" / "a-é.png").unlink()
    with pytest.raises(InputError, match=r"train\.json lists 'a-é\.png'.*looked at train, images/train"):
        CocoFolder(tmp_path).train()


@pytest.mark.parametrize("content", ["", "{}", '{"images": []}'])
def test_a_file_that_lists_no_image_is_reported(tmp_path: Path, content: str) -> None:
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(InputError, match="lists no image"):
        CocoFolder(tmp_path).train()


def test_the_configuration_trains_and_validates_on_the_folder(tmp_path: Path) -> None:
    write_layout(tmp_path, "roboflow")
    config = read_config(CONFIG, TrainConfig, [f"data.root={tmp_path}", 'data.categories=["cat"]']).with_folder()
    assert (config.datasets[0].categories, config.datasets[0].annotations.parent.name) == (("cat",), "train")
    assert config.validate[0].annotations.parent.name == "valid"
    assert config.data is None
    assert config.with_folder() == config


def test_a_folder_stands_in_place_of_other_data(tmp_path: Path) -> None:
    write_layout(tmp_path, "ours")
    folder = CocoFolder(tmp_path)
    with pytest.raises(InputError, match="expected one of them"):
        TrainConfig(tmp_path, data=folder, datasets=(folder.train(),), steps=1).with_folder()
