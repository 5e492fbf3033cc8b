"""Reads Open Images: a CSV with a box per line, in fractions of the image, and a second CSV with class names.

ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside

Each box has the one class in the file. The challenge's evaluation also counts a dog as a mammal and an animal, by
bbox_labels_hierarchy.json, and evaluates only classes that were verified in an image. Neither is done here.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

from formats.images import image_size, safe_join
from formats.io.errors import InputError, refused
from formats.omissions import Omissions
from formats.record import Instance, Record

_FLAGS = ("IsOccluded", "IsTruncated", "IsDepiction", "IsInside")
_NEEDED = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")


def read_openimages(
    boxes: str | Path, classes: str | Path, image_dir: str | Path, omissions: Omissions | None = None
) -> Iterator[Record]:
    """Yields a record for each image in the CSV, named ImageID.jpg; sizes come from the images.

    classes: class-descriptions-boxable.csv, whose order determines the labels. Groups of objects have `ignore` set;
    occluded, truncated, depicted and inside objects are kept and counted in omissions (the reference,
    openimages2odvg.py, drops all five kinds). The lines of an image must be consecutive, as in the published file.
    Raises InputError for unknown classes and invalid numbers.
    """
    labels = {code: (label, name) for label, (code, name) in enumerate(_read_classes(classes))}
    seen: set[str] = set()
    for image_id, group in groupby(_lines(boxes), key=lambda numbered: numbered[1]["ImageID"]):
        lines = list(group)
        if omissions is not None:
            omissions.update(flag for _, line in lines for flag in _FLAGS if line.get(flag) == "1")
        filename = f"{image_id}.jpg"
        if image_id in seen:
            location = f"{boxes}:{lines[0][0]}"
            raise InputError(location, f"{image_id} occurs again", "expected its lines to be consecutive; sort them")
        seen.add(image_id)
        height, width = image_size(safe_join(image_dir, filename))
        instances = tuple(_instance(line, labels, height, width, f"{boxes}:{number}") for number, line in lines)
        yield Record(filename, height, width, instances)


def read_openimages_categories(boxes: str | Path, classes: str | Path) -> tuple[str, ...]:
    """The category names in the order of the labels, which is that of the class file."""
    return tuple(name for _, name in _read_classes(classes))


def _read_classes(path: str | Path) -> list[tuple[str, str]]:
    """(code, name) for each class."""
    rows = list(_rows(path, "expected class-descriptions-boxable.csv"))
    if any(len(row) < 2 for _, row in rows):
        raise InputError(path, "has a line without a name", "expected code,name")
    codes = [(row[0], row[1]) for _, row in rows]
    return codes[1:] if codes and codes[0] == ("LabelName", "DisplayName") else codes  # v7 has a header


def _lines(path: str | Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, fields by name) for each line."""
    rows = _rows(path, "expected Open Images' CSV of boxes")
    _, header = next(rows, (1, []))
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        raise InputError(f"{path}:1", f"the header lacks {', '.join(missing)}", f"expected {','.join(_NEEDED)},...")
    for number, row in rows:
        if len(row) != len(header):
            raise InputError(f"{path}:{number}", f"has {len(row)} fields", f"expected {len(header)}, as in the header")
        yield number, dict(zip(header, row))


def _rows(path: str | Path, want: str) -> Iterator[tuple[int, list[str]]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            for number, row in enumerate(csv.reader(stream), start=1):
                if row:
                    yield number, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, f"cannot be read ({error})", want) from error


def _instance(
    line: Mapping[str, str], labels: Mapping[str, tuple[int, str]], height: int, width: int, location: str
) -> Instance:
    if line["LabelName"] not in labels:
        raise InputError(location, f"class {line['LabelName']!r} is unknown", "expected one of the class file")
    label, name = labels[line["LabelName"]]
    try:
        x1, x2, y1, y2 = (float(line[side]) for side in ("XMin", "XMax", "YMin", "YMax"))
    except ValueError:
        x1 = x2 = y1 = y2 = math.nan
    if not all(0 <= side <= 1 for side in (x1, x2, y1, y2)):
        raise InputError(location, "XMin, XMax, YMin, YMax are not fractions of the image", "expected numbers in 0..1")
    try:
        box = (x1 * width, y1 * height, x2 * width, y2 * height)
        return Instance(box, label, name, ignore=line.get("IsGroupOf") == "1")
    except ValueError as error:
        raise refused(location, error) from error
