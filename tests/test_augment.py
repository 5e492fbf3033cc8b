"""Boxes go where the picture goes: a drawn rectangle is found again where its box says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from grounding_model.data.augment import (
    AugmentConfig,
    Photometric,
    RandomCrop,
    augment,
    change_photometry,
    flip,
    resize,
)

SEEDS = range(20)


def drawn_box(height: int = 120, width: int = 200) -> tuple[np.ndarray, np.ndarray]:
    image = np.zeros((height, width, 3), np.uint8)
    image[30:90, 40:100] = 255
    return image, np.array([[40, 30, 100, 90]], dtype=np.float32)


def seen_box(image: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(image[..., 0] > 127)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.parametrize(
    "settings",
    [
        AugmentConfig(flip=1.0, short_sides=()),
        AugmentConfig(flip=0.5, short_sides=(64, 97, 240), max_long_side=300),
        AugmentConfig(short_sides=(100,), crop=RandomCrop(1.0, (80, 160), 4200, 60, 110)),
    ],
)
def test_the_box_is_where_the_rectangle_is(settings: AugmentConfig) -> None:
    for seed in SEEDS:
        view = augment(*drawn_box(), "cat. ", settings, np.random.default_rng(seed))
        for box in view.boxes:
            np.testing.assert_allclose(box, seen_box(view.image), atol=1.5)
        assert len(view.boxes) == len(view.kept)
        if not len(view.boxes):
            assert view.image.max() < 128


def test_mirrored_twice_is_as_before() -> None:
    image, boxes = drawn_box()
    again, boxes_again = flip(*flip(image, boxes))
    np.testing.assert_array_equal(again, image)
    np.testing.assert_array_equal(boxes_again, boxes)


@pytest.mark.parametrize("caption", ["the man on the left. ", "Right-hand door. ", "leftmost cat. "])
def test_an_image_whose_caption_names_a_side_is_not_mirrored(caption: str) -> None:
    for seed in SEEDS:
        view = augment(*drawn_box(), caption, AugmentConfig(flip=1.0, short_sides=()), np.random.default_rng(seed))
        np.testing.assert_array_equal(view.image, drawn_box()[0])


def test_words_that_only_contain_a_side_are_mirrored() -> None:
    settings = AugmentConfig(flip=1.0, short_sides=())
    view = augment(*drawn_box(), "a bright cleft. ", settings, np.random.default_rng(0))
    assert not np.array_equal(view.image, drawn_box()[0])


@pytest.mark.parametrize(("short", "long", "expected"), [(60, 1000, (60, 100)), (600, 300, (180, 300))])
def test_the_long_side_has_the_last_word(short: int, long: int, expected: tuple[int, int]) -> None:
    assert resize(*drawn_box(), short, long)[0].shape[:2] == expected


def test_crops_keep_to_their_sizes_and_say_which_boxes_stay() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    boxes = np.array([[0, 0, 20, 20], [380, 280, 400, 300], [190, 140, 210, 160]], dtype=np.float32)
    settings = AugmentConfig(flip=0.0, short_sides=(), crop=RandomCrop(1.0, (300,), 4200, 100, 150))
    for seed in SEEDS:
        view = augment(image, boxes, "", settings, np.random.default_rng(seed))
        height, width = view.image.shape[:2]
        assert 100 <= height <= 150
        assert 100 <= width <= 150
        assert (view.boxes >= 0).all()
        assert (view.boxes <= [width, height, width, height]).all()
        assert set(view.kept) < {0, 1, 2}


def test_views_of_a_photo_are_those_of_the_reference() -> None:
    """Eleven scales, or a crop of 384 to 600 pixels first for half of the images; the long side ends at 1333."""
    settings = AugmentConfig(crop=RandomCrop()).fitted_to((800, 1333))
    assert settings.short_sides == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    image, boxes = np.zeros((480, 640, 3), np.uint8), np.array([[0, 0, 640, 480]], dtype=np.float32)
    views = [augment(image, boxes, "", settings, np.random.default_rng(seed)) for seed in range(120)]
    shapes = {view.image.shape[:2] for view in views}
    whole = {(side, round(side * 4 / 3)) for side in settings.short_sides}
    assert whole <= shapes
    assert 0.4 < sum(view.image.shape[:2] in whole for view in views) / len(views) < 0.6
    assert {min(shape) for shape in shapes - whole} <= set(settings.short_sides)
    for view in views:
        assert max(view.image.shape) <= 1333
        height, width = view.image.shape[:2]
        np.testing.assert_allclose(view.boxes, [[0, 0, width, height]], atol=1e-3)  # cut at the edge of the window


@pytest.mark.parametrize("height", range(331, 361, 7))
def test_sizes_are_rounded_as_mmdets_resize_does(height: int) -> None:
    """Up from a half; when it looks for objects the reference cuts the fraction off instead."""
    scale = min(480 / height, 1333 / 500)
    resized = resize(np.zeros((height, 500, 3), np.uint8), np.zeros((0, 4), np.float32), 480, 1333)[0]
    assert resized.shape[:2] == (math.floor(height * scale + 0.5), math.floor(500 * scale + 0.5))


def test_what_a_crop_leaves_of_a_box_may_be_too_little() -> None:
    """The reference drops boxes that are no wider or higher than a hundredth of a pixel in the end."""
    image = np.zeros((100, 100, 3), np.uint8)
    boxes = np.array([[10, 10, 10.009, 50], [10, 10, 10.02, 50], [10, 10, 50, 10.009]], dtype=np.float32)
    for settings, kept in ((AugmentConfig(short_sides=()), [1]), (AugmentConfig(short_sides=(200,)), [0, 1, 2])):
        assert augment(image, boxes, "", settings, np.random.default_rng(0)).kept.tolist() == kept


def test_photometric_changes_keep_size_and_type() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    looks = Photometric(0.2, 0.3, 0.3, 0.05, 1.0, 0.05, probability=1.0)
    changed = change_photometry(image, looks, np.random.default_rng(1))
    assert changed.shape == image.shape
    assert changed.dtype == np.uint8
    assert not np.array_equal(changed, image)


def test_photometric_changes_of_strength_zero_leave_the_image_unchanged() -> None:
    image = drawn_box()[0]
    np.testing.assert_array_equal(
        change_photometry(image, Photometric(probability=1.0), np.random.default_rng(0)), image
    )


def test_a_view_is_a_function_of_the_seed() -> None:
    settings = AugmentConfig(photometric=Photometric(0.2, 0.2, 0.2, 0.1, 1.0, 0.1), crop=RandomCrop())
    first, second = (augment(*drawn_box(), "", settings, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.boxes, second.boxes)
