"""Sources of labelled images for training and validation: ODVG files, COCO files, and the glyph world."""

from __future__ import annotations

import json
import logging
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from formats.coco import CocoContent, coco_records, load_coco
from formats.dataset_names import label_map_beside
from formats.images import check_size, safe_join
from formats.io.errors import InputError, expected_one_of
from formats.io.plurals import many
from formats.io.progress import show_progress
from formats.io.ranges import Count, Factor, PositiveShare, Seed, Share
from formats.label_map import check_names, read_label_map
from formats.odvg_lines import is_quarantined, record_from_line
from formats.record import Box, Instance, Record
from grounding_model.glyphs import categories_of, draw_scene
from grounding_model.inputs.image import read_image

log = logging.getLogger(__name__)

CHECKED_LINES = 1000  # lines of an ODVG file checked against its label map before training; takes a tenth of a second


def _take_paths(data: Any, *names: str) -> None:
    """Converts paths that were passed as text."""
    for name in names:
        if isinstance(value := getattr(data, name), str):
            object.__setattr__(data, name, Path(value))


@dataclass(frozen=True)
class OdvgData:
    """An ODVG file and its images.

    label_map: of a detection file; None takes X_label_map.json beside X_od.json, or else the categories in the lines.
    weight: passes over the file in one epoch; 0.5 takes another half each time.
    oversample: share of images below which a category is rare and its images are repeated; None: no repeats.
    See repeats().
    """

    annotations: Path
    image_root: Path
    label_map: Path | None = None
    weight: Factor = 1.0
    oversample: PositiveShare | None = None
    kind: Literal["odvg"] = "odvg"

    def __post_init__(self) -> None:
        _take_paths(self, "annotations", "image_root", "label_map")


@dataclass(frozen=True)
class CocoData:
    """A COCO annotation file and its images. An image without annotations contains no object.

    categories: the names to keep, in the order of their labels; None keeps those of the file,
    except the supercategories that Roboflow adds. weight, oversample: as in OdvgData.
    """

    annotations: Path
    image_root: Path
    categories: tuple[str, ...] | None = None
    weight: Factor = 1.0
    oversample: PositiveShare | None = None
    kind: Literal["coco"] = "coco"

    def __post_init__(self) -> None:
        _take_paths(self, "annotations", "image_root")


@dataclass(frozen=True)
class GlyphData:
    """Scenes of the glyph world, drawn on demand.

    domain, task, pairs, hardness: as in draw_scene. count: number of different scenes. seed: which ones.
    keep: draw all of them before the first step and keep them in memory (77 kB for 160 x 160 pixels).
    """

    domain: str = "source"
    count: Count = 5000
    seed: Seed = 0
    task: str = "od"
    pairs: str = "train"
    hardness: Share | None = None
    weight: Factor = 1.0
    keep: bool = False
    kind: Literal["glyphs"] = "glyphs"

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError("count", f"{self.count} scenes", "expected at least one")


TrainingData = OdvgData | CocoData | GlyphData


class LabelledImages(Protocol):
    """A source of N labelled images.

    categories: label -> name, for detection records. portrait: (N,) bool, which images are taller than wide.
    """

    categories: Mapping[int, str]
    portrait: np.ndarray

    def __len__(self) -> int: ...

    def load(self, index: int) -> tuple[np.ndarray, Record]:
        """Image (H, W, 3) uint8 RGB and its record. Raises InputError when either is unusable."""
        ...


def open_dataset(data: TrainingData) -> LabelledImages:
    """Every image once, in the order of the file. Raises InputError for a file that cannot be read."""
    if isinstance(data, OdvgData):
        return OdvgDataset(data)
    return CocoDataset(data) if isinstance(data, CocoData) else GlyphDataset(data)


def open_for_training(data: TrainingData) -> LabelledImages:
    """As open_dataset, with images of rare categories repeated according to data.oversample."""
    dataset = open_dataset(data)
    if isinstance(data, GlyphData) or data.oversample is None:
        return dataset
    assert isinstance(dataset, OdvgDataset | CocoDataset)  # they have labels()
    return OversampledDataset(dataset, repeats(dataset.labels(), data.oversample))


class OdvgDataset:
    """The lines of an ODVG file, read on demand; nine bytes per line are kept in memory."""

    def __init__(self, data: OdvgData) -> None:
        self._data = data
        self._offsets, self.portrait = _lines_of(data.annotations)
        if not len(self._offsets):
            raise InputError(data.annotations, "has no lines to train on", "expected ODVG JSON Lines")
        beside = label_map_beside(data.annotations)
        if data.label_map is not None or beside.is_file():
            self.categories: Mapping[int, str] = read_label_map(data.label_map or beside)
            self._check_first_names()
        else:
            self.categories = self._categories_of_lines()

    def __len__(self) -> int:
        return len(self._offsets)

    def record(self, index: int) -> Record:
        """Raises InputError, naming the line, when it is not a record."""
        with open(self._data.annotations, "rb") as stream:
            stream.seek(self._offsets[index])
            return self._record_of(stream.readline(), index)

    def load(self, index: int) -> tuple[np.ndarray, Record]:
        record = self.record(index)
        if not _is_labelled(record):
            raise InputError(record.filename, "is not labelled yet", "expected labels, not a bootstrap file")
        check_names(record, self.categories, self._data.annotations)
        return _image_of(record, self._data.image_root), record

    def labels(self) -> Iterator[set[int]]:
        """The labels of every image; empty for an invalid line, which is counted when training reads it."""
        for instances in self._instances():
            yield {instance.label for instance in instances}

    def _check_first_names(self) -> None:
        """Reports a wrong label map at once; during training such a line would only be replaced by its neighbour."""
        for index in range(min(len(self), CHECKED_LINES)):
            try:
                record = self.record(index)
            except InputError:
                continue  # counted when training reads it
            check_names(record, self.categories, self._data.annotations)

    def _record_of(self, raw: bytes, index: int) -> Record:
        location = f"{self._data.annotations}: byte {self._offsets[index]}"
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise InputError(location, f"not JSON ({error})", "expected one JSON object per line") from error
        return record_from_line(line, location)

    def _instances(self) -> Iterator[tuple[Instance, ...]]:
        """The instances of every line; () where there are none or the line is invalid."""
        with open(self._data.annotations, "rb") as stream:
            description = f"categories of {self._data.annotations.name}"
            for index, offset in enumerate(show_progress(self._offsets, desc=description, delay=2, unit="line")):
                stream.seek(offset)
                raw = stream.readline()
                try:
                    record = self._record_of(raw, index) if b'"detection"' in raw else None
                except InputError:
                    record = None
                yield () if record is None else record.instances or ()

    def _categories_of_lines(self) -> dict[int, str]:
        categories: dict[int, str] = {}
        for instances in self._instances():
            for instance in instances:
                categories[instance.label] = instance.category
        return dict(sorted(categories.items()))


def _is_labelled(record: Record) -> bool:
    """Whether an image is labelled. [] means that it has no objects; regions without boxes are not labelled yet."""
    if record.caption is None:
        return record.instances is not None
    return record.regions is not None and (not record.regions or any(region.boxes for region in record.regions))


def _image_of(record: Record, image_root: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB. Raises InputError when the image is missing or its size differs from its record's."""
    image = read_image(safe_join(image_root, record.filename))
    height, width = image.shape[:2]
    check_size(record.filename, (height, width), (record.height, record.width), "labels say")
    return image


_HEIGHT, _WIDTH = (re.compile(rb'"%s"\s*:\s*(\d{1,18})' % side) for side in (b"height", b"width"))


def _lines_of(path: Path) -> tuple[array, np.ndarray]:
    """Offsets of all lines that are not blank or quarantined, and (N,) bool, whose images are portrait.

    Lines are not decoded, so a file of millions of lines opens as fast as it is read.
    """
    offsets, portrait, position = array("q"), bytearray(), 0
    try:
        with open(path, "rb") as stream, _bytes_bar(path) as bar:
            for line in stream:
                if not offsets and line.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
                    raise InputError(path, "is one JSON array", "expected JSON Lines: groundhog convert writes them")
                if not line.isspace() and not is_quarantined(line):
                    offsets.append(position)
                    height, width = _HEIGHT.search(line), _WIDTH.search(line)
                    portrait.append(bool(height and width and int(height[1]) > int(width[1])))
                position += len(line)
                bar.update(len(line))
    except OSError as error:
        raise InputError(path, error.strerror or str(error), "expected a file of ODVG JSON Lines") from error
    return offsets, np.frombuffer(portrait, dtype=bool)


def _bytes_bar(path: Path) -> Any:
    """Shown if it takes more than two seconds."""
    description = f"opening {path.name}"
    return show_progress(total=path.stat().st_size, desc=description, delay=2, unit="B")


class CocoDataset:
    """The images of a COCO file, which is read completely into arrays: 21 bytes per box.

    Invalid annotations are skipped with a warning.
    """

    def __init__(self, data: CocoData) -> None:
        content = load_coco(data.annotations)
        if content.annotations is None:
            raise InputError(data.annotations, 'has no "annotations"', "expected a file with boxes to train on")
        self._data = data
        self.categories: Mapping[int, str] = dict(enumerate(_selected_names(content, data)))
        self._read(content)
        if not len(self):
            raise InputError(data.annotations, "has no images", 'expected at least one in "images"')
        self.portrait = self._sizes[:, 0] > self._sizes[:, 1]

    def _read(self, content: CocoContent) -> None:
        label_of = {name: label for label, name in self.categories.items()}
        names, sizes, boxes, labels, ignore, ends = [], array("i"), array("d"), array("i"), bytearray(), array("q", [0])
        problems: list[InputError] = []
        for record in coco_records(content, on_problem=problems.append):
            names.append(record.filename.encode())
            sizes.extend((record.height, record.width))
            for instance in record.instances or ():
                if instance.category in label_of:
                    boxes.extend(instance.box)
                    labels.append(label_of[instance.category])
                    ignore.append(instance.ignore)
            ends.append(len(labels))
        if problems:
            log.warning("skipped %s, for example: %s", many(len(problems), "entry"), problems[0])
        # Arrays, not lists: forked workers would copy every object that they touch.
        self._names = np.array(names, dtype=bytes)
        self._sizes = np.array(sizes).reshape(-1, 2)
        self._boxes, self._labels = np.array(boxes, dtype=np.float32).reshape(-1, 4), np.array(labels)
        self._ignore, self._ends = np.frombuffer(ignore, dtype=bool), np.array(ends)

    def __len__(self) -> int:
        return len(self._names)

    def record(self, index: int) -> Record:
        """Boxes in the precision of training, float32."""
        rows = slice(self._ends[index], self._ends[index + 1])
        instances = tuple(
            Instance(_box(box), label, self.categories[label], ignore=ignore)
            for box, label, ignore in zip(
                self._boxes[rows].tolist(), self._labels[rows].tolist(), self._ignore[rows].tolist()
            )
        )
        height, width = self._sizes[index].tolist()
        return Record(self._names[index].decode(), height, width, instances)

    def load(self, index: int) -> tuple[np.ndarray, Record]:
        record = self.record(index)
        return _image_of(record, self._data.image_root), record

    def labels(self) -> Iterator[set[int]]:
        """The labels of every image."""
        for start, end in zip(self._ends, self._ends[1:]):
            yield set(self._labels[start:end].tolist())


def _box(corners: Sequence[float]) -> Box:
    x1, y1, x2, y2 = corners
    return x1, y1, x2, y2


def _selected_names(content: CocoContent, data: CocoData) -> tuple[str, ...]:
    """Names of the categories to keep, without duplicates, in the order of the labels."""
    names = [name for _, name in content.categories.values()]
    if data.categories is None:
        return tuple(dict.fromkeys(name for name in names if name not in _supercategories(content)))
    for name in data.categories:
        if name not in names:
            raise InputError("categories", f"{data.annotations} has no {name!r}", expected_one_of(names, name))
    return tuple(dict.fromkeys(data.categories))


def _supercategories(content: CocoContent) -> set[str]:
    """Categories without annotations that are the supercategory of others: Roboflow adds one."""
    used = {entry.get("category_id") for entry in content.annotations or ()}
    entries = content.category_entries.values()
    annotated = {entry["name"] for entry in entries if entry["id"] in used}
    parents = {entry.get("supercategory") for entry in entries if entry.get("supercategory") != entry["name"]}
    return {entry["name"] for entry in entries} & parents - annotated


class GlyphDataset:
    """Scenes of the glyph world; the same (domain, seed, index) is the same scene on every machine."""

    def __init__(self, data: GlyphData) -> None:
        self._data = data
        self.categories: Mapping[int, str] = dict(enumerate(categories_of(data.domain, data.task, data.pairs)))
        self.portrait = np.zeros(data.count, dtype=bool)  # scenes are squares
        self._scenes = [self._draw(index) for index in range(data.count)] if data.keep else None

    def __len__(self) -> int:
        return self._data.count

    def load(self, index: int) -> tuple[np.ndarray, Record]:
        return self._scenes[index] if self._scenes is not None else self._draw(index)

    def _draw(self, index: int) -> tuple[np.ndarray, Record]:
        data = self._data
        return draw_scene(data.domain, data.seed, index, data.task, data.pairs, data.hardness)


class OversampledDataset:
    """A data set with image i repeated counts[i] times; counts: (N,) int."""

    def __init__(self, dataset: LabelledImages, counts: np.ndarray) -> None:
        self._dataset = dataset
        self._items = np.repeat(np.arange(len(dataset)), counts)
        self.categories, self.portrait = dataset.categories, dataset.portrait[self._items]

    def __len__(self) -> int:
        return len(self._items)

    def load(self, index: int) -> tuple[np.ndarray, Record]:
        return self._dataset.load(int(self._items[index]))


def repeats(labels: Iterable[set[int]], threshold: float) -> np.ndarray:
    """The labels of N images -> (N,) int64, how often to repeat each in an epoch: more than once where a label is rare.

    A label in a fraction f of all images has the repeat factor max(1, sqrt(threshold / f)), an image the maximum over
    its labels (LVIS, arXiv 1908.03195, appendix B), rounded up, as in mmengine's ClassBalancedDataset. The paper
    rounds randomly.
    """
    images, flat_labels = array("q"), array("q")
    count = 0
    for image_labels in labels:
        images.extend([count] * len(image_labels))
        flat_labels.extend(image_labels)
        count += 1
    factors = np.ones(count)
    if flat_labels:
        _, inverse, frequencies = np.unique(np.array(flat_labels), return_inverse=True, return_counts=True)
        np.maximum.at(factors, np.array(images), np.sqrt(threshold / (frequencies / count))[inverse])
    return np.ceil(factors).astype(np.int64)
