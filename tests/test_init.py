"""`groundhog init`: a configuration that is valid as it is written, is served, and is never written over."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.cli.command import main
from flows.orchestration.deployments import configs
from flows.self_training.config import CaptionedImages, ImageFolder, read_self_train
from flows.self_training.init import init
from formats.io.errors import InputError
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
    assert "is there already" in capsys.readouterr().err


def test_captions_and_published_weights(folder: Path) -> None:
    Path("captions.csv").write_text("filename,caption\nimage-000.png,a cat\n")
    hub = "openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_v3det"
    config = read_self_train(init("zoo", folder, captions="captions.csv", weights=hub))
    assert isinstance(config.data, CaptionedImages)
    assert config.start.source == hub
    assert config.train.batch_size * config.train.accumulate == 32
    assert "backbone" in config.train.frozen


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("a/b", {"categories": ["cat"]}, "letters, digits"),
        ("zoo", {"categories": ["cat", "cat"]}, "twice"),
        ("zoo", {}, "expected one of the two"),
        ("zoo", {"captions": "none.csv"}, "no such file"),
        ("zoo", {"categories": ["cat"], "weights": "none.pth"}, "no such file"),
    ],
)
def test_what_could_not_work_is_refused(folder: Path, name: str, settings: dict, told: str) -> None:
    with pytest.raises(InputError, match=told):
        init(name, folder, **settings)
    assert not Path("configs").exists()


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images there"):
        init("zoo", tmp_path / "none", categories=["cat"])
