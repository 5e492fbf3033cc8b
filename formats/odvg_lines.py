"""Parses one line of ODVG, the JSON object of an image, into a Record.

Common, valid entries take a fast path; all others go to functions that check one field after another and report what is
wrong. In messages, instances and regions count from 0.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from formats.io.errors import InputError, did_you_mean, refused
from formats.io.plurals import many
from formats.omissions import Omissions, count_unread
from formats.phrases import with_spans_found
from formats.record import (
    LARGEST,
    MAX_LABEL,
    PLACEHOLDER_BOX,
    Box,
    Instance,
    Record,
    Region,
    Span,
    checked_instance,
    checked_region,
)

QUARANTINED = "quarantined"  # key of the line of an image that could not be labelled
_QUARANTINED_KEY = f'"{QUARANTINED}"'

_LINE_KEYS = frozenset({"filename", "height", "width", "detection", "grounding", QUARANTINED})
_DETECTION_KEYS = frozenset({"instances"})
_GROUNDING_KEYS = frozenset({"caption", "regions"})
_INSTANCE_KEYS = frozenset({"bbox", "label", "category", "score", "weight", "ignore"})
_REGION_KEYS = frozenset({"bbox", "phrase", "tokens_positive", "score", "weight", "ignore"})

_EXPECTED_BOX = "expected [x1, y1, x2, y2]"


def is_quarantined(line: str | bytes) -> bool:
    """Whether a line is that of an image that could not be labelled. False for a line that is not JSON."""
    # Avoids parsing most lines.
    if not (_QUARANTINED_KEY in line if isinstance(line, str) else _QUARANTINED_KEY.encode() in line):
        return False
    try:
        entries = json.loads(line)
    except (ValueError, RecursionError):  # RecursionError: nested too deeply
        return False
    return isinstance(entries, dict) and QUARANTINED in entries


def object_of_line(text: str, location: str) -> dict[str, Any]:
    """The JSON object of a line. Raises InputError for anything else, and, with its reason, for a quarantined line."""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(location, f"is not JSON ({error})", "expected one JSON object per line") from None
    if not isinstance(entries, dict):
        raise InputError(location, f"contains a JSON {type(entries).__name__}", "expected one JSON object per line")
    if QUARANTINED in entries:
        raise InputError(location, str(entries[QUARANTINED]))
    return entries


def record_from_line(line: Mapping[str, Any], location: str, omissions: Omissions | None = None) -> Record:
    """The record in the JSON object of a line. omissions: counts keys that a record has no field for.

    Raises InputError at `location` if it is not a valid record.
    """
    _check_keys(line, _LINE_KEYS, location, "", omissions, "lines")
    instances = caption = regions = None
    if line.get("detection") is not None:
        instances = _instances(_table(line["detection"], location, "detection"), location, omissions)
    if line.get("grounding") is not None:
        caption, regions = _grounding(_table(line["grounding"], location, "grounding"), location, omissions)
    filename = _needed(line, "filename", location, "")
    if not isinstance(filename, str):
        raise InputError(location, f"filename {filename!r} is not text", "expected a path relative to the image folder")
    height = _whole(_needed(line, "height", location, ""), location, "height")
    width = _whole(_needed(line, "width", location, ""), location, "width")
    try:
        return Record(filename, height, width, instances, caption, regions)
    except ValueError as error:
        raise refused(location, error) from error


def _instances(detection: Mapping, location: str, omissions: Omissions | None) -> tuple[Instance, ...]:
    _check_keys(detection, _DETECTION_KEYS, location, "detection: ", omissions, "detection")
    entries = _needed(detection, "instances", location, "detection: ")
    if not isinstance(entries, list):
        raise InputError(location, "detection: instances is not a list", "expected [] or a list of instances")
    return tuple(
        [_plain_instance(entry) or _instance(entry, location, index, omissions) for index, entry in enumerate(entries)]
    )


# Nearly every entry is valid and in the simplest form. The functions below check that in a fifth of the time that the
# functions with detailed errors need, and return None for all other entries.


def _plain_instance(entry: Any) -> Instance | None:
    """The instance of a valid box, label, category and possibly a score; None for anything else."""
    try:
        x1, y1, x2, y2 = box = _plain_box(entry["bbox"])
        label, category, score = entry["label"], entry["category"], entry.get("score")
        if (
            type(label) is int
            and type(category) is str
            and -LARGEST <= x1 <= x2 <= LARGEST
            and -LARGEST <= y1 <= y2 <= LARGEST
            and label <= MAX_LABEL
            and (len(entry) == 3 if score is None else len(entry) == 4 and type(score) is float and 0 <= score <= 1)
        ):
            return checked_instance(box, label, category, score)
    except (TypeError, KeyError, ValueError):
        pass
    return None


def _plain_region(entry: Any) -> Region | None:
    """The region of valid boxes, one phrase and one span; None for anything else."""
    try:
        ((start, end),) = entry["tokens_positive"]
        phrase, bbox = entry["phrase"], entry["bbox"]
        boxes = [_plain_box(box) for box in bbox] if type(bbox[0]) is list else [_plain_box(bbox)]
        if (
            len(entry) == 3
            and type(phrase) is str
            and type(start) is type(end) is int
            and 0 <= start < end
            and all([-LARGEST <= x1 <= x2 <= LARGEST and -LARGEST <= y1 <= y2 <= LARGEST for x1, y1, x2, y2 in boxes])
            and boxes != [PLACEHOLDER_BOX]
        ):
            return checked_region(tuple(boxes), (phrase,), ((start, end),), ())
    except (TypeError, KeyError, ValueError, IndexError):
        pass
    return None


def _plain_box(value: Any) -> Box:
    """Raises ValueError or TypeError unless the value is four numbers."""
    x1, y1, x2, y2 = value
    if type(x1) is type(y1) is type(x2) is type(y2) is float:
        return x1, y1, x2, y2
    return _box(value, "", "")


def _instance(entry: Any, location: str, index: int, omissions: Omissions | None) -> Instance:
    where = f"instance {index}: "
    if not isinstance(entry, dict):
        raise InputError(location, f"{where}is a JSON {type(entry).__name__}", "expected an object")
    _check_keys(entry, _INSTANCE_KEYS, location, where, omissions, "instances")
    box = _box(_needed(entry, "bbox", location, where), location, where)
    label = _whole(_needed(entry, "label", location, where), location, f"{where}label")
    category = _needed(entry, "category", location, where)
    if not isinstance(category, str):
        raise InputError(location, f"{where}category {category!r} is not text", "expected the category's name")
    score = _scores(entry.get("score"), location, where)
    if len(score) > 1:
        raise InputError(location, f"{where}{many(len(score), 'score')} for one box", "expected one")
    weight, ignore = _weight_and_ignore(entry, location, where)
    try:
        return Instance(box, label, category, score[0] if score else None, weight, ignore)
    except ValueError as error:
        raise refused(location, error, where) from error


def _grounding(grounding: Mapping, location: str, omissions: Omissions | None) -> tuple[str, tuple[Region, ...] | None]:
    _check_keys(grounding, _GROUNDING_KEYS, location, "grounding: ", omissions, "grounding")
    caption = _needed(grounding, "caption", location, "grounding: ")
    if not isinstance(caption, str):
        raise InputError(location, f"grounding: caption {caption!r} is not text", "expected the caption")
    entries = grounding.get("regions")
    if entries is None:  # a caption whose phrases were not searched for yet
        return caption, None
    if not isinstance(entries, list):
        raise InputError(location, "grounding: regions is not a list", "expected [] or a list of regions")
    regions = [
        _plain_region(entry) or _region(entry, location, index, omissions) for index, entry in enumerate(entries)
    ]
    if any(not region.spans for region in regions):
        regions = with_spans_found(caption, regions)
    return caption, tuple(regions)


def _region(entry: Any, location: str, index: int, omissions: Omissions | None) -> Region:
    where = f"region {index}: "
    if not isinstance(entry, dict):
        raise InputError(location, f"{where}is a JSON {type(entry).__name__}", "expected an object")
    _check_keys(entry, _REGION_KEYS, location, where, omissions, "regions")
    boxes = _boxes(_needed(entry, "bbox", location, where), location, where)
    phrase = _phrase(_needed(entry, "phrase", location, where), location, where)
    spans = _spans(entry.get("tokens_positive"), location, where)
    scores = _scores(entry.get("score"), location, where)
    if boxes == (PLACEHOLDER_BOX,) and not scores:
        boxes = ()
    weight, ignore = _weight_and_ignore(entry, location, where)
    try:
        return Region(boxes, phrase, spans, scores, weight, ignore)
    except ValueError as error:
        raise refused(location, error, where) from error


# Values


def _box(value: Any, location: str, where: str) -> Box:
    try:
        x1, y1, x2, y2 = value
        if {type(x1), type(y1), type(x2), type(y2)} <= _NUMBERS:
            return float(x1), float(y1), float(x2), float(y2)
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(location, f"{where}box {text_of(value)} is not four numbers", _EXPECTED_BOX)


_NUMBERS = {int, float}
_LARGEST = sys.float_info.max  # JSON integers can be larger than any float


def _boxes(value: Any, location: str, where: str) -> tuple[Box, ...]:
    if isinstance(value, list) and (not value or isinstance(value[0], list)):
        return tuple([_box(box, location, where) for box in value])
    return (_box(value, location, where),)


def _phrase(value: Any, location: str, where: str) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        remedy = "expected a string or a list of strings"
        raise InputError(location, f"{where}phrase {text_of(value)} is not text", remedy)
    return tuple(texts)


def _spans(value: Any, location: str, where: str) -> tuple[Span, ...]:
    if value is None:
        return ()
    pairs = value if isinstance(value, list) else [value]
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or any(type(end) is not int for end in pair):
            raise InputError(
                location,
                f"{where}tokens_positive {text_of(value)} is not a list of spans",
                "expected [[start, end], ...] in characters of the caption",
            )
    return tuple([(start, end) for start, end in pairs])


def _scores(value: Any, location: str, where: str) -> tuple[float, ...]:
    """One number, a list, or a list in a list, as mmdet's DumpODVGResults writes it."""
    if value is None:
        return ()
    numbers = value if isinstance(value, list) else [value]
    if len(numbers) == 1 and isinstance(numbers[0], list):
        numbers = numbers[0]
    if any(type(number) not in _NUMBERS or abs(number) > _LARGEST for number in numbers):
        raise InputError(
            location, f"{where}score {text_of(value)} is not a number", "expected a number in 0..1 for each box"
        )
    return tuple([float(number) for number in numbers])


def _weight_and_ignore(entry: Mapping, location: str, where: str) -> tuple[float, bool]:
    weight, ignore = entry.get("weight", 1.0), entry.get("ignore", False)
    if type(weight) not in _NUMBERS or not 0 <= weight <= _LARGEST:
        raise InputError(location, f"{where}weight {text_of(weight)} is not a weight", "expected a number >= 0")
    if ignore not in (False, True):
        raise InputError(location, f"{where}ignore is {text_of(ignore)}", "expected true or false")
    return float(weight), bool(ignore)


def _whole(value: Any, location: str, name: str) -> int:
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():  # JSON made from tables often has 512.0
        return int(value)
    raise InputError(location, f"{name} {text_of(value)} is not a whole number", "expected a whole number")


def _table(value: Any, location: str, name: str) -> Mapping:
    if not isinstance(value, dict):
        raise InputError(location, f"{name} is a JSON {type(value).__name__}", "expected an object")
    return value


def _needed(table: Mapping, key: str, location: str, where: str) -> Any:
    try:
        return table[key]
    except KeyError:
        raise InputError(location, f"{where}{key!r} is missing", f"expected {_EXAMPLES[key]}") from None


_EXAMPLES = {
    "filename": '"filename": "a.jpg", relative to the image folder',
    "height": '"height" and "width" in pixels; `groundhog convert` takes them from the images',
    "width": '"height" and "width" in pixels; `groundhog convert` takes them from the images',
    "instances": '"instances": [...], empty if nothing was found',
    "caption": '"caption": "..."',
    "bbox": '"bbox": [x1, y1, x2, y2]',
    "label": '"label": the number of the category in the label map',
    "category": '"category": the name of the label in the label map',
    "phrase": '"phrase": the words of the caption that name the boxes',
}


def text_of(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# An unknown key is counted as an omission, unless it looks like a misspelling of a known key that is missing.


def _check_keys(
    table: Mapping, known: frozenset[str], location: str, where: str, omissions: Omissions | None, of: str
) -> None:
    if known.issuperset(table):
        return
    misspelt = _misspelt(frozenset(table), known)
    if misspelt:
        key, remedy = misspelt
        raise InputError(location, f"{where}unknown key {key!r}", remedy)
    count_unread(omissions, table, known, of)


@lru_cache(maxsize=1024)
def _misspelt(keys: frozenset[str], known: frozenset[str]) -> tuple[str, str] | None:
    """The first key that looks like a misspelling of a missing known key, and the remedy; None if there is none."""
    absent = sorted(known - keys)
    for key in sorted(keys - known):
        if remedy := did_you_mean(absent, key, similarity=0.8):
            return key, remedy
    return None
