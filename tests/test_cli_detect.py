"""`groundhog detect`: the reference's boxes, scores, labels and names, written for every mode of the command line."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flows.cli.command import main
from flows.detection import detect as detection
from flows.detection.detect import ListedImage, find_images
from flows.detection.download import fetch
from formats.io.errors import InputError
from formats.record import Instance, Record
from grounding_model.inputs.prompt import clean_name
from tests.paths import GOLDEN
from tests.pipeline_cases import make_images

A = GOLDEN / "a"
MODEL = ["--weights", str(A / "checkpoint.pth"), "--text-encoder", str(A / "bert"), "--device", "cpu"]
AS_REFERENCE = [*MODEL, "--scale", "160,266", "--max-per-img", "40", "--pred-score-thr", "0"]
CASES = json.loads((A / "cases.json").read_text())
# What the command line can say. It takes one prompt for all images, and no enhanced names, as the reference's has none.
SPOKEN = [name for name in CASES if name.split("_")[0] in ("od", "pg", "rec", "ner", "chunk5")]
SPOKEN = [name for name in SPOKEN if "enhanced" not in name and "norescale" not in name and name != "ner_img2"]


def arguments_of(name: str) -> list[str]:
    """A case of the reference as its user would type it."""
    (item,) = CASES[name]["items"]
    text = item["text"] if isinstance(item["text"], str) else ". ".join(item["text"])
    arguments = [str(A / f"img{item['img']}.png"), "--texts", text]
    if item["custom_entities"] or not isinstance(item["text"], str):
        arguments.append("-c")
    if item.get("tokens_positive") is not None:
        arguments += ["--tokens-positive", json.dumps(item["tokens_positive"])]
    if CASES[name]["chunked_size"] > 0:
        arguments += ["--chunked-size", str(CASES[name]["chunked_size"])]
    return arguments


def cleaned(name: str) -> str:
    """The reference answers with cleaned names, blanks and its own full stop at their ends; ours with the caller's."""
    return clean_name(name).strip(" .")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tagged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noun phrases as the reference found them, without NLTK's data."""
    spans = {
        "There is two cat and a remote in the picture.": [(13, 16), (21, 29), (33, 44)],
        "two men are standing near a black horse with a red hat": [(4, 7), (26, 39), (45, 54)],
    }
    monkeypatch.setattr("grounding_model.inputs.prompt.noun_phrases", spans.__getitem__)  # where it is looked up


@pytest.mark.usefixtures("tagged")
@pytest.mark.parametrize("name", SPOKEN)
def test_every_mode_writes_what_the_reference_finds(name: str, tmp_path: Path) -> None:
    assert main(["detect", *arguments_of(name), *AS_REFERENCE, "--no-save-vis", "--out-dir", str(tmp_path)]) == 0
    (item,) = CASES[name]["items"]
    found = json.loads((tmp_path / "preds" / f"img{item['img']}.json").read_text())
    reference = np.load(A / "predictions.npz")
    scores = reference[f"{name}/0/scores"]
    order = np.argsort(-scores, kind="stable")[:40]  # in chunks the reference gives 40 boxes each, ours 40 in all
    np.testing.assert_allclose(found["scores"], scores[order], atol=1e-5)
    rows = list(zip(found["scores"], found["labels"], found["label_names"], found["bboxes"], strict=True))
    names = CASES[name]["results"][0]["label_names"]
    for place in order:
        score, label, box = (reference[f"{name}/0/{what}"][place] for what in ("scores", "labels", "bboxes"))
        if score > scores[order[-1]] + 1e-6:  # of those equal to the last one, which is kept is chance
            assert any(
                other == label
                and cleaned(word) == cleaned(names[place])
                and abs(near - score) < 1e-5
                and np.abs(box - found_box).max() < 2e-3
                for near, other, word, found_box in rows
            ), (score, label, names[place], box)


# Which images, and under which names


def save_picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), "orange").save(path, format="PNG")
    return path


def test_images_are_found_in_folders_and_by_pattern(tmp_path: Path) -> None:
    names = make_images(tmp_path / "images", 2)
    by_folder = find_images([str(tmp_path / "images")])
    by_pattern = find_images([str(tmp_path / "*" / "*.png")])
    paths = [tmp_path / "images" / name for name in names]
    assert by_folder == by_pattern == [ListedImage(path, path.name, f"{path.stem}.json") for path in paths]
    assert find_images([str(tmp_path / "images"), *map(str, paths)]) == by_folder, "every image once"


@pytest.mark.parametrize(
    ("files", "pictures", "predictions"),
    [
        (["a/x.png", "b/x.png"], ["a/x.png", "b/x.png"], ["a/x", "b/x"]),
        (["a/x.png", "a/x.jpg"], ["x.png", "x.jpg"], ["x.png", "x.jpg"]),
        (["a/x.png", "b/x.jpg", "b/y.png"], ["x.png", "x.jpg", "y.png"], ["x.png", "x.jpg", "y"]),
        (["a/x.jpg", "a/x.png", "a/x.jpg.png"], ["x.jpg", "x.png", "x.jpg.png"], ["x.jpg", "x.png", "x.jpg.png"]),
        (["a/photo", "a/x.weird"], ["photo.png", "x.weird.png"], ["photo", "x"]),
    ],
)
def test_no_two_images_write_one_file(
    files: list[str], pictures: list[str], predictions: list[str], tmp_path: Path
) -> None:
    found = find_images([str(save_picture(tmp_path / file)) for file in files])
    assert [image.picture for image in found] == pictures
    assert [image.prediction for image in found] == [f"{name}.json" for name in predictions]


def test_what_holds_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    for source in ("missing.png", "empty", "empty/*"):
        with pytest.raises(InputError) as refused:
            find_images([str(tmp_path / source)])
        assert str(refused.value).startswith(str(tmp_path / source))


def test_the_images_of_a_folder_are_drawn_and_written_below_the_output(tmp_path: Path, capsys) -> None:
    for name in ("x.png", "inner/x.png", "inner/noisy name.jpg", "photo.gif"):
        save_picture(tmp_path / "in" / name)
    (tmp_path / "in" / "broken.jpg").write_text("no image")
    out = tmp_path / "out"
    arguments = [str(tmp_path / "in"), "--texts", "cat. red apple", "-c", "--batch-size", "3", "--out-dir", str(out)]
    assert main(["detect", *arguments, *AS_REFERENCE, "--all-scores", "--palette", "coco"]) == 0
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    stems = ["inner/noisy name", "inner/x", "photo", "x"]
    assert [name for name in written if name.startswith("preds")] == [f"preds/{stem}.json" for stem in stems]
    pictures = [name for name in written if name.startswith("vis")]
    assert [Image.open(out / name).format for name in pictures] == ["JPEG", "PNG", "GIF", "PNG"]
    printed = capsys.readouterr()
    assert printed.out == f"160 boxes in 4 images: {out}\n"
    assert printed.err.count("broken.jpg") == 1
    prediction = json.loads((out / "preds" / "x.json").read_text())
    assert prediction["categories"] == ["cat", "red apple"]
    for score, label, row in zip(prediction["scores"], prediction["labels"], prediction["all_scores"], strict=True):
        assert row[label] == pytest.approx(score)


def test_a_picture_that_cannot_be_saved_leaves_the_rest(tmp_path: Path, capsys, monkeypatch) -> None:
    for name in ("a.webp", "b.png"):
        save_picture(tmp_path / "in" / name)

    def too_large(*_: object) -> None:
        raise ValueError("encoding error 5: Image size exceeds WebP limit of 16383 pixels")

    Image.init()  # or the plugin would put its own back
    monkeypatch.setitem(Image.SAVE, "WEBP", too_large)
    out = tmp_path / "out"
    assert main(["detect", str(tmp_path / "in"), "--texts", "cat", "-c", *MODEL, "--out-dir", str(out)]) == 0
    assert [path.name for path in (out / "vis").iterdir()] == ["b.png"]
    assert sorted(path.name for path in (out / "preds").iterdir()) == ["a.json", "b.json"]
    assert "cannot be saved as WEBP" in capsys.readouterr().err


def test_nothing_is_labelled_for_a_palette_or_device_that_is_not_there(tmp_path: Path, capsys) -> None:
    picture = str(save_picture(tmp_path / "x.png"))
    for wrong, said in ((["--palette", "rainbow"], "'rainbow' is not a colour"), (["--device", "abacus"], "abacus")):
        arguments = [picture, "--texts", "cat", "-c", *MODEL, *wrong, "--out-dir", str(tmp_path / "out")]
        assert main(["detect", *arguments]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Addresses


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address under which this machine serves it."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=partial(server.serve_forever, 0.01), daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_urls_are_downloaded_only_with_the_option(served: tuple[Path, str], tmp_path: Path, capsys) -> None:
    folder, address = served
    save_picture(folder / "a" / "x.png")
    save_picture(folder / "b" / "x.png")
    sources = [f"{address}/a/x.png?size=large", (folder / "b" / "x.png").as_uri()]
    arguments = ["detect", *sources, "--texts", "cat", "-c", *AS_REFERENCE, "--out-dir", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "expected --fetch" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--fetch"]) == 0
    assert len(list((tmp_path / "out").rglob("x.json"))) == 2


def test_what_cannot_be_fetched_is_named_and_leaves_nothing(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    (folder / "big.png").write_bytes(bytes(200_000))
    downloads = tmp_path / "downloads"
    for url, said in (
        (f"{address}/missing.png", "404"),
        (f"{address}/big.png", "larger than 100000 bytes"),
        ("http://127.0.0.1:1/x.png", "cannot be downloaded"),
        ("ftp://127.0.0.1/x.png", "ftp:// is not supported"),
    ):
        with pytest.raises(InputError, match=said):
            fetch(url, downloads, max_bytes=100_000)
    assert not downloads.exists() or not list(downloads.iterdir())


@pytest.mark.parametrize(
    ("path", "name"), [("/a/x%20y.png", "x y.png"), ("/a/..%2f..%2fx.png", "x.png"), ("/", "image"), ("/..", "image")]
)
def test_a_fetched_file_stays_in_its_folder(path: str, name: str, tmp_path: Path, monkeypatch) -> None:
    save_picture(tmp_path / "source.png")
    monkeypatch.setattr("flows.detection.download.urlopen", lambda *_, **__: (tmp_path / "source.png").open("rb"))
    assert fetch(f"http://example.org{path}", tmp_path / "in") == tmp_path / "in" / name


def test_a_huge_picture_is_drawn_on_a_reduced_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "DRAWN_PIXELS", 10_000)
    Image.new("RGB", (400, 100), "green").save(tmp_path / "wide.png")
    Image.new("RGB", (100, 90), "green").save(tmp_path / "small.png")
    found = Instance((0.0, 0.0, 200.0, 100.0), 0, "cat", 0.9)
    for name, size in (("wide.png", (400, 100)), ("small.png", (100, 90))):
        record = Record(name, size[1], size[0], (found,))
        detection._draw(tmp_path / name, record, tmp_path / "drawn" / name, "category")
    sizes = {path.name: Image.open(path).size for path in (tmp_path / "drawn").iterdir()}
    width, height = sizes["wide.png"]
    assert width % 200 == 0  # half of 400, which may be enlarged again to be legible
    assert width % 400 != 0
    assert width == 4 * height
    assert sizes["small.png"][0] % 100 == 0


def test_no_drawing_replaces_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = save_picture(tmp_path / "out" / "vis" / "a.png")
    before = picture.read_bytes()
    assert main(["detect", str(picture.parent), "--texts", "cat.", "-c", "--out-dir", str(tmp_path / "out")]) == 2
    assert "is one of the images, and its drawing would replace it" in capsys.readouterr().err
    assert picture.read_bytes() == before
