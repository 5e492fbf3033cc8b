"""ODVG JSON Lines: one image per line, with boxes by category ("detection") or a caption and phrases ("grounding").

{"filename": "a.jpg", "height": 512, "width": 769,
 "detection": {"instances": [{"bbox": [x1, y1, x2, y2], "label": 2, "category": "chair"}]}}
{"filename": "b.jpg", "height": 375, "width": 500,
 "grounding": {"caption": "...", "regions": [
   {"bbox": [[x1, y1, x2, y2], ...], "phrase": "a desk", "tokens_positive": [[37, 43]]}]}}

The reader accepts mmdet's dialect (one box or a list of boxes per region, a phrase as a string or a list of strings,
scores nested as by its DumpODVGResults) and Open-GroundingDino's (one box per region, no tokens_positive). A line with
neither key is an unlabelled image; the box [0, 0, 1, 1] is a placeholder for a phrase that was not searched for yet. A
file may also be one JSON array of such objects. In messages, lines count from 1, as in editors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jsonlines
import orjson

from formats.io.errors import InputError, expected_one_of
from formats.io.files import write_whole
from formats.io.json_stream import stream_json
from formats.odvg_lines import QUARANTINED, record_from_line, text_of
from formats.omissions import Omissions, count_omissions
from formats.record import PLACEHOLDER_BOX, Box, Instance, Record, Region


@dataclass(frozen=True)
class LineProblem:
    """A line that is not a valid record.

    line: its index among the file's non-empty lines, from 0. filename: if the line has one. text: the line as it is in
    the file. error: what is wrong; its location is `file:line`, from 1.
    """

    line: int
    filename: str | None
    text: str
    error: InputError


# Reading


def read_odvg(
    path: str | Path,
    on_problem: Callable[[LineProblem], None] | None = None,
    omissions: Omissions | None = None,
) -> Iterator[Record]:
    """Yields the records of an ODVG file in order.

    An invalid line raises InputError, or is passed to `on_problem` and skipped. Lines with the key "quarantined" are
    skipped and counted in omissions, which also counts keys that a record has no field for.
    Raises InputError if the file does not exist.
    """
    for _, _, entry in read_odvg_located(path, omissions):
        if isinstance(entry, Record):
            yield entry
        elif on_problem is None:
            raise entry.error
        else:
            on_problem(entry)


def read_odvg_entries(path: str | Path) -> Iterator[tuple[int, Record | LineProblem]]:
    """Yields (line, record or problem) for each line that is not empty or quarantined; line as in LineProblem."""
    for line, _, entry in read_odvg_located(path):
        yield line, entry


def read_odvg_located(
    path: str | Path, omissions: Omissions | None = None
) -> Iterator[tuple[int, str, Record | LineProblem]]:
    """Yields (line, location, record or problem), like read_odvg_entries. location: `file:number`, for messages.

    omissions: as for read_odvg.
    """
    for line, (number, value) in enumerate(_json_values(path)):
        location = f"{path}:{number}"
        if isinstance(value, _NotJson):
            error = InputError(location, value.what, "expected one JSON object per line")
            yield line, location, LineProblem(line, None, value.text, error)
        elif not isinstance(value, dict):
            error = InputError(location, f"contains a JSON {type(value).__name__}", "expected one JSON object per line")
            yield line, location, LineProblem(line, None, text_of(value), error)
        elif QUARANTINED in value:
            if omissions is not None:
                omissions["quarantined lines, left out"] += 1
        else:
            try:
                yield line, location, record_from_line(value, location, omissions)
            except InputError as error:
                filename = value.get("filename")
                known = filename if isinstance(filename, str) else None
                yield line, location, LineProblem(line, known, text_of(value), error)


class _NotJson(NamedTuple):
    text: str
    what: str


def _json_values(path: str | Path) -> Iterator[tuple[int, Any]]:
    """(number from 1, JSON value or _NotJson) for each non-empty line, or for each item of a single JSON array."""
    if not Path(path).is_file():
        what = "is not a file" if Path(path).exists() else "does not exist"
        raise InputError(path, what, "expected an ODVG file (JSON Lines)")
    with open(path, "rb") as stream:
        first = next((line for line in stream if line.strip()), b"")
        if first.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            items = stream_json(path, "expected JSON Lines or one array")
            yield from ((item.position + 1, item.value) for item in items if item.position is not None)
            return
        stream.seek(0)
        yield from _json_lines(stream)


def _json_lines(stream: Iterable[bytes]) -> Iterator[tuple[int, Any]]:
    number = 0

    def counted() -> Iterator[bytes]:
        nonlocal number
        for line in stream:
            number += 1
            yield line

    # The decoder is passed explicitly: jsonlines would otherwise use any faster one that is installed,
    # and these differ in what they reject.
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
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass  # orjson also rejects NaN and file names that are not UTF-8; json reads these, or says what is wrong
    try:
        return json.loads(text)
    except RecursionError as error:  # nested too deeply; jsonlines expects a ValueError for invalid JSON
        raise ValueError(str(error)) from None


# Writing


UNLABELLED = "unlabelled images, left out: the training program would treat them as images without objects"
LOADERS = ("mmdet", "open-groundingdino")


def write_odvg(
    path: str | Path, records: Iterable[Record], placeholder: bool = False, loader: str | None = None
) -> Omissions:
    """Writes records as ODVG JSON Lines, atomically and one at a time; returns counts of what was left out.

    placeholder: write regions without boxes with the box [0, 0, 1, 1], as a bootstrap file needs them; otherwise they
    are left out, since mmdet's loader cannot read an empty list of boxes.
    loader: the program that will train on the file, one of LOADERS. What it would misread or fail at is left out.
    """
    if loader is not None and loader not in LOADERS:
        raise InputError("--for", f"is {loader!r}", expected_one_of(LOADERS, loader))
    if loader == "open-groundingdino":
        unlabelled = Omissions()
        omissions = write_open_groundingdino(path, _labelled(records, unlabelled))
        return omissions + unlabelled
    omissions = Omissions()
    with write_whole(path, "wb") as stream:
        for record in records if loader is None else _labelled(records, omissions):
            record = record if loader is None else _without_ignored(record, omissions)
            stream.write(line_bytes(record_to_line(record, placeholder)) + b"\n")
            if record.regions and not placeholder:
                omissions["phrases without a box"] += sum(not region.boxes for region in record.regions)
    return +omissions  # without the zeros


def _labelled(records: Iterable[Record], omissions: Omissions) -> Iterator[Record]:
    for record in records:
        if record.instances is None and record.caption is None:
            omissions[UNLABELLED] += 1
        else:
            yield record


def _without_ignored(record: Record, omissions: Omissions) -> Record:
    """Drops ignored boxes: mmdet does not know "ignore" in ODVG and would train on them as objects."""
    instances, regions = record.instances or (), record.regions or ()
    ignored = sum(each.ignore for each in instances) + sum(len(each.boxes) for each in regions if each.ignore)
    omissions["ignored boxes, left out"] += ignored
    if not ignored:
        return record
    return replace(
        record,
        instances=record.instances and tuple(each for each in instances if not each.ignore),
        regions=record.regions and tuple(each for each in regions if not each.ignore),
    )


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


def _encoder_of_lines() -> Callable[[Any, int], Iterable[str]]:
    """Builds json's encoder once; json.dumps builds one per call, which takes a tenth of the time of a short line."""
    plain = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # an interpreter without the module in C
        return lambda line, _: (plain.encode(line),)
    text, colon, comma = json.encoder.encode_basestring, plain.key_separator, plain.item_separator
    return make(None, plain.default, text, None, colon, comma, False, False, False)


_ENCODE = _encoder_of_lines()


def line_bytes(line: dict[str, Any]) -> bytes:
    """The JSON of a line in UTF-8, without a line end."""
    try:
        return "".join(_ENCODE(line, 0)).encode("utf-8")
    except UnicodeEncodeError:  # a file name that is not valid UTF-8 on disk can only be written escaped
        return json.dumps(line).encode("ascii")


def write_open_groundingdino(path: str | Path, records: Iterable[Record]) -> Omissions:
    """Writes Open-GroundingDino's dialect, one box per region and no spans; returns counts of what it cannot store."""
    omissions = Omissions()
    with write_whole(path, "wb") as stream, jsonlines.Writer(stream, dumps=line_bytes) as writer:
        for record in records:
            line = _open_line(record, omissions)
            if record.caption is not None and not line["grounding"]["regions"]:
                omissions["captions without a box, left out: Open-GroundingDino fails on them"] += 1
            else:
                writer.write(line)
    return +omissions  # without the zeros


def _open_line(record: Record, omissions: Omissions) -> dict[str, Any]:
    count_omissions(omissions, record, ("unlabelled",) if record.caption is not None else ())
    line = record_to_line(record)
    if record.caption is None:
        instances = [instance for instance in record.instances or () if not instance.ignore]
        kept = [{key: entry[key] for key in ("bbox", "label", "category")} for entry in map(_instance_entry, instances)]
        return {**line, "detection": {"instances": kept}}
    regions: list[dict[str, Any]] = []
    for region in record.regions or ():
        omissions["spans"] += len(region.spans)
        omissions["scores"] += len(region.scores)
        omissions["weights"] += region.weight != 1
        if region.ignore:
            omissions["ignored boxes, left out"] += len(region.boxes)
        elif not region.boxes:
            omissions["phrases without a box"] += 1
        else:
            phrase = " ".join(region.phrase)
            regions += [{"bbox": _rounded_box(box), "phrase": phrase} for box in region.boxes]
    return {**line, "grounding": {"caption": record.caption, "regions": regions}}
