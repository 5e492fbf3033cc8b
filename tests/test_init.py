"""`groundhog init`: a configuration that is valid as it is written, is served, and is never written over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.cli.command import main
from flows.orchestration.deployments import configs
from flows.self_training.config import CaptionedImages, ImageFolder, read_self_train
from flows.self_training.init import init, next_steps_after_init
from flows.self_training.source import prepare
from formats.io.errors import InputError
from formats.io.toml_config import read_config
from formats.odvg import read_odvg
from grounding_model.checkpoints.locations import EMBEDDED
from grounding_model.training.config import TrainConfig
from tests.pipeline_cases import make_images


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / 'my "photos"', 2)
    return tmp_path / 'my "photos"'


def test_images_with_categories(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["init", "zoo", "--images", str(folder), "--categories", "red panda, cat"]) == 0
    config = read_self_train("configs/self_train_zoo.toml")
    assert isinstance(config.data, ImageFolder)
    assert (config.data.images, config.data.categories) == (folder, ("red panda", "cat"))
    assert configs() == {"zoo": Path("configs/self_train_zoo.toml")}
    assert "groundhog self-train configs/self_train_zoo.toml" in capsys.readouterr().out
    assert main(["init", "zoo", "--images", str(folder), "--categories", "dog"]) == 2
    assert "already exists" in capsys.readouterr().err


def test_captions_and_published_weights(folder: Path) -> None:
    Path("captions.csv").write_text("filename,caption\nimage-000.png,a cat\n")
    hub = "openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_v3det"
    config = read_self_train(init("zoo", folder, captions="captions.csv", weights=hub))
    assert isinstance(config.data, CaptionedImages)
    assert config.start.source == hub
    assert config.train.batch_size * config.train.accumulate == 32
    assert "backbone" in config.train.frozen


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("a/b", {"categories": ["cat"]}, "letters, digits"),
        ("zoo", {"categories": ["cat", "cat"]}, "twice"),
        ("zoo", {}, "expected categories, captions or labels"),
        ("zoo", {"captions": "none.csv"}, "no such file"),
        ("zoo", {"categories": ["cat"], "weights": "none.pth"}, "no such checkpoint"),
        ("zoo", {"categories": ["cat"], "weights": "models/mine"}, "no such checkpoint"),
        ("zoo", {"categories": ["cat"], "weights": "glyph-tyny"}, "no such checkpoint; did you mean"),
    ],
)
def test_what_could_not_work_is_refused(folder: Path, name: str, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        init(name, folder, **settings)
    assert not Path("configs").exists()


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="contains no images"):
        init("zoo", tmp_path / "none", categories=["cat"])


def labelled(folder: Path) -> Path:
    """A file of labels for one of the two images."""
    box = {"bbox": [1, 1, 8, 8], "label": 0, "category": "red panda"}
    name = sorted(path.name for path in folder.iterdir())[0]
    line = {"filename": name, "height": 30, "width": 40, "detection": {"instances": [box]}}
    Path("panda_od.json").write_text(json.dumps(line) + "\n")
    Path("panda_label_map.json").write_text('{"0": "red panda"}')
    return Path("panda_od.json")


def test_labels_of_some_images_are_learnt_from_and_the_rest_is_labelled(folder: Path) -> None:
    config = read_self_train(init("zoo", folder, labels=labelled(folder)))
    assert isinstance(config.data, ImageFolder)
    assert config.data.categories == ("red panda",)
    assert config.start.source == "photo-tiny"
    assert config.train.frozen == ("backbone",)
    assert config.labelled is not None
    assert config.labelled.held_back == 0.0  # nothing of a single image
    source = prepare(config)
    assert [record.filename for record in read_odvg(source.annotations)] == ["image-001.png"]


def line_of(name: str, height: int = 30, **more: object) -> str:
    return json.dumps({"filename": name, "height": height, "width": 40, **more})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["labelled", "labelled"], "lists 1 image more than once, such as image-000.png"),
        (["labelled", "other"], "labels every image of the folder"),
        (["other size"], "says that image-001.png is 40x64, but it is 40x30"),
        (["ignored"], "contains no boxes"),
        (["caption"], "has captions; expected boxes with categories"),
    ],
)
def test_labels_that_would_be_lost_or_leak_are_refused(folder: Path, lines: list[str], message: str) -> None:
    box = {"bbox": [1, 1, 8, 8], "label": 0, "category": "red panda"}
    known = {
        "labelled": labelled(folder).read_text().strip(),
        "other": line_of("image-001.png", detection={"instances": [box]}),
        "other size": line_of("image-001.png", 64, detection={"instances": [box]}),
        "ignored": line_of("image-001.png", detection={"instances": [box | {"ignore": True}]}),
        "caption": line_of("image-001.png", grounding={"caption": "a panda", "regions": []}),
    }
    Path("panda_od.json").write_text("".join(f"{known[line]}\n" for line in lines))
    with pytest.raises(InputError, match=message):
        init("zoo", folder, labels=Path("panda_od.json"))
    assert not Path("configs").exists()
    assert not list(Path("data").rglob("*.json"))


def test_lines_without_labels_are_labelled_like_the_others_and_what_is_left_out_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = labelled(folder)
    outside = json.loads(file.read_text())
    outside["detection"]["instances"][0]["bbox"] = [1, 1, 50, 8]
    file.write_text(f"{json.dumps(outside)}\n{line_of('image-001.png')}\n")
    config = read_self_train(init("zoo", folder, labels=file))
    assert "1 line without labels left out, to be labelled like the others" in caplog.text
    assert "1 box leaves the image" in caplog.text
    assert [record.filename for record in read_odvg(prepare(config).annotations)] == ["image-001.png"]


def test_labels_are_learnt_from_as_the_measured_recipe_does(folder: Path) -> None:
    config = read_self_train(init("zoo", folder, labels=labelled(folder)))
    measured = read_config(Path(__file__).parents[1] / "configs" / "finetune_raccoon_photos.toml", TrainConfig)
    for part in ("steps", "batch_size", "moving_average", "precision", "frozen", "losses", "augment", "optimizer"):
        assert getattr(config.train, part) == getattr(measured, part)
    assert config.rounds == 0


def test_settings_follow_from_the_model_that_the_weights_are(folder: Path) -> None:
    for number, (name, steps) in enumerate({"glyph-tiny": 150, "photo-tiny": 480}.items()):
        renamed = Path(f"{number}.safetensors")
        renamed.write_bytes(EMBEDDED[name].read_bytes())
        config = read_self_train(init(f"zoo{number}", folder, categories=["cat"], weights=str(renamed)))
        assert config.train.steps == steps


def test_the_extra_that_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = init("zoo", folder, labels=labelled(folder))
    assert "pip install" not in next_steps_after_init(path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "\n  pip install 'groundhog[photos]'\n  groundhog self-train" in next_steps_after_init(path)


def test_the_command_to_look_at_labels_names_the_images_as_the_user_did(folder: Path) -> None:
    path = init("zoo", folder.name, categories=["cat"])
    assert f"groundhog browse data/zoo zoo_od_v1.json '{folder.name}' -m" in next_steps_after_init(path)
    Path("data/zoo", folder.name).mkdir(parents=True)  # another folder, which the command would find first
    assert f"groundhog browse data/zoo zoo_od_v1.json '{folder.absolute()}' -m" in next_steps_after_init(path)


@pytest.mark.parametrize("given", ["yolo", "yolo/labels"])
def test_images_without_a_yolo_file_are_not_yet_labelled(folder: Path, given: str) -> None:
    (folder.parent / "yolo/labels").mkdir(parents=True)
    image = next(folder.iterdir())
    (folder.parent / "yolo/labels" / f"{image.stem}.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    (folder.parent / "yolo/data.yaml").write_text("names: [cat]\n")
    config = read_self_train(init("zoo", folder, labels=folder.parent / given))
    assert config.labelled is not None
    assert isinstance(config.data, ImageFolder)
    assert [record.filename for record in read_odvg(config.labelled.annotations)] == [image.name]
    assert config.data.categories == ("cat",)


def test_categories_name_the_classes_of_yolo_files_without_a_data_yaml(folder: Path) -> None:
    labels = folder.parent / "yolo"
    labels.mkdir()
    (labels / f"{next(folder.iterdir()).stem}.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    with pytest.raises(InputError, match=r"has no data\.yaml"):
        init("zoo", folder, labels=labels)
    config = read_self_train(init("zoo", folder, labels=labels, categories=("cat",)))
    assert isinstance(config.data, ImageFolder)
    assert config.data.categories == ("cat",)
    (labels / "data.yaml").write_text("names: [cat]\n")
    with pytest.raises(InputError, match="leave them out"):
        init("farm", folder, labels=labels, categories=("dog",))


def test_categories_do_not_rename_what_is_labelled(folder: Path) -> None:
    with pytest.raises(InputError, match="leave them out"):
        init("zoo", folder, labels=labelled(folder), categories=("dog",))


def test_labels_of_images_that_are_not_there_are_refused(folder: Path, tmp_path: Path) -> None:
    labels = labelled(folder)
    make_images(tmp_path / "others", 1)
    (tmp_path / "others" / "image-000.png").rename(tmp_path / "others" / "x.png")
    with pytest.raises(InputError, match=r"does not contain 1 of 1 image of .*, such as image-000.png"):
        init("zoo", tmp_path / "others", labels=labels)
    init("zoo", folder, labels=labels)  # what was refused is not in the way
