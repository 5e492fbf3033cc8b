"""Finds errors in the records of a data set, each with its location and what was expected.

Readers reject what is not a valid record; the checks here find records that are valid but wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from formats.images import image_size, safe_join
from formats.io.errors import InputError
from formats.io.plurals import many, verb
from formats.record import Box, Instance, Record, Region

MAX_SIZES = 100  # images to compare: enough to see that a folder was resized
MAX_BEYOND = 1.0  # pixels by which a box may leave the image, for rounding and tools that count from 1
_MIN_SIDE = 1.0  # pixels; training skips thinner boxes, as the reference does


class Checker:
    """Checks records one by one, and remembers names to find contradictions.

    names: the label map, label -> name; without one, the first name of each label counts. image_dir: the images, to
    compare their sizes with those of the records.
    """

    def __init__(self, names: Mapping[int, str] | None = None, image_dir: str | Path | None = None) -> None:
        self._given = names is not None
        self._names = dict(names or {})
        self._image_dir = image_dir
        self._seen: dict[str, str] = {}

    @property
    def names(self) -> Mapping[int, str]:
        """The names of the label map, or those of the records so far."""
        return self._names

    def problems(self, record: Record, location: str) -> Iterator[InputError]:
        """Yields what is wrong with the record at `location`."""
        if record.caption is None:
            yield from self._seen_before(record, location)
        boxes: set[tuple[Box, int]] = set()
        for index, instance in enumerate(record.instances or ()):
            where = f"instance {index}: "
            yield from _box_problems(instance.box, record, location, where)
            yield from self._name_problems(instance, location, where)
            if (instance.box, instance.label) in boxes:
                yield InputError(location, f"{where}duplicate box of {instance.category!r}", "remove one")
            boxes.add((instance.box, instance.label))
        for index, region in enumerate(record.regions or ()):
            where = f"region {index}: "
            for box in region.boxes:
                yield from _box_problems(box, record, location, where)
            yield from _phrase_problems(region, record.caption or "", location, where)
        if self._image_dir is not None:
            yield from _image_problems(record, self._image_dir, location)

    def _seen_before(self, record: Record, location: str) -> Iterator[InputError]:
        """Several captions may share an image, but an image must not have two detection records."""
        first = self._seen.setdefault(record.filename, location)
        if first != location:
            yield InputError(location, f"{record.filename} is already at {first}", "merge the two records")

    def _name_problems(self, instance: Instance, location: str, where: str) -> Iterator[InputError]:
        known = self._names.get(instance.label) if self._given else self._name_of(instance)
        if known is None:
            yield InputError(
                location, f"{where}label {instance.label} is not in the label map", "add it, or correct it"
            )
        elif known != instance.category:
            what = f"{where}label {instance.label} is {instance.category!r}; elsewhere it is {known!r}"
            yield InputError(location, what, "expected one name per label")

    def _name_of(self, instance: Instance) -> str:
        return self._names.setdefault(instance.label, instance.category)


class GeometryNotes:
    """Counts boxes that leave their image, and images of another size than their record says, while records pass.

    image_dir: the images, if known; only the headers of the first MAX_SIZES are read.
    """

    def __init__(self, image_dir: str | Path | None) -> None:
        self._image_dir = image_dir
        self._boxes, self._resized, self._compared = 0, 0, 0
        self._first_box, self._first_size = "", ""

    def noting(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            if beyond := sum(pixels_beyond(box, record) > MAX_BEYOND for box in _boxes_of(record)):
                self._first_box = self._first_box or record.filename
                self._boxes += beyond
            if self._image_dir is not None and self._compared < MAX_SIZES:
                self._compare_size(record, self._image_dir)
            yield record

    def _compare_size(self, record: Record, image_dir: str | Path) -> None:
        try:
            height, width = image_size(safe_join(image_dir, record.filename))
        except InputError:  # a missing image is reported by what reads it
            return
        self._compared += 1
        if (height, width) != (record.height, record.width):
            sizes = f"{record.filename!r}, {width}x{height} and not {record.width}x{record.height}"
            self._first_size = self._first_size or sizes
            self._resized += 1

    def remarks(self) -> Iterator[str]:
        """A sentence for each kind of what was found."""
        if self._boxes:
            leave = verb(self._boxes, "leaves", "leave")
            yield (
                f"{many(self._boxes, 'box')} {leave} the image by more than a pixel, first in {self._first_box!r}; "
                "`groundhog check` lists each"
            )
        if self._resized:
            has = verb(self._resized, "has", "have")
            yield (
                f"{self._resized} of the first {many(self._compared, 'image')} {has} another size than the "
                f"annotations say, first {self._first_size}; `groundhog check --images` lists each"
            )


def _boxes_of(record: Record) -> Iterator[Box]:
    for instance in record.instances or ():
        yield instance.box
    for region in record.regions or ():
        yield from region.boxes


def _box_problems(box: Box, record: Record, location: str, where: str) -> Iterator[InputError]:
    x1, y1, x2, y2 = box
    if x2 - x1 < _MIN_SIDE or y2 - y1 < _MIN_SIDE:
        yield InputError(location, f"{where}box {_text(box)} is thinner than a pixel", "remove it or draw it again")
    if (beyond := pixels_beyond(box, record)) > MAX_BEYOND:
        what = f"{where}box {_text(box)} leaves the image of {record.width}x{record.height} by {beyond:g} pixels"
        yield InputError(location, what, "clip it; if all do so, width and height may be swapped")


def pixels_beyond(box: Box, record: Record) -> float:
    """How far a box leaves its image; 0 or less if it lies inside."""
    x1, y1, x2, y2 = box
    return max(-x1, -y1, x2 - record.width, y2 - record.height)


def _phrase_problems(region: Region, caption: str, location: str, where: str) -> Iterator[InputError]:
    if not region.spans:
        what = f"{where}{' '.join(region.phrase)!r} does not occur exactly once in the caption"
        yield InputError(location, what, 'expected "tokens_positive"')
        return
    there = " ".join(caption[start:end] for start, end in region.spans)
    if there.split() != " ".join(region.phrase).split():
        what = f"{where}the phrase is {' '.join(region.phrase)!r}, its spans are {there!r}"
        yield InputError(location, what, "expected the same words; spans count characters from 0, the end is exclusive")


def _image_problems(record: Record, image_dir: str | Path, location: str) -> Iterator[InputError]:
    try:
        height, width = image_size(safe_join(image_dir, record.filename))
    except InputError as error:
        yield InputError(location, f"its image: {error.location}: {error.what}", error.remedy)
        return
    if (height, width) != (record.height, record.width):
        what = f"the size is {record.width}x{record.height}, but the image is {width}x{height}"
        yield InputError(location, what, "expected width x height of the image after EXIF rotation")


def _text(box: Box) -> str:
    return "[" + ", ".join(f"{side:g}" for side in box) + "]"
