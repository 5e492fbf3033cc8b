"""Image headers say what decoding would; file names stay in their folder."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import formats.images
from formats import InputError, image_size, list_images, read_images, safe_join
from formats.images import decode_image, decode_strips


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
    with pytest.raises(InputError, match="contains no images"):
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


@pytest.mark.parametrize("mode", ["1", "P", "L", "RGB", "RGBA", "LA", "I;16"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_reduced_picture_is_the_whole_one_in_fewer_pixels(tmp_path, monkeypatch, mode, orientation):
    ramp = np.add.outer(np.arange(60) * 2, np.arange(97)).astype(np.uint8)
    picture = Image.fromarray(ramp.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(ramp).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    whole = decode_image(tmp_path / "a.png")
    monkeypatch.setattr(formats.images, "_STRIP", 97 * 7)  # several strips, none of which the picture fills
    np.testing.assert_array_equal(decode_image(tmp_path / "a.png").pixels, whole.pixels)
    reduced = decode_image(tmp_path / "a.png", longest=24)
    assert (reduced.height, reduced.width) == whole.pixels.shape[:2] == image_size(tmp_path / "a.png")
    assert reduced.pixels.shape[:2] == ((25, 15) if orientation == 6 else (15, 25))
    if mode != "1":
        there = np.asarray(Image.fromarray(whole.pixels).resize(reduced.pixels.shape[1::-1], Image.Resampling.BOX))
        assert np.abs(there.astype(int) - reduced.pixels).max() <= 6


def test_a_jpeg_is_decoded_reduced_and_keeps_its_size(tmp_path):
    Image.new("RGB", (1000, 640), (9, 99, 200)).save(tmp_path / "a.jpg")
    decoded = decode_image(tmp_path / "a.jpg", longest=200)
    assert (decoded.height, decoded.width) == (640, 1000)
    assert 200 <= decoded.pixels.shape[1] < 400
    assert decode_image(tmp_path / "a.jpg", longest=200, whole_below=640_000).pixels.shape == (640, 1000, 3)


def test_the_limit_of_pixels_is_a_setting_and_its_message_says_so(tmp_path, monkeypatch):
    Image.new("1", (600, 500)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # put back at the end
    monkeypatch.setenv("GROUNDHOG_MAX_IMAGE_PIXELS", "100000")
    for reader in (image_size, decode_image):
        with pytest.raises(InputError, match=r"a.png: has .* pixels, GROUNDHOG_MAX_IMAGE_PIXELS is 100000; set that"):
            reader(tmp_path / "a.png")
    for lifted in ("300000", "0"):
        monkeypatch.setenv("GROUNDHOG_MAX_IMAGE_PIXELS", lifted)
        assert image_size(tmp_path / "a.png") == decode_image(tmp_path / "a.png").pixels.shape[:2] == (500, 600)
    monkeypatch.setenv("GROUNDHOG_MAX_IMAGE_PIXELS", "many")
    with pytest.raises(InputError, match="expected a number of pixels; 0 for no limit"):
        image_size(tmp_path / "a.png")


def test_large_pictures_are_decoded_one_after_the_other(tmp_path, monkeypatch):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    monkeypatch.setattr(formats.images, "DECODED_AT_ONCE", 1000)
    at_once: list[int] = []
    decode = formats.images._rgb_of

    def watched(image, factor):
        at_once.append(formats.images._decoding)
        time.sleep(0.01)
        return decode(image, factor)

    monkeypatch.setattr(formats.images, "_rgb_of", watched)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(decode_image, [tmp_path / "a.png"] * 8))
    assert at_once == [1200] * 8


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "largest"), [("P", 450), ("RGB", 950)])
def test_a_bomb_of_169_megapixels_takes_less_than_twice_its_pixels(tmp_path, mode, largest):
    """In MB, for a picture as a page shows it; Pillow keeps 1 byte a pixel of P, 4 of RGB."""
    Image.new(mode, (13_000, 13_000)).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 500_000
    program = (
        "import sys; from formats.images import decode_image; decode_image(sys.argv[1], 2666);"
        "print(int(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0]) // 1024)"
    )
    answer = subprocess.run([sys.executable, "-c", program, tmp_path / "a.png"], capture_output=True, text=True)
    assert int(answer.stdout) < largest


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_among_images_is_not_an_image_and_is_not_opened(tmp_path: Path) -> None:
    for name in ("pipe.jpg", "pipe"):
        os.mkfifo(tmp_path / name)
    assert list_images(tmp_path) == ["pipe.jpg"]
    for read in (image_size, decode_image, lambda path: decode_strips(path, 8, lambda *_: None)):
        with pytest.raises(InputError, match=r"pipe\.jpg: is not a file; expected an image file"):
            read(tmp_path / "pipe.jpg")
