"""Images: decoded, resized and padded as the reference does; what cannot be decoded is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from formats.io.errors import InputError
from grounding_model.inputs import image as inputs
from grounding_model.inputs.image import read_image, read_resized, resize_for_test, size_for_test
from grounding_model.inputs.image_batch import MEAN, STD, collate_images, collate_pixels
from tests.paths import GOLDEN

SIZES = json.loads((GOLDEN / "resize_sizes.json").read_text())
ORIENTATION = 0x0112  # the EXIF tag


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (12, 18, 3), dtype=np.uint8)


def test_every_size_is_cut_as_in_the_reference():
    for case in SIZES:
        assert list(size_for_test(case["h"], case["w"])) == case["fix_scale_resize_hw"]


def test_the_order_of_the_scale_does_not_matter_and_no_side_vanishes():
    assert size_for_test(480, 640, (1333, 800)) == size_for_test(480, 640, (800, 1333))
    assert size_for_test(1, 5000) == (1, 1333)


def test_golden_pictures_have_the_size_of_the_reference():
    metas = json.loads((GOLDEN / "a" / "img_metas.json").read_text())
    for index in range(3):
        image = read_image(GOLDEN / "a" / f"img{index}.png")
        assert list(image.shape[:2]) == metas[f"single_{index}"]["ori_shape"]
        assert list(resize_for_test(image, (160, 266)).shape[:2]) == metas[f"single_{index}"]["img_shape"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_turn_is_applied(orientation, picture, tmp_path):
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), turns[orientation](picture))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "I;16", "LA", "PA"])
def test_every_kind_of_file_becomes_rgb(mode, picture, tmp_path):
    image = Image.fromarray(picture)
    if mode == "I;16":
        image = Image.fromarray(picture[..., 0].astype(np.uint16))
    elif mode == "PA":
        image = image.convert("P").convert("PA")
    elif mode != "RGB":
        image = image.convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "PA", "I;16") else "a.png")
    image.save(path)
    decoded = read_image(path)
    assert decoded.shape == (12, 18, 3)
    assert decoded.dtype == np.uint8
    if mode == "L":
        np.testing.assert_array_equal(decoded, np.asarray(image)[..., None].repeat(3, axis=2))
    if mode == "RGBA":
        np.testing.assert_array_equal(decoded, picture)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_become_8_in_proportion(suffix, tmp_path):
    grey = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / f"a.{suffix}")
    assert read_image(tmp_path / f"a.{suffix}")[..., 0].tolist() == [[0, 1, 128, 255]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0.0, 0.5, 1.0]], [[0, 128, 255]]),
        ([[-50.0, 0.0, 50.0]], [[0, 128, 255]]),
        ([[np.nan, 2.0, 4.0]], [[0, 0, 255]]),
        ([[7.0, 7.0]], [[0, 0]]),
        ([[np.nan]], [[0]]),
    ],
)
def test_float_images_are_scaled_from_their_minimum_and_maximum(values, expected, tmp_path):
    Image.fromarray(np.array(values, dtype=np.float32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[..., 0].tolist() == expected


def test_transparent_greyscale_has_the_mean_colour_as_background(tmp_path):
    pixels = np.array([[[50, 255], [50, 0]]], dtype=np.uint8)
    Image.fromarray(pixels, "LA").save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[50, 50, 50], [124, 117, 104]]]


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.gif"), np.full((3, 4, 3), (255, 0, 0), dtype=np.uint8))


def test_what_is_no_whole_image_is_named(tmp_path, picture):
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").touch()
    big = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    for name in ("cut.jpg", "cut.png"):
        Image.fromarray(big).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    for name in ("text.jpg", "empty.jpg", "cut.jpg", "cut.png", "missing.jpg"):
        with pytest.raises(InputError, match=name):
            read_image(tmp_path / name)


def test_a_batch_is_normalised_and_padded_right_and_below(picture):
    batch = collate_images([picture, picture[:7, :5]])
    assert batch.pixels.shape == (2, 3, 12, 18)
    assert batch.sizes.tolist() == [[12, 18], [7, 5]]
    expected = (picture.astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
    np.testing.assert_allclose(batch.pixels[0].permute(1, 2, 0), expected, atol=1e-6)
    assert torch.equal(batch.pixels[1, :, :7, :5], batch.pixels[0, :, :7, :5])
    assert not batch.pixels[1, :, 7:].any()
    assert not batch.pixels[1, :, :, 5:].any()


@pytest.mark.parametrize(
    "bad", [np.zeros((3, 4), np.uint8), np.zeros((3, 4, 3)), np.zeros((0, 4, 3), np.uint8), "a.jpg"]
)
def test_arrays_of_another_kind_are_refused(bad):
    with pytest.raises(InputError, match="image 0"):
        collate_images([bad])
    with pytest.raises(InputError, match="the list is empty"):
        collate_images([])


def test_a_picture_above_the_bound_is_decoded_reduced_to_the_same_size(tmp_path, monkeypatch):
    ramp = np.add.outer(np.arange(600) // 6, np.arange(900) // 6).astype(np.uint8)
    Image.fromarray(ramp).convert("RGB").save(tmp_path / "a.png")
    whole = read_resized(tmp_path / "a.png", (80, 133))
    np.testing.assert_array_equal(whole.pixels, resize_for_test(read_image(tmp_path / "a.png"), (80, 133)))
    monkeypatch.setattr(inputs, "DECODED_WHOLE", 1000)
    reduced = read_resized(tmp_path / "a.png", (80, 133))
    assert reduced[1:] == whole[1:] == (600, 900)
    assert reduced.pixels.shape == whole.pixels.shape
    assert np.abs(reduced.pixels.astype(int) - whole.pixels).max() <= 2


def test_pixels_normalised_by_threads_are_those_of_the_batch_to_the_last_bit() -> None:
    draws = np.random.default_rng(0)
    images = [draws.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((5, 7), (9, 4))]
    expected = collate_images(images)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    for image, pixels in zip(images, expected.pixels):
        plain = torch.from_numpy(image).permute(2, 0, 1).float().sub_(mean).div_(std)
        assert torch.equal(pixels[:, : image.shape[0], : image.shape[1]], plain)
    bytes_ = [torch.from_numpy(image.transpose(2, 0, 1).copy()) for image in images]  # as a GPU gets them
    assert torch.equal(collate_pixels(bytes_, "cpu").pixels, expected.pixels)
