"""A label file under review, and the file that stores the corrections.

Every change is written at once: the reviewed file (formats.reviewed) gets the line of that image, all other lines stay
byte for byte, and the label file itself is never changed. Each line is sent with its revision, which a change has to
return, so that two windows, or a window and `groundhog rounds approve`, do not overwrite one another.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from browse.images.colours import Colour, colour_of, ink_on
from browse.review.order import in_order
from browse.review.page_json import Phrase, boxes_to_page, phrases_of, record_from_page, with_scores
from formats.dataset_names import label_map_beside, parse_annotation_name, reviewed_path
from formats.io.errors import InputError
from formats.label_map import read_label_map, relabelled
from formats.odvg import read_odvg
from formats.record import Record
from formats.reviewed import (
    Correction,
    Key,
    holding,
    key_of,
    parse_correction,
    read_corrections,
    reviewed_text,
    write_corrections,
)

NAMED_PROBLEMS = 20  # this many lines that cannot be reviewed are listed; the rest are counted
PHRASE_COLOURS = 64  # a caption has a few phrases; beyond this many, colours repeat
UNTOUCHED = "untouched"  # the revision of an unreviewed line


class StaleRevision(Exception):
    """A change to a line that somebody else has changed since it was read."""


class Review:
    """One label file under review. All methods may be called from several threads.

    records: the lines that can be reviewed, in the order in which they are shown; their positions are the `number`
    of the methods. problems: the lines that cannot. path: the reviewed file. round: the first round for which
    corrections hold: 2 for X_od_v2.json, 1 for a name without a version.
    """

    def __init__(
        self,
        annotations: Path,
        label_map: Mapping[int, str] | None = None,
        out: Path | None = None,
        order: str = "file",
    ) -> None:
        """Raises InputError for a file that cannot be reviewed, or that cannot take the corrections."""
        self.annotations = annotations
        self.path = reviewed_path(annotations) if out is None else out
        if self.path.exists() and self.path.samefile(annotations):
            raise InputError(self.path, "is the label file itself", "expected another file for the corrections")
        self.round = 1 if (version := parse_annotation_name(annotations).version) is None else version
        self.problems: list[str] = []
        records = list(read_odvg(annotations, on_problem=lambda problem: self.problems.append(str(problem.error))))
        self.categories = dict(label_map or _categories(annotations, records))
        if not self.categories and any(record.caption is None for record in records):
            raise InputError(annotations, "has neither a label map nor boxes with names", "expected -m LABEL_MAP")
        self.records = in_order(self._named(records), order, annotations)
        self._lock = threading.RLock()
        self._corrections: dict[tuple[Key, int], Correction] = {}
        self._valid: dict[Key, Correction] = {}
        self._seen: tuple[int, int, int] | None = None
        self._refresh()

    def _named(self, records: list[Record]) -> list[Record]:
        """The records with the names of the label map; those with a label that it lacks become problems."""
        named = []
        for record in records:
            try:
                named.append(relabelled(record, {label: label for label in self.categories}, self.categories))
            except InputError as error:
                self.problems.append(str(error))
        return named

    def progress(self) -> dict[str, int]:
        """How many of the lines are reviewed."""
        with self._lock:
            self._refresh()
            return {"reviewed": sum(key_of(each) in self._valid for each in self.records), "lines": len(self.records)}

    def overview(self) -> dict[str, Any]:
        """What the page needs once: categories with their colours, and every line's name and state."""
        with self._lock:
            progress = self.progress()
            lines = [
                {"filename": each.filename, "caption": each.caption, "reviewed": key_of(each) in self._valid}
                for each in self.records
            ]
        categories = [{"label": label, "name": name, **_inks(label)} for label, name in self.categories.items()]
        return {
            "annotations": self.annotations.name,
            "stored": self.path.name,
            "categories": categories,
            "phrase_colours": [_inks(index) for index in range(PHRASE_COLOURS)],
            "lines": lines,
            "problems": self.problems[:NAMED_PROBLEMS],
            "problem_count": len(self.problems),
            "progress": progress,
        }

    def line(self, number: int) -> dict[str, Any]:
        """A line as it is now, corrected if it has a correction. Raises IndexError for an unknown number."""
        record = self.records[number]
        with self._lock:
            self._refresh()
            correction = self._valid.get(key_of(record))
            phrases = self._phrases(record)
            progress = self.progress()
        shown = record if correction is None else correction.record
        return {
            "number": number,
            "filename": record.filename,
            "width": record.width,
            "height": record.height,
            "caption": record.caption,
            "phrases": [each._asdict() for each in phrases],
            "boxes": with_scores(boxes_to_page(shown, phrases), boxes_to_page(record, phrases)),
            "reviewed": correction is not None,
            "revision": _revision(correction),
            "progress": progress,
        }

    def save(self, number: int, revision: str, boxes: Any, phrases: Any = None) -> dict[str, Any]:
        """Saves the correction of a line; returns the corrected line.

        Raises InputError for impossible boxes, StaleRevision, and OSError where the file cannot be written.
        """
        record = self.records[number]
        with self._lock:
            self._check(record, revision)
            corrected = record_from_page(record, boxes, phrases, self._phrases(record), self.categories)
            text = reviewed_text(corrected, self.round)
            correction = parse_correction(text.encode("utf-8"), str(self.path))
            self._write({**self._corrections, (key_of(record), self.round): correction})
            return self.line(number)

    def withdraw(self, number: int, revision: str) -> dict[str, Any]:
        """Removes the correction of a line in this round; returns the line as it is then. Raises as save does."""
        record = self.records[number]
        with self._lock:
            self._check(record, revision)
            self._write({at: each for at, each in self._corrections.items() if at != (key_of(record), self.round)})
            return self.line(number)

    def _phrases(self, record: Record) -> list[Phrase]:
        """Every phrase that the line or its correction names, in the line's order."""
        correction = self._valid.get(key_of(record))
        return phrases_of(record) if correction is None else phrases_of(record, correction.record)

    def _check(self, record: Record, revision: str) -> None:
        self._refresh()
        if revision != _revision(self._valid.get(key_of(record))):
            raise StaleRevision(f"{record.filename} was changed elsewhere after this page loaded it; nothing was saved")

    def _write(self, corrections: dict[tuple[Key, int], Correction]) -> None:
        write_corrections(self.path, (each.text for each in corrections.values()))
        self._take(corrections)

    def _refresh(self) -> None:
        """Reads the reviewed file again if another process has written it."""
        if self._stamp() == self._seen:
            return
        corrections = {}
        for each in read_corrections(self.path) if self.path.is_file() else ():
            if not each.since:
                raise InputError(
                    each.location, 'is not marked "reviewed": true', "expected -o with a file of corrections"
                )
            corrections[key_of(each.record), each.since] = each
        self._take(corrections)

    def _take(self, corrections: dict[tuple[Key, int], Correction]) -> None:
        self._corrections, self._seen = corrections, self._stamp()
        self._valid = holding(corrections.values(), self.round)

    def _stamp(self) -> tuple[int, int, int]:
        """Differs for every file that was ever renamed to the path."""
        if not self.path.is_file():
            return 0, 0, 0
        status = self.path.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size


def _categories(annotations: Path, records: list[Record]) -> dict[int, str]:
    """The categories of the label map beside the labels; without one, those of the boxes."""
    beside = label_map_beside(annotations)
    if beside.is_file():
        return read_label_map(beside)
    named = {each.label: each.category for record in records for each in record.instances or ()}
    return dict(sorted(named.items()))


def _inks(index: int) -> dict[str, str]:
    """The colour of a label or phrase, as drawings have it, and the ink that can be read on it."""
    return {"colour": _css(colour_of(index)), "ink": _css(ink_on(colour_of(index)))}


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _revision(correction: Correction | None) -> str:
    return UNTOUCHED if correction is None else hashlib.sha256(correction.text.encode("utf-8")).hexdigest()[:16]
