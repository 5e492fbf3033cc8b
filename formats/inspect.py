"""`groundhog check` and `groundhog stats`: problems of an annotation file, and statistics of its content."""

from __future__ import annotations

import codecs
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import formats
from formats.convert import call, guess_format, with_progress
from formats.dataset_names import label_map_beside
from formats.io.errors import InputError
from formats.label_map import name_problems, read_label_map
from formats.odvg import read_odvg_located
from formats.odvg_lines import is_quarantined
from formats.record import Record
from formats.statistics import Statistics, statistics_of
from formats.validate import Checker

_ODVG = ("odvg", "open-groundingdino")


def check(source: str | Path, source_format: str | None = None, **options: Any) -> Iterator[InputError]:
    """Yields the problems of an annotation file in order; in ODVG their location is `file:line`.

    The names in an ODVG file are compared with the label map beside it, `X_label_map.json`; file names and sizes with
    the images in the option image_dir, if given. options: as for formats.convert.convert; omissions counts what is not
    read but is not a problem.
    """
    source_format = source_format or guess_format(source)
    image_dir = options.get("image_dir")
    if source_format in _ODVG:
        names = read_label_map(label_map_beside(source)) if label_map_beside(source).is_file() else None
        checker = Checker(names, image_dir)
        yield from name_problems(names or {}, label_map_beside(source))
        location = None
        for _, location, entry in with_progress(read_odvg_located(source, options.get("omissions"))):
            yield from checker.problems(entry, location) if isinstance(entry, Record) else [entry.error]
        if location is None:
            yield _is_empty(source)
        return
    checker, index = Checker(None, image_dir), -1
    refused: list[InputError] = []
    for index, record in enumerate(
        with_progress(_records(source, source_format, {**options, "on_problem": refused.append}))
    ):
        yield from _drained(refused)
        yield from checker.problems(record, f"{source}: record {index} ({record.filename})")
    yield from _drained(refused)
    if index < 0:
        yield _is_empty(source)
    yield from name_problems(_names_of(source, source_format, options) or checker.names, source)


def _is_empty(source: str | Path) -> InputError:
    return InputError(source, "has no image", "expected annotations of at least one")


def _names_of(source: str | Path, source_format: str, options: dict[str, Any]) -> dict[int, str]:
    """Label -> name as the source declares them, used or not; {} if it declares none or they cannot be read."""
    if source_format not in formats.CATEGORIES:
        return {}
    try:
        chosen = {name: value for name, value in options.items() if value is not None}
        return dict(enumerate(call(source_format, formats.CATEGORIES[source_format], chosen, source)))
    except InputError:
        return {}


def statistics(source: str | Path, source_format: str | None = None, **options: Any) -> Statistics:
    """Statistics of an annotation file. Raises InputError at its first invalid entry."""
    source_format = source_format or guess_format(source)
    counted = statistics_of(with_progress(_records(source, source_format, options)))
    if source_format in _ODVG:
        counted.quarantined = _quarantined_lines(Path(source))
    return counted


def _quarantined_lines(path: Path) -> int:
    """The number of lines that every reader skips."""
    with open(path, "rb") as stream:  # a JSON array may also have a record per line, with brackets and commas
        return sum(is_quarantined(line.strip().removeprefix(codecs.BOM_UTF8).strip(b"[], ")) for line in stream)


def _records(source: str | Path, source_format: str, options: dict[str, Any]) -> Iterator[Record]:
    reader = formats.READERS[source_format]
    known = inspect.signature(reader).parameters
    reader_options = {name: value for name, value in options.items() if value is not None and name in known}
    yield from call(source_format, reader, reader_options, source)


def _drained(problems: list[InputError]) -> Iterator[InputError]:
    yield from problems
    problems.clear()
