"""ODVG JSON Lines: one image a line, categories ("detection") or a caption with its phrases ("grounding").

{"filename": "a.jpg", "height": 512, "width": 769,
 "detection": {"instances": [{"bbox": [x1, y1, x2, y2], "label": 2, "category": "chair"}]}}
{"filename": "b.jpg", "height": 375, "width": 500,
 "grounding": {"caption": "...", "regions": [
   {"bbox": [[x1, y1, x2, y2], ...], "phrase": "a desk", "tokens_positive": [[37, 43]]}]}}

Read are mmdet's dialect (one box or a list of boxes a region, the phrase a text or a list of texts, scores as its
DumpODVGResults nests them) and Open-GroundingDino's (one box a region, no tokens_positive). A line with neither kind
is an image nobody has labelled; the box [0, 0, 1, 1] stands for a phrase nobody has looked for. A file may also be one
JSON array of such objects. Lines number from 1 in messages, as in editors; instances and regions from 0.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import jsonlines

from formats.files import write_whole
from formats.losses import Losses, count_losses
from formats.problems import InputError
from formats.record import PLACEHOLDER_BOX, Box, Instance, Record, Region, Span

QUARANTINED = "quarantined"  # the key of a line that stands for an image which could not be labelled

_LINE_KEYS = frozenset({"filename", "height", "width", "detection", "grounding", QUARANTINED})
_DETECTION_KEYS = frozenset({"instances"})
_GROUNDING_KEYS = frozenset({"caption", "regions"})
_INSTANCE_KEYS = frozenset({"bbox", "label", "category", "score", "weight", "ignore"})
_REGION_KEYS = frozenset({"bbox", "phrase", "tokens_positive", "score", "weight", "ignore"})

_WANT_BOX = "want [x1, y1, x2, y2]"


@dataclass(frozen=True)
class LineProblem:
    """A line that is no record.

    line: its position among the file's non-empty lines, from 0. filename: as far as the line gives one.
    text: the line as it stands there. error: what is wrong; its place is `file:line`, counted from 1 with empty lines.
    """

    line: int
    filename: str | None
    text: str
    error: InputError


# Reading


def read_odvg(path: str | Path, on_problem: Callable[[LineProblem], None] | None = None) -> Iterator[Record]:
    """The records of an ODVG file in its order, one at a time.

    A broken line raises InputError, or is handed to `on_problem` and passed over. Lines with the key "quarantined"
    are passed over: whoever wrote them has counted them. Raises InputError when there is no such file.
    """
    for _, _, entry in read_odvg_places(path):
        if isinstance(entry, Record):
            yield entry
        elif on_problem is None:
            raise entry.error
        else:
            on_problem(entry)


def read_odvg_entries(path: str | Path) -> Iterator[tuple[int, Record | LineProblem]]:
    """(line, record or problem) of every line that is not empty and not quarantined; line as in LineProblem."""
    for line, _, entry in read_odvg_places(path):
        yield line, entry


def read_odvg_places(path: str | Path) -> Iterator[tuple[int, str, Record | LineProblem]]:
    """(line, place, record or problem), as read_odvg_entries; place: `file:number`, as messages name it."""
    for line, (number, value) in enumerate(_json_values(path)):
        place = f"{path}:{number}"
        if isinstance(value, _NotJson):
            error = InputError(place, value.what, "want one JSON object a line")
            yield line, place, LineProblem(line, None, value.text, error)
        elif not isinstance(value, dict):
            error = InputError(place, f"holds a JSON {type(value).__name__}", "want an object a line")
            yield line, place, LineProblem(line, None, _text_of(value), error)
        elif QUARANTINED not in value:
            try:
                yield line, place, record_from_line(value, place)
            except InputError as error:
                filename = value.get("filename")
                known = filename if isinstance(filename, str) else None
                yield line, place, LineProblem(line, known, _text_of(value), error)


class _NotJson(NamedTuple):
    text: str
    what: str


def _json_values(path: str | Path) -> Iterator[tuple[int, Any]]:
    """(number from 1, JSON value or _NotJson) of each non-empty line, or of each item of a file that is one array."""
    if not Path(path).is_file():
        what = "is not a file" if Path(path).exists() else "does not exist"
        raise InputError(path, what, "want an ODVG file (JSON Lines)")
    with open(path, "rb") as stream:
        first = next((line for line in stream if line.strip()), b"")
        if first.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            stream.seek(0)
            yield from enumerate(_json_array(path, stream.read()), start=1)
            return
        stream.seek(0)
        yield from _json_lines(stream)


def _json_array(path: str | Path, content: bytes) -> list:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # the latter: brackets without end
        raise InputError(
            path, f"starts like a JSON array but is none ({error})", "want JSON Lines or one array"
        ) from error


def _json_lines(stream: Iterable[bytes]) -> Iterator[tuple[int, Any]]:
    number = 0

    def counted() -> Iterator[bytes]:
        nonlocal number
        for line in stream:
            number += 1
            yield line

    # A decoder by name: jsonlines would else take whichever faster one happens to be installed,
    # and they differ in what they refuse.
    reader = jsonlines.Reader(counted(), loads=_decoded)
    while True:
        try:
            value = reader.read(allow_none=True, skip_empty=True)
        except EOFError:
            return
        except jsonlines.InvalidLineError as error:
            text = error.line.decode("utf-8", "replace") if isinstance(error.line, bytes) else error.line
            yield number, _NotJson(text, f"is not JSON ({error.__cause__})")
        else:
            yield number, value


def _decoded(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:  # brackets without end; jsonlines knows broken JSON as ValueError
        raise ValueError(str(error)) from None


def record_from_line(line: Mapping[str, Any], place: str) -> Record:
    """The record that a line's JSON object describes. Raises InputError at `place` when it describes none."""
    _check_keys(line, _LINE_KEYS, place, "")
    instances = caption = regions = None
    if line.get("detection") is not None:
        instances = _instances(_table(line["detection"], place, "detection"), place)
    if line.get("grounding") is not None:
        caption, regions = _grounding(_table(line["grounding"], place, "grounding"), place)
    filename = _needed(line, "filename", place, "")
    if not isinstance(filename, str):
        raise InputError(place, f"filename {filename!r} is no text", "want a path relative to the image folder")
    height = _whole(_needed(line, "height", place, ""), place, "height")
    width = _whole(_needed(line, "width", place, ""), place, "width")
    try:
        return Record(filename, height, width, instances, caption, regions)
    except ValueError as error:
        raise _refused(place, "", error) from error


def _instances(detection: Mapping, place: str) -> tuple[Instance, ...]:
    _check_keys(detection, _DETECTION_KEYS, place, "detection: ")
    entries = _needed(detection, "instances", place, "detection: ")
    if not isinstance(entries, list):
        raise InputError(place, "detection: instances is no list", "want [] or a list of instances")
    return tuple([_instance(entry, place, index) for index, entry in enumerate(entries)])


def _instance(entry: Any, place: str, index: int) -> Instance:
    where = f"instance {index}: "
    if not isinstance(entry, dict):
        raise InputError(place, f"{where}is a JSON {type(entry).__name__}", "want an object")
    _check_keys(entry, _INSTANCE_KEYS, place, where)
    box = _box(_needed(entry, "bbox", place, where), place, where)
    label = _whole(_needed(entry, "label", place, where), place, f"{where}label")
    category = _needed(entry, "category", place, where)
    if not isinstance(category, str):
        raise InputError(place, f"{where}category {category!r} is no text", "want the category's name")
    score = _scores(entry.get("score"), place, where)
    if len(score) > 1:
        raise InputError(place, f"{where}{len(score)} scores for one box", "want one")
    weight, ignore = _weight_and_ignore(entry, place, where)
    try:
        return Instance(box, label, category, score[0] if score else None, weight, ignore)
    except ValueError as error:
        raise _refused(place, where, error) from error


def _grounding(grounding: Mapping, place: str) -> tuple[str, tuple[Region, ...] | None]:
    _check_keys(grounding, _GROUNDING_KEYS, place, "grounding: ")
    caption = _needed(grounding, "caption", place, "grounding: ")
    if not isinstance(caption, str):
        raise InputError(place, f"grounding: caption {caption!r} is no text", "want the caption")
    entries = grounding.get("regions")
    if entries is None:  # a caption whose phrases nobody has looked for
        return caption, None
    if not isinstance(entries, list):
        raise InputError(place, "grounding: regions is no list", "want [] or a list of regions")
    regions = [_region(entry, place, index) for index, entry in enumerate(entries)]
    if any(not region.spans for region in regions):
        regions = _with_spans_found(caption, regions)
    return caption, tuple(regions)


def _region(entry: Any, place: str, index: int) -> Region:
    where = f"region {index}: "
    if not isinstance(entry, dict):
        raise InputError(place, f"{where}is a JSON {type(entry).__name__}", "want an object")
    _check_keys(entry, _REGION_KEYS, place, where)
    boxes = _boxes(_needed(entry, "bbox", place, where), place, where)
    phrase = _phrase(_needed(entry, "phrase", place, where), place, where)
    spans = _spans(entry.get("tokens_positive"), place, where)
    scores = _scores(entry.get("score"), place, where)
    if boxes == (PLACEHOLDER_BOX,) and not scores:
        boxes = ()
    weight, ignore = _weight_and_ignore(entry, place, where)
    try:
        return Region(boxes, phrase, spans, scores, weight, ignore)
    except ValueError as error:
        raise _refused(place, where, error) from error


# Values


def _box(value: Any, place: str, where: str) -> Box:
    try:
        x1, y1, x2, y2 = value
        if {type(x1), type(y1), type(x2), type(y2)} <= _NUMBERS:
            return float(x1), float(y1), float(x2), float(y2)
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(place, f"{where}box {_text_of(value)} is not four numbers", _WANT_BOX)


_NUMBERS = {int, float}


def _boxes(value: Any, place: str, where: str) -> tuple[Box, ...]:
    if isinstance(value, list) and (not value or isinstance(value[0], list)):
        return tuple([_box(box, place, where) for box in value])
    return (_box(value, place, where),)


def _phrase(value: Any, place: str, where: str) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InputError(place, f"{where}phrase {_text_of(value)} is no text", "want a text or a list of texts")
    return tuple(texts)


def _spans(value: Any, place: str, where: str) -> tuple[Span, ...]:
    if value is None:
        return ()
    pairs = value if isinstance(value, list) else [value]
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or any(type(end) is not int for end in pair):
            raise InputError(
                place,
                f"{where}tokens_positive {_text_of(value)} is no list of spans",
                "want [[start, end], ...] in characters of the caption",
            )
    return tuple([(start, end) for start, end in pairs])


def _scores(value: Any, place: str, where: str) -> tuple[float, ...]:
    """One number, a flat list, or the list in a list that mmdet's DumpODVGResults writes."""
    if value is None:
        return ()
    numbers = value if isinstance(value, list) else [value]
    if len(numbers) == 1 and isinstance(numbers[0], list):
        numbers = numbers[0]
    if any(type(number) not in _NUMBERS for number in numbers):
        raise InputError(place, f"{where}score {_text_of(value)} is no number", "want a number in 0..1 for each box")
    return tuple([float(number) for number in numbers])


def _weight_and_ignore(entry: Mapping, place: str, where: str) -> tuple[float, bool]:
    weight, ignore = entry.get("weight", 1.0), entry.get("ignore", False)
    if type(weight) not in _NUMBERS or not 0 <= weight < float("inf"):
        raise InputError(place, f"{where}weight {_text_of(weight)} is no factor", "want a number >= 0")
    if ignore not in (False, True):
        raise InputError(place, f"{where}ignore is {_text_of(ignore)}", "want true or false")
    return float(weight), bool(ignore)


def _whole(value: Any, place: str, name: str) -> int:
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():  # tables turned into JSON often write 512.0
        return int(value)
    raise InputError(place, f"{name} {_text_of(value)} is not a whole number", "want a whole number")


def _table(value: Any, place: str, name: str) -> Mapping:
    if not isinstance(value, dict):
        raise InputError(place, f"{name} is a JSON {type(value).__name__}", "want an object")
    return value


def _needed(table: Mapping, key: str, place: str, where: str) -> Any:
    try:
        return table[key]
    except KeyError:
        raise InputError(place, f"{where}{key!r} is missing", f"want {_EXAMPLES[key]}") from None


_EXAMPLES = {
    "filename": '"filename": "a.jpg", relative to the image folder',
    "height": '"height" and "width" in pixels; `groundhog convert` takes them from the images',
    "width": '"height" and "width" in pixels; `groundhog convert` takes them from the images',
    "instances": '"instances": [...], empty where nothing was found',
    "caption": '"caption": "..."',
    "bbox": '"bbox": [x1, y1, x2, y2]',
    "label": '"label": the number of the category in the label map',
    "category": '"category": the name of the label in the label map',
    "phrase": '"phrase": the words of the caption that name the boxes',
}


def _refused(place: str, where: str, error: ValueError) -> InputError:
    """A record's own refusal, `what; remedy`, with its place."""
    what, _, remedy = str(error).partition("; ")
    return InputError(place, where + what, remedy)


def _text_of(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# Misspelt keys: an unknown key is somebody's extra and passes, unless it looks like a known one that is not there.


def _check_keys(table: Mapping, known: frozenset[str], place: str, where: str) -> None:
    if known.issuperset(table):
        return
    misspelt = _misspelt(frozenset(table), known)
    if misspelt:
        raise InputError(place, f"{where}unknown key {misspelt[0]!r}", f"did you mean {misspelt[1]!r}?")


@lru_cache(maxsize=1024)
def _misspelt(given: frozenset[str], known: frozenset[str]) -> tuple[str, str] | None:
    absent = sorted(known - given)
    for key in sorted(given - known):
        close = difflib.get_close_matches(key, absent, n=1, cutoff=0.8)
        if close:
            return key, close[0]
    return None


# Spans for the dialect that has none


def _with_spans_found(caption: str, regions: list[Region]) -> list[Region]:
    """Regions without spans, given those of their phrase in the caption where that is certain.

    Whole words, letter case apart. A phrase that stands there once has that span. One that stands there as often as
    regions name it is taken in reading order. Otherwise the region stays without spans.
    """
    # Keyed by the phrase in one case, since that is how it is looked for.
    asked = [tuple(text.strip().lower() for text in region.phrase) for region in regions if not region.spans]
    occurrences = {text: _occurrences(caption, text) for text in chain.from_iterable(asked)}
    counts = {text: sum(text in phrase for phrase in asked) for text in occurrences}
    taken = dict.fromkeys(occurrences, 0)
    found: list[Region] = []
    for region in regions:
        if region.spans:
            found.append(region)
            continue
        spans: list[Span] = []
        for text in (text.strip().lower() for text in region.phrase):
            places = occurrences[text]
            if len(places) == 1:
                spans.append(places[0])
            elif places and len(places) == counts[text]:
                spans.append(places[taken[text]])
                taken[text] += 1
        complete = len(spans) == len(region.phrase)
        found.append(
            Region(
                region.boxes,
                region.phrase,
                tuple(spans) if complete else (),
                region.scores,
                region.weight,
                region.ignore,
            )
        )
    return found


def _occurrences(caption: str, text: str) -> list[Span]:
    """Where `text` stands in the caption as whole words: "container" is not in "containers"."""
    if not text:
        return []
    # Not \b: a phrase may begin or end with a sign, as "c++ sign" does.
    pattern = re.compile(rf"(?<!\w){re.escape(text)}(?!\w)", re.IGNORECASE)
    return [match.span() for match in pattern.finditer(caption)]


# Writing


def write_odvg(path: str | Path, records: Iterable[Record], placeholder: bool = False) -> Losses:
    """Writes records as ODVG JSON Lines, whole or not at all, taking them one at a time; gives what was left out.

    placeholder: write regions without boxes with the box [0, 0, 1, 1], as a bootstrap file needs them; otherwise they
    are left out, since mmdet's loader cannot read an empty list of boxes.
    """
    losses = Losses()
    with write_whole(path, "wb") as stream, jsonlines.Writer(stream, dumps=_line_bytes) as writer:
        for record in records:
            writer.write(record_to_line(record, placeholder))
            if record.regions and not placeholder:
                losses["phrases without a box"] += sum(not region.boxes for region in record.regions)
    return +losses  # without the zeros


def record_to_line(record: Record, placeholder: bool = False) -> dict[str, Any]:
    """The JSON object of a record's line. Boxes are rounded to 2 decimals, scores to 6 significant digits."""
    line: dict[str, Any] = {"filename": record.filename, "height": record.height, "width": record.width}
    if record.instances is not None:
        line["detection"] = {"instances": [_instance_entry(instance) for instance in record.instances]}
    if record.caption is not None:
        line["grounding"] = {"caption": record.caption}
        if record.regions is not None:
            regions = [region for region in record.regions if region.boxes or placeholder]
            line["grounding"]["regions"] = [_region_entry(region) for region in regions]
    return line


def _instance_entry(instance: Instance) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "bbox": _rounded_box(instance.box),
        "label": instance.label,
        "category": instance.category,
    }
    if instance.score is not None:
        entry["score"] = _rounded_score(instance.score)
    return _with_weight_and_ignore(entry, instance)


def _region_entry(region: Region) -> dict[str, Any]:
    boxes = [_rounded_box(box) for box in region.boxes]
    entry: dict[str, Any] = {
        "bbox": boxes or [int(side) for side in PLACEHOLDER_BOX],
        "phrase": region.phrase[0] if len(region.phrase) == 1 else list(region.phrase),
    }
    if region.spans:
        entry["tokens_positive"] = [list(span) for span in region.spans]
    if region.scores:
        entry["score"] = [_rounded_score(score) for score in region.scores]
    return _with_weight_and_ignore(entry, region)


def _with_weight_and_ignore(entry: dict[str, Any], source: Instance | Region) -> dict[str, Any]:
    if source.weight != 1:
        entry["weight"] = source.weight
    if source.ignore:
        entry["ignore"] = True
    return entry


def _rounded_box(box: Box) -> list[float]:
    return [round(side, 2) + 0.0 for side in box]  # + 0.0 turns -0.0 into 0.0


def _rounded_score(score: float) -> float:
    return float(f"{score:.6g}")


def _line_bytes(line: dict[str, Any]) -> bytes:
    try:
        return _ENCODER.encode(line).encode("utf-8")
    except UnicodeEncodeError:  # a file name that is not UTF-8 on disk can only be written escaped
        return json.dumps(line).encode("ascii")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def write_open_groundingdino(path: str | Path, records: Iterable[Record]) -> Losses:
    """Writes Open-GroundingDino's dialect: one box a region, no spans; gives what it has no place for."""
    losses = Losses()
    with write_whole(path, "wb") as stream, jsonlines.Writer(stream, dumps=_line_bytes) as writer:
        for record in records:
            writer.write(_open_line(record, losses))
    return +losses  # without the zeros


def _open_line(record: Record, losses: Losses) -> dict[str, Any]:
    count_losses(losses, record, ("unlabelled",) if record.caption is not None else ())
    line = record_to_line(record)
    if record.caption is None:
        instances = [instance for instance in record.instances or () if not instance.ignore]
        kept = [{key: entry[key] for key in ("bbox", "label", "category")} for entry in map(_instance_entry, instances)]
        return {**line, "detection": {"instances": kept}}
    regions: list[dict[str, Any]] = []
    for region in record.regions or ():
        losses["spans"] += len(region.spans)
        losses["scores"] += len(region.scores)
        losses["weights"] += region.weight != 1
        if region.ignore:
            losses["ignored boxes, left out"] += len(region.boxes)
        elif not region.boxes:
            losses["phrases without a box"] += 1
        else:
            phrase = " ".join(region.phrase)
            regions += [{"bbox": _rounded_box(box), "phrase": phrase} for box in region.boxes]
    return {**line, "grounding": {"caption": record.caption, "regions": regions}}
