"""Record, the labels or predictions of one image: the data type that all packages exchange.

box    x1, y1, x2, y2 in pixels of the stored image, x2 and y2 exclusive
span   start, end in characters of the caption, end exclusive
score  0..1, or None where a person drew the box
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any

from formats.io.notebook import html_table
from formats.io.plurals import many

Box = tuple[float, float, float, float]
Span = tuple[int, int]

# The box of a phrase that was not searched for yet (usage page of the reference).
PLACEHOLDER_BOX: Box = (0.0, 0.0, 1.0, 1.0)


# A thousand times any real image, and small enough that areas and sums stay finite.
LARGEST = 1e9  # pixels
MAX_LABEL = 999_999  # a limit, since lists of names are as long as the largest label; large data sets have 20,000


def check_box(box: Box) -> None:
    """Raises ValueError unless the box has x1 <= x2 and y1 <= y2, all within -LARGEST..LARGEST."""
    if len(box) == 4 and -LARGEST <= box[0] <= box[2] <= LARGEST and -LARGEST <= box[1] <= box[3] <= LARGEST:
        return
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        raise ValueError(f"box {box} is not four finite numbers; expected (x1, y1, x2, y2)")
    if max(map(abs, box)) > LARGEST:
        raise ValueError(f"box {box} reaches beyond {LARGEST:.0e} pixels; expected it inside the image")
    raise ValueError(f"box {box} has swapped corners; expected x1 <= x2 and y1 <= y2")


def check_score(score: float | None) -> None:
    """Raises ValueError unless the score is None or lies in 0..1."""
    if score is not None and not 0.0 <= score <= 1.0:
        raise ValueError(f"score {score} is outside 0..1")


def check_label(label: int) -> None:
    """Raises ValueError for a label above MAX_LABEL."""
    if label > MAX_LABEL:
        raise ValueError(f"label {shortened(label)} is above {MAX_LABEL}; expected the number of a category, from 0")


def shortened(value: object) -> str:
    """A value for a message, shortened; str() refuses integers of more than 4,300 digits."""
    try:
        text = str(value)
    except ValueError:
        return "of thousands of digits"
    return text if len(text) <= 80 else f"{text[:40]}…"


@dataclass(frozen=True, slots=True)
class Instance:
    """One object with its category.

    box: in pixels, as in the module's docstring. label: key in the data set's label map. score: of the model; None for
    a person's box. weight: factor on the box's training loss. ignore: neither positive nor negative in training.
    """

    box: Box
    label: int
    category: str
    score: float | None = None
    weight: float = 1.0
    ignore: bool = False

    def __post_init__(self) -> None:
        check_box(self.box)
        check_label(self.label)
        check_score(self.score)


@dataclass(frozen=True, slots=True)
class Region:
    """One phrase of the caption and all boxes it names.

    spans: characters of the caption that form the phrase; () if the file has none. phrase: the text of each span.
    boxes: () if nothing was found. scores: one per box; () for a person's boxes.
    """

    boxes: tuple[Box, ...]
    phrase: tuple[str, ...]
    spans: tuple[Span, ...] = ()
    scores: tuple[float, ...] = ()
    weight: float = 1.0
    ignore: bool = False

    def __post_init__(self) -> None:
        for box in self.boxes:
            check_box(box)
        for score in self.scores:
            check_score(score)
        if self.scores and len(self.scores) != len(self.boxes):
            raise ValueError(
                f"{many(len(self.scores), 'score')} for {many(len(self.boxes), 'box')}; expected one each or none"
            )
        for start, end in self.spans:
            if not 0 <= start < end:
                raise ValueError(f"span [{start}, {end}] is empty; expected 0 <= start < end")


@dataclass(frozen=True, slots=True)
class Record:
    """One image. filename: relative to the image folder. height, width: in pixels, after EXIF rotation.

    instances: None for an unlabelled image, () if nothing was found.
    caption, regions: both None for a detection record; regions is () if nothing of the caption was found.
    """

    filename: str
    height: int
    width: int
    instances: tuple[Instance, ...] | None = None
    caption: str | None = None
    regions: tuple[Region, ...] | None = None

    def __post_init__(self) -> None:
        if not self.filename:
            raise ValueError("filename is empty")
        if self.height <= 0 or self.width <= 0:
            raise ValueError(f"{self.filename}: size {self.width}x{self.height} is not positive")
        if max(self.height, self.width) > LARGEST:
            size = f"{shortened(self.width)} x {shortened(self.height)}"
            raise ValueError(f"{self.filename}: no image has {size} pixels; expected its size")
        if self.instances is not None and self.caption is not None:
            raise ValueError(f"{self.filename}: both detection and grounding; expected one of them")
        if self.caption is None and self.regions is not None:
            raise ValueError(f"{self.filename}: regions without a caption")
        for region in self.regions or ():
            for start, end in region.spans:
                length = len(self.caption or "")
                if end > length:
                    raise ValueError(
                        f"{self.filename}: span [{start}, {end}] leaves the caption of {length} characters"
                    )

    def draw(self, image: Any = None) -> Any:
        """Draws the boxes on the image; returns a PIL image, which a notebook displays.

        image: its path, the image folder, a PIL image, or (height, width, 3) uint8 RGB; None if filename is a path, as
        Detector.predict returns it. Raises InputError for an image that cannot be read.
        """
        # Imported by name, since formats may not import browse.
        return import_module("browse.draw").draw_image(self, image)

    def _repr_html_(self) -> str:
        """The notebook view, a row for each box; draw() shows the boxes on the image."""
        rows = [
            (instance.category, _number(instance.score, 2), *(_number(value, 0) for value in instance.box))
            for instance in self.instances or ()
        ]
        for region in self.regions or ():
            for index, box in enumerate(region.boxes):
                score = region.scores[index] if region.scores else None
                rows.append((" ".join(region.phrase), _number(score, 2), *(_number(value, 0) for value in box)))
        what = "unlabelled" if self.instances is None and self.regions is None else many(len(rows), "box")
        caption = f"{self.filename}, {self.width} x {self.height} pixels: {what}"
        caption += "" if self.caption is None else f"; {self.caption!r}"
        return html_table(caption, ("what", "score", "x1", "y1", "x2", "y2") if rows else (), rows)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


# __init__ of a frozen dataclass is slow, and files contain millions of boxes. Readers that have checked the values
# themselves can build instances with the functions below, in a fifth of the time.


def _setters(kind: type) -> list[Callable[[Any, Any], None]]:
    return [getattr(kind, field.name).__set__ for field in fields(kind)]


_new = object.__new__
_set_box, _set_label, _set_category, _set_score, _set_weight, _set_ignore = _setters(Instance)
_set_boxes, _set_phrase, _set_spans, _set_scores, _set_region_weight, _set_region_ignore = _setters(Region)


def checked_instance(box: Box, label: int, category: str, score: float | None) -> Instance:
    """Instance(box, label, category, score) without checks; the caller must have checked the values."""
    instance = _new(Instance)
    _set_box(instance, box)
    _set_label(instance, label)
    _set_category(instance, category)
    _set_score(instance, score)
    _set_weight(instance, 1.0)
    _set_ignore(instance, False)
    return instance


def checked_region(
    boxes: tuple[Box, ...], phrase: tuple[str, ...], spans: tuple[Span, ...], scores: tuple[float, ...]
) -> Region:
    """Region(boxes, phrase, spans, scores) without checks; the caller must have checked the values."""
    region = _new(Region)
    _set_boxes(region, boxes)
    _set_phrase(region, phrase)
    _set_spans(region, spans)
    _set_scores(region, scores)
    _set_region_weight(region, 1.0)
    _set_region_ignore(region, False)
    return region
