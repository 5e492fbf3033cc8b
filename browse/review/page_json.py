"""Converts a record to JSON for the page of `browse serve`, and back; checks a person's changes.

The page has boxes and what each of them shows: {"box": [x1, y1, x2, y2], "of": 3, "score": 0.81, "ignore": false},
pixels of the stored image. `of` is a label, or for a caption the position of a phrase in the line's phrases. A phrase
is {"texts": ["a red cat"], "spans": [[0, 9]]}, spans in characters (code points) of the caption.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from formats.io.errors import InputError
from formats.record import PLACEHOLDER_BOX, Box, Instance, Record, Region, Span

_EXPECTED_BOX = "expected [x1, y1, x2, y2] within the image, x1 < x2 and y1 < y2"


class Phrase(NamedTuple):
    """Words of a caption that boxes belong to. texts: one per span. spans: () if their position is unknown."""

    texts: tuple[str, ...]
    spans: tuple[Span, ...]


def phrases_of(*records: Record) -> list[Phrase]:
    """The phrases of one caption, each once, in the order of the records."""
    named = (Phrase(region.phrase, region.spans) for record in records for region in record.regions or ())
    return list(dict.fromkeys(named))


def box_words(record: Record, of: int) -> str:
    """The category or phrase of a box. of: as in the page."""
    if record.caption is None:
        return next((each.category for each in record.instances or () if each.label == of), str(of))
    return " … ".join(phrases_of(record)[of].texts)


def phrase_of_words(page: dict[str, Any], words: str) -> int:
    """The position of the phrase with these words in a line of the page; a missing phrase is added.

    Raises InputError if the line's caption does not contain the words.
    """
    wanted, caption = words.strip().casefold(), page["caption"] or ""
    for position, phrase in enumerate(page["phrases"]):
        if " … ".join(phrase["texts"]).casefold() == wanted:
            return position
    start = (
        caption.casefold().find(wanted) if wanted and len(caption.casefold()) == len(caption) else caption.find(words)
    )
    if start < 0 or not wanted:
        what = f"its caption does not have the words {words!r}"
        raise InputError(page["filename"], what, "expected words of each selected caption")
    end = start + len(words.strip())
    page["phrases"].append({"texts": [caption[start:end]], "spans": [[start, end]]})
    return len(page["phrases"]) - 1


def boxes_to_page(record: Record, phrases: Sequence[Phrase] | None = None) -> list[dict[str, Any]]:
    """The record's boxes, clipped to the image as training clips them.

    phrases: of the caption; the record's own by default. A box completely outside is not clipped, so that a person
    sees it and deletes it.
    """
    phrases = phrases_of(record) if phrases is None else phrases
    boxes = [(each.box, each.label, each.score, each.ignore) for each in record.instances or ()]
    for region in record.regions or ():
        of = phrases.index(Phrase(region.phrase, region.spans))
        scores = region.scores or (None,) * len(region.boxes)
        boxes += [(box, of, score, region.ignore) for box, score in zip(region.boxes, scores) if box != PLACEHOLDER_BOX]
    return [
        {"box": _cut(box, record.width, record.height), "of": of, "score": score, "ignore": ignore}
        for box, of, score, ignore in boxes
    ]


def with_scores(boxes: list[dict[str, Any]], model: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A person's boxes; those that are unchanged get the model's score."""
    scores = {(*each["box"], each["of"]): each["score"] for each in model}
    return [{**each, "score": each["score"] or scores.get((*each["box"], each["of"]))} for each in boxes]


def record_from_page(
    record: Record, entries: Any, phrases: Any, known: Sequence[Phrase], categories: Mapping[int, str]
) -> Record:
    """The record with the boxes of the page instead of the model's.

    phrases: for a caption, all phrases that its boxes may belong to, including words that a person marked.
    Raises InputError, naming the image and the box, for an invalid box or phrase.
    """
    if not isinstance(entries, list):
        raise InputError(record.filename, "boxes is not a list", "expected a list of boxes")
    boxes = [_box(entry, record, number) for number, entry in enumerate(entries, start=1)]
    if record.caption is None:
        return replace(record, instances=_instances(record, boxes, categories))
    return replace(record, regions=_regions(record, boxes, _phrases(record, phrases, known)))


class _PageBox(NamedTuple):
    location: str
    box: Box
    of: int
    ignore: bool


def _box(entry: Any, record: Record, number: int) -> _PageBox:
    location = f"{record.filename}: box {number}"
    if not isinstance(entry, dict):
        raise InputError(location, "is not an object", _EXPECTED_BOX)
    sides, of, ignore = entry.get("box"), entry.get("of"), entry.get("ignore", False)
    if not isinstance(sides, list) or len(sides) != 4 or not all(map(_is_finite, sides)):
        raise InputError(location, f"{sides!r} is not four finite numbers", _EXPECTED_BOX)
    x1, y1, x2, y2 = (round(float(side), 2) for side in sides)  # the precision of label files
    if not (x1 < x2 and y1 < y2):
        raise InputError(location, f"({x1:g}, {y1:g}, {x2:g}, {y2:g}) is empty", _EXPECTED_BOX)
    if x1 < 0 or y1 < 0 or x2 > record.width or y2 > record.height:
        size = f"{record.width} x {record.height} pixels"
        raise InputError(location, f"({x1:g}, {y1:g}, {x2:g}, {y2:g}) is outside the image of {size}", _EXPECTED_BOX)
    if type(of) is not int or type(ignore) is not bool:
        raise InputError(location, f"of is {of!r}, ignore is {ignore!r}", "expected a whole number, and true or false")
    return _PageBox(location, (x1, y1, x2, y2), of, ignore)


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9 and math.isfinite(value)


def _instances(record: Record, boxes: Iterable[_PageBox], categories: Mapping[int, str]) -> tuple[Instance, ...]:
    instances = []
    for each in boxes:
        if each.of not in categories:
            raise InputError(each.location, f"there is no category {each.of}", "expected a label of the label map")
        instances.append(Instance(each.box, each.of, categories[each.of], ignore=each.ignore))
    return tuple(instances)


def _regions(record: Record, boxes: Sequence[_PageBox], phrases: Sequence[Phrase]) -> tuple[Region, ...]:
    """One region per phrase, in the order of the phrases; ignored boxes have a separate region."""
    for each in boxes:
        if not 0 <= each.of < len(phrases):
            raise InputError(each.location, f"there is no phrase {each.of}", "expected a phrase of the caption")
    regions = []
    for number, phrase in enumerate(phrases):
        for ignore in (False, True):
            of_phrase = tuple(each.box for each in boxes if each.of == number and each.ignore is ignore)
            if of_phrase:
                regions.append(Region(of_phrase, phrase.texts, phrase.spans, ignore=ignore))
    return tuple(regions)


def _phrases(record: Record, entries: Any, known: Sequence[Phrase]) -> list[Phrase]:
    if not isinstance(entries, list):
        raise InputError(record.filename, "phrases is not a list", "expected the phrases of the caption")
    return [_phrase(each, record, known) for each in entries]


def _phrase(entry: Any, record: Record, known: Sequence[Phrase]) -> Phrase:
    """A phrase of the line, or words of the caption that a person marked. Raises InputError for anything else."""
    try:
        texts = tuple(str(text) for text in entry["texts"])
        spans = tuple((int(start), int(end)) for start, end in entry["spans"])
    except (TypeError, KeyError, ValueError):
        raise InputError(
            record.filename, f"{entry!r} is not a phrase", 'expected {"texts": [...], "spans": [...]}'
        ) from None
    caption = record.caption or ""
    phrase = Phrase(texts, spans)
    if phrase in known:
        return phrase
    if not spans or any(not 0 <= start < end <= len(caption) for start, end in spans):
        raise InputError(
            record.filename, f"spans {list(spans)} are not words of the caption", "expected [[start, end]]"
        )
    if texts != tuple(caption[start:end] for start, end in spans):
        raise InputError(
            record.filename, f"{list(texts)} is not the text of its spans", "expected words of the caption"
        )
    return phrase


def _cut(box: Box, width: int, height: int) -> list[float]:
    x1, y1, x2, y2 = max(0.0, box[0]), max(0.0, box[1]), min(float(width), box[2]), min(float(height), box[3])
    return [x1, y1, x2, y2] if x1 < x2 and y1 < y2 else list(box)
