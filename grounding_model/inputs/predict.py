"""Keyword settings that every detector accepts, and the results that it returns besides plain records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from formats.io.errors import InputError
from formats.record import Record
from grounding_model.inputs.defaults import MAX_PER_IMAGE, SCORE_THRESHOLD

ImageSource = str | Path | np.ndarray


def as_source(image: ImageSource | Image.Image) -> ImageSource:
    """Converts a PIL image to (height, width, 3) uint8 RGB with EXIF rotation applied; returns others unchanged."""
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB")) if isinstance(image, Image.Image) else image


@dataclass(frozen=True)
class Failure:
    """An image that could not be labelled, and why."""

    filename: str
    error: InputError


@dataclass(frozen=True)
class ScoredRecord(Record):
    """A record that also has the scores of all labels for each of its boxes.

    all_scores: (N, C) float32 for the N boxes in the record's order (instances, or region by region) and the C labels
    of the prompt. If the prompt was split into several captions, the labels outside the box's caption are NaN.
    """

    all_scores: np.ndarray = field(kw_only=True, compare=False)


@dataclass(frozen=True)
class FeaturedRecord(Record):
    """A record that also has a feature vector of the whole image.

    image_feature: (D,) float16, the mean over the image of each of the neck's levels, concatenated.
    """

    image_feature: np.ndarray = field(kw_only=True, compare=False)


@dataclass(frozen=True)
class PredictSettings:
    """Settings of a prediction: the keyword arguments of predict and predict_each.

    score_threshold: boxes with lower scores are left out. max_per_image: number of best (query, label) pairs kept,
    over all chunks. max_per_chunk: number of pairs kept from each chunk instead, as the reference does for LVIS; None:
    only max_per_image applies.
    scale: short and long side that the image is resized to fit; None: the model's default.
    chunk_size: maximum number of names in a caption. Prompts that exceed the text encoder are always split; the image
    is encoded only once.
    mixed_sizes: pads the images of a batch to the largest, as the reference does; results then depend on the padding.
    By default only images of equal size share a batch, so that each result is the same as for the image alone.
    return_all_scores: every record is a ScoredRecord.
    return_image_feature: every record is a FeaturedRecord; not together with return_all_scores.

    Raises InputError for a value that cannot work.
    """

    score_threshold: float = SCORE_THRESHOLD
    max_per_image: int = MAX_PER_IMAGE
    max_per_chunk: int | None = None
    scale: tuple[int, int] | None = None
    batch_size: int = 1
    chunk_size: int | None = None
    mixed_sizes: bool = False
    return_all_scores: bool = False
    return_image_feature: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.score_threshold <= 1:
            raise InputError("score_threshold", str(self.score_threshold), "expected 0..1")
        if self.max_per_image < 1:
            raise InputError("max_per_image", str(self.max_per_image), "expected at least 1")
        if self.max_per_chunk is not None and self.max_per_chunk < 1:
            raise InputError("max_per_chunk", str(self.max_per_chunk), "expected at least 1")
        if self.scale is not None and (len(self.scale) != 2 or min(self.scale) < 1):
            raise InputError("scale", str(self.scale), "expected the short and the long side in pixels")
        if self.batch_size < 1:
            raise InputError("batch_size", str(self.batch_size), "expected at least 1")
        if self.return_all_scores and self.return_image_feature:
            raise InputError("return_image_feature", "together with return_all_scores", "expected one of them")


def image_list(images: ImageSource | Sequence[ImageSource]) -> list[ImageSource]:
    """The images as a list; a single image becomes a list of one."""
    return [images] if isinstance(images, str | Path | np.ndarray) else list(images)


def records_of(outcomes: Iterable[Record | Failure]) -> list[Record]:
    """The records of all images, in order. Raises the error of the first failure."""
    records = []
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            raise outcome.error
        records.append(outcome)
    return records
