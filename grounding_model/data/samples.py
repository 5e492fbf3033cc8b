"""Turns labelled images into training batches.

Shapes: G boxes of one image, E entities of its caption, B images of a batch, L tokens of the longest caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from formats.io.errors import InputError
from formats.io.plurals import many, verb
from formats.record import Box, Record, Span
from grounding_model.data.augment import AugmentConfig, augment
from grounding_model.data.captions import AbsentNames, CategorySampler, TrainingText, caption_text
from grounding_model.data.sampler import Draw
from grounding_model.data.sources import LabelledImages
from grounding_model.inputs.image_batch import ImageBatch, collate_images
from grounding_model.inputs.tokens import (
    CaptionTokenizer,
    CaptionTooLong,
    TextBatch,
    count_tokens,
    tokenize,
    tokens_of_spans,
)
from grounding_model.model.targets import Target

# Number of neighbours tried in place of an unusable image; with more in a row, the data set must be wrong.
MAX_REPLACEMENTS = 100

# The problems reported for boxes that are not trained on, once per box.
UNUSABLE_BOX = "a box outside its image, or with a side under one pixel"
UNNAMED_BOX = "a box whose category or phrase has no word in the first {} tokens of its caption"


class Sample(NamedTuple):
    """One augmented image with its caption and targets.

    image: (H, W, 3) uint8 RGB.
    boxes: (G, 4) float32 x1, y1, x2, y2 in pixels of the image. tokens: token columns of each box.
    entities: (G,) entity of each box. names: the words of every entity. weights, ignore: (G,).
    problems: a message for everything skipped on the way; the same message for problems of one kind.
    """

    image: np.ndarray
    caption: str
    boxes: np.ndarray
    tokens: list[list[int]]
    entities: np.ndarray
    names: list[str]
    weights: np.ndarray
    ignore: np.ndarray
    problems: list[str]


class TrainingBatch(NamedTuple):
    """names: for each image the words of every entity; Target.labels are indices into them."""

    images: ImageBatch
    text: TextBatch
    targets: list[Target]
    names: list[list[str]]
    problems: list[str]

    def to(self, device: torch.device | str) -> TrainingBatch:
        """A copy with its tensors on `device`, and the images in channels-last format."""
        images = self.images.to(device)
        images = images._replace(pixels=images.pixels.contiguous(memory_format=torch.channels_last))
        targets = [target.to(device) for target in self.targets]
        return self._replace(images=images, text=self.text.to(device), targets=targets)


class TrainingSamples(Dataset[Sample]):
    """Draw -> Sample. An unreadable image is replaced by its next neighbour and reported, so batches stay full."""

    def __init__(
        self,
        datasets: Sequence[LabelledImages],
        settings: AugmentConfig,
        tokenizer: CaptionTokenizer,
        max_tokens: int,
        seed: int,
        absent: AbsentNames | None = None,
    ) -> None:
        self._datasets, self._settings, self._tokenizer = tuple(datasets), settings, tokenizer
        self._max_tokens, self._seed = max_tokens, seed
        self._samplers = [
            CategorySampler(
                dataset.categories, lambda text: count_tokens(text, tokenizer), max_tokens, absent or AbsentNames()
            )
            for dataset in datasets
        ]

    def __getitem__(self, draw: Draw) -> Sample:
        problems: list[str] = []
        image, record = load_usable(self._datasets[draw.dataset], draw, problems)
        rng = np.random.default_rng([self._seed, draw.position, 2])
        return self._sample(image, record, self._samplers[draw.dataset], rng, problems)

    def _sample(
        self,
        image: np.ndarray,
        record: Record,
        sampler: CategorySampler,
        rng: np.random.Generator,
        problems: list[str],
    ) -> Sample:
        labelled = usable_boxes(record)
        problems = [*problems, *[UNUSABLE_BOX] * (number_of_boxes(record) - len(labelled))]
        record_boxes = np.array([box.box for box in labelled], dtype=np.float32).reshape(-1, 4)
        if record.caption is None:
            text = sampler.draw(tuple(box.group for box in labelled), rng)
            entities = np.array(text.box_entities, dtype=np.int64)
        else:
            text = caption_text(record)
            entities = np.array([box.group for box in labelled], dtype=np.int64)
        view = augment(image, record_boxes, text.caption, self._settings, rng)
        tokens = self._entity_tokens(text)
        entities = entities[view.kept]
        named = np.array([entity >= 0 and bool(tokens[entity]) for entity in entities], dtype=bool)
        problems += [UNNAMED_BOX.format(self._max_tokens)] * int((~named).sum())
        kept = [labelled[index] for index in view.kept[named]]
        return Sample(
            image=view.image,
            caption=text.caption,
            boxes=view.boxes[named],
            tokens=[tokens[entity] for entity in entities[named]],
            entities=entities[named],
            names=[" ".join(text.caption[start:end] for start, end in spans) for spans in text.spans],
            weights=np.array([box.weight for box in kept], dtype=np.float32),
            ignore=np.array([box.ignore for box in kept], dtype=bool),
            problems=problems,
        )

    def _entity_tokens(self, text: TrainingText) -> list[list[int]]:
        """Token columns of every entity, [] for those that the text encoder cannot see."""
        try:
            return tokens_of_spans(text.caption, text.spans, self._tokenizer, self._max_tokens)
        except CaptionTooLong:
            return [self._tokens_of(text.caption, spans) for spans in text.spans]

    def _tokens_of(self, caption: str, spans: tuple[Span, ...]) -> list[int]:
        try:
            (tokens,) = tokens_of_spans(caption, [spans], self._tokenizer, self._max_tokens)
        except CaptionTooLong:
            return []
        return tokens


def load_usable(dataset: LabelledImages, draw: Draw, problems: list[str]) -> tuple[np.ndarray, Record]:
    """The image of a draw, or its next readable neighbour; the errors of skipped images are added to problems."""
    for offset in range(min(len(dataset), MAX_REPLACEMENTS)):
        try:
            return dataset.load((draw.item + offset) % len(dataset))
        except InputError as error:
            problems.append(str(error))
    what = f"{many(len(problems), 'image')} in a row {verb(len(problems), 'is', 'are')} unusable"
    raise InputError(f"data set {draw.dataset}", what, problems[0])


class TrainingBox(NamedTuple):
    """One box of a record. group: label of a detection, index of the region of a caption."""

    box: Box
    group: int
    weight: float
    ignore: bool


def usable_boxes(record: Record) -> list[TrainingBox]:
    """The boxes to train on, clipped to the image.

    Boxes outside the image or with a side under one pixel are left out, as in the reference.
    """
    boxes = [TrainingBox(item.box, item.label, item.weight, item.ignore) for item in record.instances or ()]
    for index, region in enumerate(record.regions or ()):
        boxes += [TrainingBox(box, index, region.weight, region.ignore) for box in region.boxes]
    return [
        box._replace(box=_clipped(box.box, record.height, record.width))
        for box in boxes
        if _is_usable(box.box, record.height, record.width)
    ]


def number_of_boxes(record: Record) -> int:
    return len(record.instances or ()) + sum(len(region.boxes) for region in record.regions or ())


def _is_usable(box: Box, height: int, width: int) -> bool:
    x1, y1, x2, y2 = box
    return x2 - x1 >= 1 and y2 - y1 >= 1 and min(x2, width) > max(x1, 0) and min(y2, height) > max(y1, 0)


def _clipped(box: Box, height: int, width: int) -> Box:
    x1, y1, x2, y2 = box
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


class Collate:
    """Samples -> TrainingBatch; an object, so that it can be passed to worker processes."""

    def __init__(self, tokenizer: CaptionTokenizer, max_tokens: int) -> None:
        self._tokenizer, self._max_tokens = tokenizer, max_tokens

    def __call__(self, samples: Sequence[Sample]) -> TrainingBatch:
        text = tokenize([sample.caption for sample in samples], self._tokenizer, self._max_tokens)
        return TrainingBatch(
            images=collate_images([sample.image for sample in samples]),
            text=text,
            targets=[_target(sample, text.input_ids.shape[1]) for sample in samples],
            names=[sample.names for sample in samples],
            problems=[problem for sample in samples for problem in sample.problems],
        )


def _target(sample: Sample, columns: int) -> Target:
    height, width = sample.image.shape[:2]
    tokens = torch.zeros(len(sample.tokens), columns, dtype=torch.bool)
    for row, columns_of_box in zip(tokens, sample.tokens):
        row[columns_of_box] = True
    x1, y1, x2, y2 = torch.from_numpy(sample.boxes).unbind(1)
    scale = torch.tensor([width, height, width, height], dtype=torch.float32)
    return Target(
        boxes=torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=1) / scale,
        tokens=tokens,
        labels=torch.from_numpy(sample.entities),
        weights=torch.from_numpy(sample.weights),
        ignore=torch.from_numpy(sample.ignore),
        size=(height, width),
    )
