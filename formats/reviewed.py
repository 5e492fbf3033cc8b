"""Corrections: lines of labels reviewed by a person, which replace those of the model.

They are stored beside their source, `X_od_reviewed.json` beside `X_od.json`: ODVG lines with `"reviewed": true` and the
first round to which they apply, `"since_round": 2` (default 1). There is one line per file name, caption and first
round. Boxes of a person have no score and weight 1. A line with `"withdrawn": true` has no labels: from its round on,
the model's labels apply again.

During a review, the newest changes may still be in the journal beside the file (formats.review_journal);
read_corrections includes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from formats.dataset_names import review_journal_path
from formats.io.errors import InputError
from formats.io.files import write_whole
from formats.io.storage import as_path
from formats.odvg import line_bytes, record_to_line
from formats.odvg_lines import object_of_line, record_from_line
from formats.record import Record
from formats.review_journal import key_bytes, pending_changes

Key = tuple[str, str | None]  # file name and caption identify a line of a source


class Correction(NamedTuple):
    """A line corrected by a person.

    location: file and line number. since: the first round to which it applies; 0 for a line not marked as reviewed.
    text: the line as it is in the file, without its line end. withdrawn: from that round on, there is no correction.
    """

    record: Record
    location: str
    since: int
    text: str
    withdrawn: bool = False


def key_of(record: Record) -> Key:
    """The key of a record's line among those of its source."""
    return record.filename, record.caption


def reviewed_line(record: Record) -> dict[str, Any]:
    """The line of a corrected record, for a file of labels or of corrections."""
    return record_to_line(record) | {"reviewed": True}


def reviewed_text(record: Record, since: int) -> str:
    """The line of a record for a file of corrections, without a line end."""
    return line_bytes(reviewed_line(by_person(record)) | {"since_round": since}).decode("utf-8")


def withdrawn_text(record: Record, since: int) -> str:
    """The line that withdraws the correction of a record from a round on."""
    line = record_to_line(replace(record, instances=None, regions=None))
    return line_bytes(line | {"reviewed": True, "since_round": since, "withdrawn": True}).decode("utf-8")


def read_corrections(path: str | Path) -> Iterator[Correction]:
    """Yields every line of a file, reviewed or not, without scores and weights, with the journal's pending changes.

    Raises InputError for a line that is not a record, was quarantined, or whose round is not a number >= 1.
    """
    pending = pending_changes(path)  # read first, so that changes exported in between are not missed
    journal = review_journal_path(path)
    for each in read_corrections_file(path):
        change = pending.pop((_key_bytes_of(each.record), each.since), None) if pending else None
        if change is None:
            yield each
        elif change.text is not None:
            yield parse_correction(change.text.encode("utf-8"), str(journal))
    for change in pending.values():
        if change.text is not None:
            yield parse_correction(change.text.encode("utf-8"), str(journal))


def read_corrections_file(path: str | Path) -> Iterator[Correction]:
    """Like read_corrections, for the file alone."""
    with as_path(path).open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            if raw.strip():
                yield parse_correction(raw.strip().removeprefix(b"\xef\xbb\xbf"), f"{path}:{number}")


def _key_bytes_of(record: Record) -> bytes:
    return key_bytes(record.filename, record.caption)


def write_corrections(path: str | Path, texts: Iterable[str]) -> None:
    """Writes lines made by reviewed_text, atomically."""
    with write_whole(path) as stream:
        stream.writelines(f"{text}\n" for text in texts)


def marked(corrections: list[Correction]) -> list[Correction]:
    """Those with `"reviewed": true`, or all where no line has it."""
    return [each for each in corrections if each.since] or corrections


def corrections_for(
    path: str | Path | None, number: int | None = None, check: Callable[[list[Correction]], None] | None = None
) -> dict[Key, Record]:
    """The corrections that apply to a round (None: to any), by file name and caption; the latest one counts.

    path: a file of corrections; None or a missing file: there are none. check: is called with all of them, including
    those of other rounds, and raises InputError if any does not belong there.
    """
    if path is None or not Path(path).is_file():
        return {}
    corrections = marked(list(read_corrections(path)))
    if check is not None:
        check(corrections)
    held = holding(corrections, number)
    return {key: each.record for key, each in held.items()}


def holding(corrections: Iterable[Correction], number: int | None = None) -> dict[Key, Correction]:
    """The corrections that apply to a round (None: to any). The latest one counts; if withdrawn, there is none."""
    known = sorted(corrections, key=lambda correction: correction.since)
    last = {key_of(each.record): each for each in known if number is None or each.since <= number}
    return {key: each for key, each in last.items() if not each.withdrawn}


def by_person(record: Record) -> Record:
    """The record without the model's scores and the weights derived from them."""
    instances, regions = record.instances, record.regions
    return replace(
        record,
        instances=instances and tuple(replace(each, score=None, weight=1.0) for each in instances),
        regions=regions and tuple(replace(each, scores=(), weight=1.0) for each in regions),
    )


def parse_correction(raw: bytes, location: str) -> Correction:
    """Parses one line; raises the errors of read_corrections."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(location, f"is not UTF-8 ({error})", "save it as UTF-8") from None
    entries = object_of_line(text, location)
    record = by_person(record_from_line(entries, location))
    since = entries.get("since_round", 1)
    if type(since) is not int or since < 1:
        raise InputError(location, f"since_round is {since!r}", "expected the number of a round, from 1")
    reviewed = entries.get("reviewed") is True
    return Correction(record, location, since if reviewed else 0, text, entries.get("withdrawn") is True)
