"""Labelled images become training batches, in an order that is a pure function of seed and position.

G boxes of one image, E entities of its caption, B images of a batch, L tokens of the longest caption
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerFast

from formats.images import safe_join
from formats.label_map import read_label_map
from formats.odvg import record_from_line
from formats.problems import InputError
from formats.record import Box, Record
from grounding_model.augment import AugmentConfig, augment
from grounding_model.glyphs import categories_of, draw_scene
from grounding_model.image import ImageBatch, collate_images, read_image
from grounding_model.sampling import AbsentNames, CategorySampler, TrainingText, caption_text
from grounding_model.targets import Target
from grounding_model.text_tokens import CaptionTooLong, TextBatch, count_tokens, tokenize, tokens_of_spans

# So many neighbours are tried in place of an image that cannot be used; more in a row means that nothing is right.
MAX_REPLACEMENTS = 100


@dataclass(frozen=True)
class OdvgData:
    """An ODVG file and its images.

    label_map: beside a detection file; None collects the categories from the lines themselves.
    weight: passes over the file in one epoch; 0.5 takes another half each time.
    """

    annotations: Path
    image_root: Path
    label_map: Path | None = None
    weight: float = 1.0
    kind: Literal["odvg"] = "odvg"


@dataclass(frozen=True)
class GlyphData:
    """Scenes of the glyph world, drawn when they are needed.

    domain, task, pairs, hardness: as draw_scene takes them. count: number of different scenes. seed: which ones.
    keep: draw all of them before the first step and keep them in memory (77 kB for 160 x 160 pixels).
    """

    domain: str = "source"
    count: int = 5000
    seed: int = 0
    task: str = "od"
    pairs: str = "train"
    hardness: float | None = None
    weight: float = 1.0
    keep: bool = False
    kind: Literal["glyphs"] = "glyphs"


@dataclass(frozen=True)
class CocoData:
    """A COCO annotation file and its images.

    categories: the names to keep, in the order of their labels; None keeps the file's, in its order.
    weight: as OdvgData has it.
    """

    annotations: Path
    image_root: Path
    categories: tuple[str, ...] | None = None
    weight: float = 1.0
    kind: Literal["coco"] = "coco"


TrainingData = OdvgData | CocoData | GlyphData


class LabelledImages(Protocol):
    """What a source of training images offers. categories: label -> name of its detection records."""

    categories: Mapping[int, str]

    def __len__(self) -> int: ...

    def load(self, index: int) -> tuple[np.ndarray, Record]:
        """Image (H, W, 3) uint8 RGB and its record. Raises InputError when one of them cannot be used."""
        ...


class OdvgDataset:
    """The lines of an ODVG file, read on demand; in memory are eight bytes a line."""

    def __init__(self, data: OdvgData) -> None:
        self._data = data
        self._offsets = _line_offsets(data.annotations)
        if not len(self._offsets):
            raise InputError(data.annotations, "holds no line to train on", "want ODVG JSON Lines")
        if data.label_map is not None:
            self.categories: Mapping[int, str] = read_label_map(data.label_map)
        else:
            self.categories = self._categories_of_lines()

    def __len__(self) -> int:
        return len(self._offsets)

    def record(self, index: int) -> Record:
        """Raises InputError, naming the line, when it is no record."""
        place = f"{self._data.annotations}: byte {self._offsets[index]}"
        with open(self._data.annotations, "rb") as stream:
            stream.seek(self._offsets[index])
            raw = stream.readline()
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise InputError(place, f"not JSON ({error})", "want one JSON object a line") from error
        return record_from_line(line, place)

    def load(self, index: int) -> tuple[np.ndarray, Record]:
        record = self.record(index)
        if not _is_labelled(record):
            raise InputError(record.filename, "nobody has labelled it yet", "want labels, not a bootstrap file")
        unknown = {instance.label for instance in record.instances or ()} - set(self.categories)
        if unknown:
            raise InputError(record.filename, f"label {min(unknown)} is not in the map", "want the map of this file")
        image = read_image(safe_join(self._data.image_root, record.filename))
        if image.shape[:2] != (record.height, record.width):
            found, said = f"{image.shape[1]}x{image.shape[0]}", f"{record.width}x{record.height}"
            raise InputError(record.filename, f"the image is {found}, its line says {said}", "want the same size")
        return image, record

    def _categories_of_lines(self) -> dict[int, str]:
        categories: dict[int, str] = {}
        for index in range(len(self)):
            try:
                record = self.record(index)
            except InputError:
                continue  # counted when training comes to it
            for instance in record.instances or ():
                categories[instance.label] = instance.category
        return dict(sorted(categories.items()))


def _is_labelled(record: Record) -> bool:
    """Whether somebody has looked. [] says that nothing was found; regions without boxes wait to be looked for."""
    if record.caption is None:
        return record.instances is not None
    return record.regions is not None and (not record.regions or any(region.boxes for region in record.regions))


def _line_offsets(path: Path) -> array:
    """Where every line starts that is neither blank nor marked as quarantined."""
    offsets, position = array("q"), 0
    try:
        with open(path, "rb") as stream:
            for line in stream:
                if not offsets and line.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
                    raise InputError(path, "is one JSON array", "want JSON Lines: groundhog convert writes them")
                if not line.isspace() and not (b'"quarantined"' in line and _is_quarantined(line)):
                    offsets.append(position)
                position += len(line)
    except OSError as error:
        raise InputError(path, error.strerror or str(error), "want a file of ODVG JSON Lines") from error
    return offsets


def _is_quarantined(line: bytes) -> bool:
    try:
        decoded = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(decoded, dict) and "quarantined" in decoded


class GlyphDataset:
    """Scenes of the glyph world; the same (domain, seed, index) is the same scene on every machine."""

    def __init__(self, data: GlyphData) -> None:
        self._data = data
        self.categories: Mapping[int, str] = dict(enumerate(categories_of(data.domain, data.task, data.pairs)))
        self._kept = [self._drawn(index) for index in range(data.count)] if data.keep else None

    def __len__(self) -> int:
        return self._data.count

    def load(self, index: int) -> tuple[np.ndarray, Record]:
        return self._kept[index] if self._kept is not None else self._drawn(index)

    def _drawn(self, index: int) -> tuple[np.ndarray, Record]:
        data = self._data
        return draw_scene(data.domain, data.seed, index, data.task, data.pairs, data.hardness)


def open_dataset(data: OdvgData | GlyphData) -> LabelledImages:
    return OdvgDataset(data) if isinstance(data, OdvgData) else GlyphDataset(data)


class Draw(NamedTuple):
    """One place of the training order. position: 0, 1, … over the whole run, the seed of everything random there."""

    position: int
    dataset: int
    item: int


class MixedOrder(Sampler[list[Draw]]):
    """Batches of a weighted mixture, shuffled anew each epoch; the same for a seed wherever it is entered.

    An epoch holds weight x length items of every data set. Weights that are no whole numbers take up in the next epoch
    where they ended in this one, so every item has its turn. Batches run on over the end of an epoch.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[float],
        batch_size: int,
        steps: int,
        seed: int,
        first_step: int = 0,
    ) -> None:
        self._lengths, self._batch_size, self._seed = tuple(lengths), batch_size, seed
        self._quotas = tuple(round(length * weight) for length, weight in zip(lengths, weights))
        self._steps, self._first_step = steps, first_step
        if sum(self._quotas) == 0:
            raise InputError("datasets", "the weights leave no image in an epoch", "want larger weights")

    @property
    def epoch_length(self) -> int:
        return sum(self._quotas)

    def __len__(self) -> int:
        return self._steps - self._first_step

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, order = -1, np.empty(0)
        for step in range(self._first_step, self._steps):
            draws = []
            for position in range(step * self._batch_size, (step + 1) * self._batch_size):
                if position // self.epoch_length != epoch:
                    epoch = position // self.epoch_length
                    order = self._order_of(epoch)
                dataset, item = order[position % self.epoch_length]
                draws.append(Draw(position, int(dataset), int(item)))
            yield draws

    def _order_of(self, epoch: int) -> np.ndarray:
        """(epoch_length, 2) int64: data set and item."""
        parts = []
        for dataset, quota in enumerate(self._quotas):
            items = self._items(dataset, epoch * quota, (epoch + 1) * quota)
            parts.append(np.stack([np.full(quota, dataset), items], axis=1))
        order = np.concatenate(parts)
        np.random.default_rng([self._seed, epoch]).shuffle(order)
        return order

    def _items(self, dataset: int, start: int, stop: int) -> np.ndarray:
        """Items start..stop of an endless row of permutations of one data set."""
        length = self._lengths[dataset]
        if start == stop:
            return np.empty(0, dtype=np.int64)
        rounds = range(start // length, (stop - 1) // length + 1)
        row = np.concatenate(
            [np.random.default_rng([self._seed, dataset, number, 1]).permutation(length) for number in rounds]
        )
        return row[start - rounds.start * length : stop - rounds.start * length]


class Sample(NamedTuple):
    """One augmented image and what is asked of it.

    image: (H, W, 3) uint8 RGB. caption: its text.
    boxes: (G, 4) float32 x1, y1, x2, y2 in pixels of the image. tokens: columns of the caption's tokens a box.
    entities: (G,) entity of each box. names: the words of every entity. weights, ignore: (G,).
    problems: what was passed over to get here.
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
    """names: words of every entity, an image each; Target.labels points into them."""

    images: ImageBatch
    text: TextBatch
    targets: list[Target]
    names: list[list[str]]
    problems: list[str]


class TrainingSamples(Dataset[Sample]):
    """Draw -> Sample. What cannot be read is replaced by its next neighbour and reported, so batches stay full."""

    def __init__(
        self,
        datasets: Sequence[LabelledImages],
        settings: AugmentConfig,
        tokenizer: PreTrainedTokenizerFast,
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
        dataset = self._datasets[draw.dataset]
        problems: list[str] = []
        for offset in range(min(len(dataset), MAX_REPLACEMENTS)):
            try:
                image, record = dataset.load((draw.item + offset) % len(dataset))
            except InputError as error:
                problems.append(str(error))
                continue
            rng = np.random.default_rng([self._seed, draw.position, 2])
            return self._sample(image, record, self._samplers[draw.dataset], rng, problems)
        raise InputError(f"data set {draw.dataset}", f"{len(problems)} images in a row are unusable", problems[0])

    def _sample(
        self,
        image: np.ndarray,
        record: Record,
        sampler: CategorySampler,
        rng: np.random.Generator,
        problems: list[str],
    ) -> Sample:
        labelled = usable_boxes(record)
        record_boxes = np.array([box.box for box in labelled], dtype=np.float32).reshape(-1, 4)
        if record.caption is None:
            text = sampler.draw(tuple(box.group for box in labelled), rng)
            entities = np.array(text.box_entities, dtype=np.int64)
        else:
            text = caption_text(record)
            entities = np.array([box.group for box in labelled], dtype=np.int64)
        view = augment(image, record_boxes, text.caption, self._settings, rng)
        tokens, cut = self._entity_tokens(text)
        if cut:
            problems = [*problems, f"{record.filename}: {cut} phrases stand beyond token {self._max_tokens}"]
        entities = entities[view.kept]
        named = np.array([entity >= 0 and bool(tokens[entity]) for entity in entities], dtype=bool)
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

    def _entity_tokens(self, text: TrainingText) -> tuple[list[list[int]], int]:
        """Token columns of every entity, [] for those that the text encoder cannot see, and how many these are."""
        try:
            return tokens_of_spans(text.caption, text.spans, self._tokenizer, self._max_tokens), 0
        except CaptionTooLong:
            return self._tokens_one_by_one(text)

    def _tokens_one_by_one(self, text: TrainingText) -> tuple[list[list[int]], int]:
        tokens, cut = [], 0
        for spans in text.spans:
            try:
                tokens += tokens_of_spans(text.caption, [spans], self._tokenizer, self._max_tokens)
            except CaptionTooLong:
                tokens.append([])
                cut += 1
        return tokens, cut


class LabelledBox(NamedTuple):
    """One box of a record. group: label of a detection, index of the region of a caption."""

    box: Box
    group: int
    weight: float
    ignore: bool


def usable_boxes(record: Record) -> list[LabelledBox]:
    """The boxes to train on, cut at the image's edge.

    Boxes outside the image or with a side under one pixel are left out, as the reference does.
    """
    boxes = [LabelledBox(one.box, one.label, one.weight, one.ignore) for one in record.instances or ()]
    for index, region in enumerate(record.regions or ()):
        boxes += [LabelledBox(box, index, region.weight, region.ignore) for box in region.boxes]
    return [
        box._replace(box=_cut(box.box, record.height, record.width))
        for box in boxes
        if _is_usable(box.box, record.height, record.width)
    ]


def _is_usable(box: Box, height: int, width: int) -> bool:
    x1, y1, x2, y2 = box
    return x2 - x1 >= 1 and y2 - y1 >= 1 and min(x2, width) > max(x1, 0) and min(y2, height) > max(y1, 0)


def _cut(box: Box, height: int, width: int) -> Box:
    x1, y1, x2, y2 = box
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


class Collate:
    """Samples -> TrainingBatch; an object, so that worker processes can be given it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> None:
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
    for row, standing in zip(tokens, sample.tokens):
        row[standing] = True
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
