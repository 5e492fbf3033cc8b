"""What a person says of labels: lines that win over the model's.

They lie beside their source, `X_od_reviewed.json` beside `X_od.json`: ODVG lines with `"reviewed": true` and the first
round that they hold for, `"since_round": 2` (1 where nothing is said). One line a file name, caption and first round.
Boxes of a person carry no score and have weight 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from formats.io.errors import InputError
from formats.io.files import write_whole
from formats.io.storage import as_path
from formats.odvg import line_bytes, record_to_line
from formats.odvg_lines import object_of_line, record_from_line
from formats.record import Record

Key = tuple[str, str | None]  # file name and caption: what tells one line of a source from another


class Correction(NamedTuple):
    """A line as a person left it.

    location: file and line number. since: the first round that it holds for; 0 for a line not marked as reviewed.
    text: the line as it stands in the file, without its end.
    """

    record: Record
    location: str
    since: int
    text: str


def key_of(record: Record) -> Key:
    """What tells this line of a source from the others."""
    return record.filename, record.caption


def reviewed_line(record: Record) -> dict[str, Any]:
    """The line of a corrected record, among labels or among corrections."""
    return record_to_line(record) | {"reviewed": True}


def reviewed_text(record: Record, since: int) -> str:
    """The line of a file of corrections, without its end."""
    return line_bytes(reviewed_line(by_person(record)) | {"since_round": since}).decode("utf-8")


def read_corrections(path: str | Path) -> Iterator[Correction]:
    """Every line of a file, marked as reviewed or not, without its scores and weights.

    Raises InputError for a line that is not a record, was quarantined, or whose round is not a number >= 1.
    """
    with as_path(path).open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            if raw.strip():
                yield parse_correction(raw.strip().removeprefix(b"\xef\xbb\xbf"), f"{path}:{number}")


def write_corrections(path: str | Path, texts: Iterable[str]) -> None:
    """Writes lines as reviewed_text makes them, whole or not at all."""
    with write_whole(path) as stream:
        stream.writelines(f"{text}\n" for text in texts)


def marked(corrections: list[Correction]) -> list[Correction]:
    """Those with `"reviewed": true`, or all where no line has it."""
    return [each for each in corrections if each.since] or corrections


def corrections_for(
    path: str | Path | None, number: int | None = None, check: Callable[[list[Correction]], None] | None = None
) -> dict[Key, Record]:
    """The corrected lines that hold for a round (None: for all), by file name and caption; a later one wins.

    path: a file of reviewed lines; None, or one that is not there: nothing was corrected. check: is given all of them,
    those of other rounds too, and raises InputError for what does not belong there.
    """
    if path is None or not Path(path).is_file():
        return {}
    corrections = marked(list(read_corrections(path)))
    if check is not None:
        check(corrections)
    held = holding(corrections, number)
    return {key: each.record for key, each in held.items()}


def holding(corrections: Iterable[Correction], number: int | None = None) -> dict[Key, Correction]:
    """Of corrections those that hold for a round (None: for all); a later one wins."""
    known = sorted(corrections, key=lambda correction: correction.since)
    return {key_of(each.record): each for each in known if number is None or each.since <= number}


def by_person(record: Record) -> Record:
    """The record without what a model said: its scores, and the weights that follow from them."""
    instances, regions = record.instances, record.regions
    return replace(
        record,
        instances=instances and tuple(replace(each, score=None, weight=1.0) for each in instances),
        regions=regions and tuple(replace(each, scores=(), weight=1.0) for each in regions),
    )


def parse_correction(raw: bytes, location: str) -> Correction:
    """The correction that one line holds; errors as read_corrections has them."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(location, f"is not UTF-8 ({error})", "expected it saved as UTF-8") from None
    entries = object_of_line(text, location)
    record = by_person(record_from_line(entries, location))
    since = entries.get("since_round", 1)
    if type(since) is not int or since < 1:
        raise InputError(location, f"since_round is {since!r}", "expected the number of a round, from 1")
    return Correction(record, location, since if entries.get("reviewed") is True else 0, text)
