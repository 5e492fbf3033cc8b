"""What every detector takes by keyword, and what it gives beside records."""

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
    """A PIL image as (height, width, 3) uint8 RGB, its EXIF turn applied; others as they are."""
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB")) if isinstance(image, Image.Image) else image


@dataclass(frozen=True)
class Failure:
    """An image that could not be labelled, and why."""

    filename: str
    error: InputError


@dataclass(frozen=True)
class ScoredRecord(Record):
    """A record that also has, for each of its boxes, the scores of everything that was looked for.

    all_scores: (N, C) float32 for the N boxes in the record's order (instances, or region after region) and the C
    labels of the prompt. A box of a prompt that was split into several captions has scores of its caption's labels;
    the others, which were not in this box's prompt, are NaN.
    """

    all_scores: np.ndarray = field(kw_only=True, compare=False)


@dataclass(frozen=True)
class FeaturedRecord(Record):
    """A record that also has what the model saw of the whole image.

    image_feature: (D,) float16, the mean over the image of each of the neck's levels, one after the other.
    """

    image_feature: np.ndarray = field(kw_only=True, compare=False)


@dataclass(frozen=True)
class PredictSettings:
    """How images are looked at: what predict and predict_each take by keyword.

    score_threshold: lower scores are left out. max_per_image: best (query, label) pairs kept, over all chunks.
    max_per_chunk: pairs kept of each chunk, all of which the image keeps, as the reference does it for LVIS; None:
    only max_per_image counts.
    scale: short and long side that the image is made to fit; None: the model's own.
    chunk_size: names a caption; longer prompts than the text encoder takes are split in any case, the image is
    encoded once.
    mixed_sizes: images of a batch are padded to the largest, as in the reference, where an image's numbers depend on
    its padding. By default only images of one size share a batch, and each result is that of the image alone.
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
    """Several images; one alone becomes a list of it."""
    return [images] if isinstance(images, str | Path | np.ndarray) else list(images)


def records_of(outcomes: Iterable[Record | Failure]) -> list[Record]:
    """The records of all images, in their order. Raises the error of the first failure."""
    records = []
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            raise outcome.error
        records.append(outcome)
    return records
