"""Reads the rows of a YOLO label file and tells boxes, predictions, tracks, polygons and poses apart, per file.

Nothing in a row declares its kind, and the numbers of a track or a pose could also be a polygon. The kind is decided by
the kpt_shape of the data set and by what all rows of a file have in common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from formats.io.errors import InputError
from formats.io.files import read_text
from formats.record import Box

# Rounding and boxes at the border may exceed 0..1 by this much; beyond it, the numbers are pixels by mistake.
_SLACK = 0.05
_VISIBILITIES = (0, 1, 2)
_FORMS = "expected cx cy w h, cx cy w h score, or the x y of 3 or more points"


class Keypoints(NamedTuple):
    """kpt_shape in the YAML of a data set. numbers: per point, 2, or 3 with the visibility."""

    points: int
    numbers: int


@dataclass(frozen=True)
class YoloRow:
    """One object. box: in fractions of the image. unread: what else the row contains, for counting omissions."""

    location: str
    label: int
    box: Box
    score: float | None = None
    unread: str = ""


def read_rows(path: Path, class_count: int, keypoints: Keypoints | None) -> list[YoloRow]:
    """All rows of a label file. Raises InputError at the first invalid one."""
    lines = enumerate(read_text(path, "expected lines of class cx cy w h").splitlines(), start=1)
    parsed = [(f"{path}:{number}", _numbers(line, f"{path}:{number}")) for number, line in lines if line.strip()]
    tracked = _are_tracks([numbers for _, (_, *numbers) in parsed], keypoints)
    rows = []
    for location, (label, *numbers) in parsed:
        if not label.is_integer() or not 0 <= label < class_count:
            raise InputError(location, f"class {label:g} is unknown", f"expected 0..{class_count - 1}")
        rows.append(_row(location, int(label), numbers[:-1] if tracked else numbers, keypoints, tracked))
    return rows


def _numbers(line: str, location: str) -> list[float]:
    try:
        numbers = [float(text) for text in line.split()]
    except ValueError:
        raise InputError(location, f"{line.strip()!r} is not a row of numbers", "expected class cx cy w h") from None
    if not all(map(math.isfinite, numbers)):
        raise InputError(location, f"{line.strip()!r} has a number that is not finite", "expected class cx cy w h")
    return numbers


def _are_tracks(rows: Sequence[Sequence[float]], keypoints: Keypoints | None) -> bool:
    """Whether every row ends with a unique track number (1, 2, 3, …), as the tracker of Ultralytics writes them.

    If the only number is 1, it could also be a score or a coordinate. Then only `cx cy w h score 1` counts as a track,
    since a triangle that ends exactly at the border and also reads as a valid box is rarer.
    """
    ends = [row[-1] for row in rows if len(row) >= 5]
    if not ends or len(ends) < len(rows) or len(set(ends)) < len(ends):
        return False
    if not all(end.is_integer() and end >= 1 for end in ends):
        return False
    if max(ends) >= 2:
        return not any(_is_pose(row, keypoints) for row in rows)  # a pose can end with the visibility 2
    return keypoints is None and all(len(row) == 6 and _is_inside(row) for row in rows)


def _is_inside(row: Sequence[float]) -> bool:
    """Whether the first four numbers are a box inside the image."""
    cx, cy, w, h = row[:4]
    return all(
        side > 0 and middle - side / 2 >= -_SLACK and middle + side / 2 <= 1 + _SLACK
        for middle, side in ((cx, w), (cy, h))
    )


def _is_pose(row: Sequence[float], keypoints: Keypoints | None) -> bool:
    """By the count of numbers if there is a kpt_shape; else whether every third number after the box is 0, 1 or 2."""
    if keypoints is not None:
        return len(row) - 4 - keypoints.points * keypoints.numbers in (0, 1)  # 1: with a score
    seen = row[6::3]
    return len(row) >= 7 and len(row) % 3 == 1 and all(each in _VISIBILITIES for each in seen) and _is_inside(row)


def _row(location: str, label: int, numbers: list[float], keypoints: Keypoints | None, tracked: bool) -> YoloRow:
    """Parses a row. numbers: those after the class, without the track number."""
    unread = "track numbers" if tracked else ""
    if _is_pose(numbers, keypoints):
        end = 4 + (keypoints.points * keypoints.numbers if keypoints else len(numbers) - 4)
        numbers, unread = numbers[:4] + numbers[end:], "objects with keypoints, only the bounding box is read"
    elif keypoints is not None and len(numbers) > 5:
        want = f"cx cy w h and {keypoints.points} keypoints of {keypoints.numbers} numbers, by kpt_shape"
        raise InputError(location, f"{len(numbers)} numbers after the class", f"expected {want}")
    beyond = next((number for number in numbers if not -_SLACK <= number <= 1 + _SLACK), None)
    if beyond is not None:
        raise InputError(location, f"{beyond:g} is not a fraction of the image", "expected numbers in 0..1, not pixels")
    if len(numbers) in (4, 5):
        cx, cy, w, h = numbers[:4]
        box = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
        return YoloRow(location, label, box, numbers[4] if len(numbers) == 5 else None, unread)
    if tracked and len(numbers) % 2 == 1:  # the outline of a mask, and its score
        return _polygon(location, label, numbers[:-1], numbers[-1])
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        return _polygon(location, label, numbers, None)
    raise InputError(location, f"{len(numbers)} numbers after the class", _FORMS)


def _polygon(location: str, label: int, numbers: Sequence[float], score: float | None) -> YoloRow:
    xs, ys = numbers[0::2], numbers[1::2]
    box = (min(xs), min(ys), max(xs), max(ys))
    return YoloRow(location, label, box, score, "polygons, only the bounding box is read")
