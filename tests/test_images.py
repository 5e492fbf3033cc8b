"""Image headers say what decoding would; file names stay in their folder."""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from formats import InputError, image_size, list_images, read_images, safe_join


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_the_size_is_that_of_the_image_after_its_exif_turn(tmp_path, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path, exif=exif)
    with Image.open(path) as image:
        decoded = np.asarray(ImageOps.exif_transpose(image))
    assert image_size(path) == decoded.shape[:2]
    assert image_size(path) == ((30, 20) if orientation in (5, 6, 7, 8) else (20, 30))


@pytest.mark.parametrize("suffix", ["bmp", "gif", "ppm", "jp2", "tga", "qoi", "pcx"])
def test_formats_without_exif_have_a_size_too(tmp_path, suffix):
    Image.new("RGB", (30, 20)).save(tmp_path / f"a.{suffix}")
    assert image_size(tmp_path / f"a.{suffix}") == (20, 30)


def test_no_pixel_is_decoded(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    assert image_size(path) == (200, 300)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"a text, not a picture", "cannot be read as an image"), (None, "does not exist")],
)
def test_what_is_no_image_is_named(tmp_path, content, message):
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        image_size(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kept", [2, 4, 10, 24, 30])
@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif", "gif"])
def test_a_header_that_breaks_off_is_an_input_error(tmp_path, suffix, kept):
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (30, 20)).save(path)
    path.write_bytes(path.read_bytes()[:kept])
    try:
        assert image_size(path) == (20, 30)  # some formats say their size early
    except InputError as error:
        assert "cannot be read" in str(error)  # noqa: PT017


def test_images_are_listed_below_the_folder_in_one_order(tmp_path):
    for name in ("b.JPG", "a/z.png", "a/b/c.webp", ".hidden.jpg", ".cache/d.jpg", "notes.txt", "a.jpeg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list_images(tmp_path) == ["a.jpeg", "a/b/c.webp", "a/z.png", "b.JPG"]


def test_what_opens_is_an_image_and_the_rest_is_said(tmp_path, caplog):
    for name in ("a.AVIF", "b.jp2", "c.tga", "d.webp"):
        Image.new("RGB", (3, 2)).save(tmp_path / name)
    Image.new("RGB", (3, 2)).save(tmp_path / "e", "PNG")
    for name in ("README", "f.dng", "g.CR2", "labels.txt", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"no picture")
    assert list_images(tmp_path) == ["a.AVIF", "b.jp2", "c.tga", "d.webp", "e"]
    assert caplog.messages == [f"{tmp_path}: 3 files are not read as images: 1 .cr2, 1 .dng, 1 without suffix"]
    list_images(tmp_path)
    assert len(caplog.messages) == 1


def test_heic_needs_its_package(tmp_path, caplog):
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    read = list_images(tmp_path)
    assert read == ([] if find_spec("pillow_heif") is None else ["IMG_1.HEIC"])
    assert read or "1 .heic; groundhog[heic] reads HEIC" in caplog.text


def test_linked_folders_are_followed_and_circles_end(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/a.jpg").touch()
    (tmp_path / "root/link").symlink_to(tmp_path / "disk")
    (tmp_path / "root/circle").symlink_to(tmp_path / "root")
    assert list_images(tmp_path / "root") == ["link/a.jpg"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.jpg").touch()
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)  # root, who runs tests in containers, may read everything
    with pytest.raises(InputError, match=r"locked: cannot be listed \(Permission denied\)"):
        list_images(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: does not exist"):
        list_images(tmp_path / "nowhere")


def test_a_folder_without_images_is_not_read_as_a_data_set_without_lines(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(InputError, match="no images there"):
        list(read_images(tmp_path))


@pytest.mark.parametrize("name", ["a.jpg", "a/b.jpg", "./a.jpg", "..a.jpg", "a..b/c.jpg", "größe 1.jpg"])
def test_names_inside_the_folder_pass(tmp_path, name):
    assert safe_join(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name",
    ["", " ", "../a.jpg", "a/../../b.jpg", "a/..", "/etc/passwd", "C:\\a.jpg", "\\\\host\\a", "..\\a.jpg", "a\0.jpg"],
)
def test_names_that_could_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="file name"):
        safe_join(tmp_path, name)
