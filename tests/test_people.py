"""What somebody meets who tries things out: names where one looks for them, values that show themselves, messages in
the language of the caller."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import browse
import flows
from flows import OdvgData, bootstrap_od, merge, plan, train
from flows.cli.command import main
from formats import write_odvg
from formats.coco import write_coco
from formats.convert import convert
from formats.io.errors import InputError
from formats.io.notebook import html_table
from formats.io.plurals import first_lines, first_of, many, singular
from formats.omissions import Omissions, describe_omissions
from formats.record import Instance, Record
from grounding_model import load_detector
from grounding_model.glyphs import draw_scene

RECORD = Record("a.png", 40, 60, (Instance((1.0, 2.0, 30.0, 20.0), 0, "<cat>", 0.75),))


def make_images(folder: Path, count: int = 1) -> Path:
    folder.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", (60, 40)).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("name", flows.__all__)
def test_every_public_name_of_flows_can_be_imported(name: str) -> None:
    assert getattr(flows, name).__name__ == name


def test_a_plan_takes_what_was_bootstrapped(tmp_path: Path) -> None:
    made = bootstrap_od(make_images(tmp_path / "my photos"), ["cat"], tmp_path / "x_od.json")
    manifest = plan(made, work_dir=tmp_path / "work")
    assert (Path(manifest.image_root), manifest.label_map) == (tmp_path / "my photos", {"0": "cat"})
    with pytest.raises(InputError, match="image_root: is missing; expected the folder"):
        plan(made.annotations)


def test_a_mixture_takes_a_list_and_says_what_is_no_data_set(tmp_path: Path) -> None:
    made = bootstrap_od(make_images(tmp_path / "images"), ["cat"], tmp_path / "x_od.json")
    data = OdvgData(made.annotations, made.images)
    assert merge([data]) == merge(data) == (data,)
    assert merge([data, data]) == (data, data)
    with pytest.raises(InputError, match=r"is not a data set; expected OdvgData"):
        merge(made)  # type: ignore[arg-type]


def test_training_reads_a_file_as_the_loop_does(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(f'work_dir = "{tmp_path}/run"\nstep = 3\n')
    with pytest.raises(InputError, match=r"run\.toml.*did you mean 'steps'"):
        train(path)


def test_a_record_shows_its_boxes_and_is_drawn_on_its_picture(tmp_path: Path) -> None:
    shown = RECORD._repr_html_()
    assert "&lt;cat&gt;" in shown
    assert "0.75" in shown
    assert "1 box<" in shown
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    for image in (np.zeros((40, 60, 3), np.uint8), tmp_path / "a.png", str(tmp_path)):
        drawn = np.asarray(browse.draw_image(RECORD, image))
        assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 1


def test_a_long_table_says_how_much_it_leaves_out() -> None:
    assert "… and 80 more" in html_table("t", ("n",), [(number,) for number in range(100)])


def test_a_detector_says_what_it_is() -> None:
    detector = load_detector("glyph-tiny", device="cpu")
    assert repr(detector) == "Detector(parameters=4.7M, scale=(160, 320), device=cpu, dtype=float32)"
    assert "<table>" in detector._repr_html_()


@pytest.mark.parametrize(
    ("weights", "meant"),
    [("glph-tiny", "'glyph-tiny'"), ("IDEA-Research/grounding-dino-tny", "'IDEA-Research/grounding-dino-tiny'")],
)
def test_misspelt_weights_are_recognized(weights: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"no such checkpoint; did you mean {meant}"):
        load_detector(weights)


def test_a_misspelt_file_of_weights_is_recognized(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match=r"did you mean 'model\.safetensors'"):
        load_detector(tmp_path / "model.safetensor")


class TestMessagesInTheCallersLanguage:
    def test_what_would_be_lost(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source, out = tmp_path / "coco.json", tmp_path / "x_od.json"
        write_coco(source, [Record("a.png", 9, 9, (Instance((0.0, 0.0, 5.0, 5.0), 0, "cat"),))], ["cat"])
        convert("coco", "odvg", source, out)
        with pytest.raises(InputError, match="expected another name, or overwrite=True"):
            convert("coco", "odvg", source, out, overwrite=False)
        assert main(["convert", "coco", "odvg", str(source), str(out)]) == 2
        assert capsys.readouterr().err.endswith("expected another name, or --overwrite\n")

    def test_a_download(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["detect", "https://example.org/a.jpg", "--texts", "cat.", "-c"]) == 2
        assert "expected --fetch, or a file" in capsys.readouterr().err

    def test_a_setting(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        made = bootstrap_od(make_images(tmp_path / "images"), ["cat"], tmp_path / "x_od.json")
        with pytest.raises(InputError, match=r"^shard_size: is 0"):
            plan(made, shard_size=0)
        assert main(["infer", str(made.annotations), str(made.images), "w", "--shard-size", "0"]) == 2
        assert capsys.readouterr().err.startswith("groundhog: --shard-size: is 0")


def test_printed_commands_can_be_copied_where_a_folder_has_spaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "my photos")
    assert main(["init", "mine", "--images", "my photos", "--categories", "cat", "--config-dir", "my configs"]) == 0
    lines = [shlex.split(line, comments=True) for line in capsys.readouterr().out.splitlines() if "groundhog " in line]
    commands = {words[1]: words for words in lines if words[:1] == ["groundhog"]}
    assert commands["self-train"][2] == "my configs/self_train_mine.toml"
    assert "my photos" in commands["browse"]
    bootstrap_od("my photos", ["cat"], "x_od.json")
    assert main(["infer", "x_od.json", "my photos", "my work"]) == 0
    assert shlex.split(capsys.readouterr().out)[-1] == "my work"


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (1, "category", "1 category"),
        (0, "category", "0 categories"),
        (2, "box", "2 boxes"),
        (3, "data set", "3 data sets"),
    ],
)
def test_nouns_are_counted(count: int, noun: str, text: str) -> None:
    assert many(count, noun) == text


def test_a_list_in_a_message_ends_with_the_number_that_it_leaves_out() -> None:
    assert first_of([], 2) == ""
    assert first_of(iter("ab"), 2) == "a, b"
    assert first_of("abcde", 2) == "a, b and 3 more"
    assert first_lines("ab", 2) == ["  a", "  b"]
    assert first_lines(iter("abcde"), 2) == ["  a", "  b", "  and 3 more"]


def test_what_is_empty_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "x_od.json"
    empty.touch()
    assert main(["convert", "odvg", "coco", str(empty), str(tmp_path / "out.json")]) == 2
    assert f"{empty}: contains no image to convert" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
    assert main(["check", str(empty)]) == 1
    assert f"{empty}: has no image" in capsys.readouterr().out


def test_a_record_draws_itself_on_a_path_an_array_or_a_picture(tmp_path: Path) -> None:
    picture = Image.new("RGB", (64, 48), (10, 20, 30))
    picture.save(tmp_path / "a.png")
    record = Record("a.png", 48, 64, (Instance((8, 8, 40, 40), 0, "cat"),))
    drawn = [record.draw(given) for given in (picture, np.asarray(picture), tmp_path / "a.png", tmp_path)]
    assert all(np.array_equal(np.asarray(each), np.asarray(drawn[0])) for each in drawn)
    assert not np.array_equal(np.asarray(drawn[0].resize(picture.size)), np.asarray(picture))


def test_pictures_that_are_open_already_are_predicted_and_paths_may_be_text(tmp_path: Path) -> None:
    picture = Image.fromarray(draw_scene("cats", seed=0, index=0)[0])
    detector = load_detector("glyph-tiny")
    (opened,), (pixels,) = (detector.predict([given], ["cat"]) for given in (picture, np.asarray(picture)))
    assert opened == pixels
    write_odvg(tmp_path / "x_od.json", [Record("a.png", 48, 64, ())])
    (data,) = merge([OdvgData(str(tmp_path / "x_od.json"), str(tmp_path))])
    assert data.annotations == tmp_path / "x_od.json"


@pytest.mark.parametrize("noun", ["box", "category", "image", "class", "batch", "answer"])
def test_a_plural_has_its_singular(noun):
    assert singular(many(2, noun).removeprefix("2 ")) == noun


def test_what_is_left_out_once_is_said_in_the_singular():
    left_out = Omissions(
        {"boxes with several labels, now one box per label": 1, "keypoints of annotations": 1, "scores": 2}
    )
    said = describe_omissions(left_out).splitlines()
    assert said == ["  1 box with several labels, now one box per label", "  1 keypoints of annotations", "  2 scores"]
