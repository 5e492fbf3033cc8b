"""A label file under review: its lines, a person's changes to them, and the file of corrections.

The label file itself is never changed. A change is saved in the journal (formats.review_journal) before it is
acknowledged; the file of corrections is written a moment later. Each line is sent with its revision, which a change
has to return, so that two windows, or a window and `groundhog rounds approve`, do not overwrite each other's changes.

state  "untouched", "edited" (a draft that the loop does not use), "accepted" (a correction), or "skipped"
"""

from __future__ import annotations

import getpass
import hashlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from browse.review.index import ACCEPTED, STATES, UNTOUCHED, LabelLines, LineIndex
from browse.review.page_json import Phrase, boxes_to_page, phrases_of, record_from_page, with_scores
from formats.dataset_names import label_map_beside, metadata_path, parse_annotation_name, reviewed_path
from formats.io.errors import InputError
from formats.io.files import load_json
from formats.label_map import read_label_map, relabelled, write_label_map
from formats.record import Record
from formats.review_journal import CorrectionRow, ReviewJournal, ReviewMark, key_bytes
from formats.reviewed import Correction, parse_correction, read_corrections_file, reviewed_text, withdrawn_text

SAVED_STATES = ("untouched", "earlier", "edited", "accepted", "skipped")


class StaleRevision(Exception):
    """A change to a line that has been changed elsewhere since it was read."""


class BoxRows(NamedTuple):
    """Boxes as arrays, (B,) each. place: in its line. label: -1 in a caption. score: NaN where there is none."""

    line: np.ndarray
    place: np.ndarray
    label: np.ndarray
    score: np.ndarray

    def at(self, places: np.ndarray) -> BoxRows:
        """Some of them."""
        return BoxRows(*(column[places] for column in self))

    def with_rows(self, others: BoxRows) -> BoxRows:
        """These and others after them."""
        return BoxRows(*map(np.concatenate, zip(self, others))) if len(others.line) else self


@dataclass(frozen=True)
class Line:
    """The current state of a line. record: the model's, with the names of the label map. row: the correction in force.

    mark: what was done in the round `marked`; None if nothing was.
    """

    number: int
    record: Record
    row: CorrectionRow | None
    correction: Correction | None
    marked: int
    mark: ReviewMark | None


class Review:
    """One label file under review. Thread-safe.

    path: the file of corrections. round: the first round that corrections apply to: 2 for X_od_v2.json, 1 for a name
    without a version. reviewer: the name recorded with a change.
    """

    def __init__(
        self,
        annotations: Path,
        label_map: Mapping[int, str] | Path | None = None,
        out: Path | None = None,
        reviewer: str | None = None,
    ) -> None:
        """Raises InputError for a file that cannot be reviewed, or if the corrections cannot be written.

        label_map: label -> name, or its file; by default the one beside the labels.
        """
        self.annotations = annotations
        self.path = reviewed_path(annotations) if out is None else out
        if self.path.exists() and self.path.samefile(annotations):
            raise InputError(self.path, "is the label file itself", "expected another file for the corrections")
        self.round = 1 if (version := parse_annotation_name(annotations).version) is None else version
        self.reviewer = reviewer if reviewer is not None else _user()
        self.label_map_path = label_map if isinstance(label_map, Path) else None
        known_names = read_label_map(label_map) if isinstance(label_map, Path) else label_map
        if known_names is None and label_map_beside(annotations).is_file():
            self.label_map_path = label_map_beside(annotations)
            known_names = read_label_map(self.label_map_path)
        self.lines = LabelLines(annotations)
        self._lock = threading.RLock()
        self._boxes: dict[int, BoxRows] = {}  # of lines that a person has changed, as they are now
        self._changed: tuple[np.ndarray, BoxRows] | None = None  # the same as one table
        self._journal = ReviewJournal(self.path, _rows_of_file)
        self._journal.sync()
        self.index = LineIndex(self.lines, known_names)
        self.index.set_states(self._states())
        self.index.start()
        self.categories: dict[int, str] = dict(known_names or {})
        if known_names is None:
            self.categories = self._named_categories()

    def _named_categories(self) -> dict[int, str]:
        """The categories named in the boxes, without a label map. Raises InputError if they are not named either."""
        self.index.done.wait()
        names = dict(sorted(self.index.names.items()))
        if not names and any(self.record(number).caption is None for number in self._some_numbers()):
            location = self.annotations
            raise InputError(location, "has neither a label map nor boxes with names", "expected -m LABEL_MAP")
        return names

    def _some_numbers(self, count: int = 100) -> list[int]:
        numbers = range(min(count, len(self.lines)))
        return [number for number in numbers if not self.index.broken[number]]

    def close(self) -> None:
        """Writes the file of corrections if it lacks a change, and closes the journal."""
        self.index.stop()
        self._journal.close()

    def export(self) -> None:
        """Writes the file of corrections if it lacks a change."""
        if self._journal.pending():
            self._journal.export()

    def pending(self) -> int:
        """The number of changes that the file of corrections lacks."""
        return self._journal.pending()

    def progress(self) -> dict[str, int]:
        """The number of lines in each state."""
        self._sync()
        return self.index.counts()

    def record(self, number: int) -> Record:
        """A line of the label file with the names of the label map. Raises InputError for a broken one."""
        try:
            record = self.lines.record(number)
            if record.instances and self.categories:
                record = relabelled(record, {label: label for label in self.categories}, self.categories)
        except InputError as error:
            self.index.mark_broken(number, str(error))
            raise
        return record

    def read(self, number: int) -> Line:
        """A line in its current state. Raises InputError for a broken one, IndexError for an unknown number."""
        record = self.record(number)
        key = journal_key(record)
        with self._lock:
            self._sync()
            row = self._journal.correction(key, self.round)
            marked, mark = self._journal.mark(key, self.round) or (0, None)
        correction = None if row is None else _parsed(row, self.path)
        if correction is not None and correction.withdrawn:
            correction = None
        if mark is not None and mark.state == "accepted" and correction is None:
            mark = None  # another program has removed the correction
        if mark is not None and mark.state != "accepted" and marked != self.round:
            mark = None  # the draft of an earlier round
        return Line(number, record, row, correction, marked, mark)

    def page(self, number: int, extra_phrases: Sequence[Phrase] = ()) -> dict[str, Any]:
        """A line for the page. extra_phrases: phrases of its caption for which the model found nothing."""
        line = self.read(number)
        record, state = line.record, self._state(line)
        phrases = self._phrases(line, extra_phrases)
        model = boxes_to_page(record, phrases)
        shown = self._shown(line)
        mark = line.mark
        return {
            "number": number,
            "filename": record.filename,
            "width": record.width,
            "height": record.height,
            "caption": record.caption,
            "phrases": [each._asdict() for each in phrases],
            "boxes": model if shown is record else with_scores(boxes_to_page(shown, phrases), model),
            "model": model,
            "state": state,
            "earlier": not self._is_own(line),
            "since": None if line.correction is None else line.correction.since,
            "reviewer": None if mark is None else mark.reviewer,
            "at": None if mark is None else mark.at,
            "revision": _revision(line),
        }

    def save(self, changes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Saves changes of lines, all or none; returns the resulting lines.

        A change: {"number", "revision", "state", "boxes", "phrases"}; state is one of SAVED_STATES, "earlier" reverts
        what was done in this round. Boxes are required for "edited" and "accepted".
        Raises InputError for an impossible change, StaleRevision, and OSError if it cannot be written.
        """
        with self._lock:
            lines = [self.read(change["number"]) for change in changes]
            for line, change in zip(lines, changes):
                if change.get("revision") != _revision(line):
                    name = line.record.filename
                    raise StaleRevision(f"{name} was changed elsewhere after this page loaded it; nothing was saved")
            planned = [self._planned(line, change) for line, change in zip(lines, changes)]
            self._journal.change(planned)
            if not self.path.exists():
                self._journal.export()
            after = [self.page(change["number"]) for change in changes]
            for line, page in zip(lines, after):
                self.index.set_state(journal_key(line.record), STATES.index(page["state"]))
                self._boxes.pop(line.number, None)
            self._changed = None
            return after

    def _planned(
        self, line: Line, change: Mapping[str, Any]
    ) -> tuple[CorrectionRow | None, bytes, int, ReviewMark | None]:
        """The journal's entries for a change."""
        key, state = journal_key(line.record), change.get("state")
        if state not in SAVED_STATES:
            location = line.record.filename
            raise InputError(location, f"state is {state!r}", f"expected one of {', '.join(SAVED_STATES)}")
        at = datetime.now(UTC).isoformat(timespec="seconds")
        if state == "accepted":
            text = self._text(line, change)
            return (
                CorrectionRow(key, self.round, text),
                key,
                self.round,
                ReviewMark("accepted", None, self.reviewer, at),
            )
        if state == "edited":
            mark = ReviewMark("edited", self._text(line, change), self.reviewer, at)
            return self._removed(line, key, False), key, self.round, mark
        if state == "skipped":
            draft = self._text(line, change) if change.get("boxes") is not None else None
            return self._removed(line, key, True), key, self.round, ReviewMark("skipped", draft, self.reviewer, at)
        return self._removed(line, key, state == "untouched"), key, self.round, None

    def _removed(self, line: Line, key: bytes, withdraw: bool) -> CorrectionRow | None:
        """The row that removes this round's correction; with withdraw, also an earlier round's, from now on."""
        before = self._journal.correction(key, self.round - 1)
        holds_before = before is not None and not _parsed(before, self.path).withdrawn
        if withdraw and holds_before:
            return CorrectionRow(key, self.round, withdrawn_text(line.record, self.round))
        return CorrectionRow(key, self.round, None) if line.row is not None and line.row.since == self.round else None

    def _text(self, line: Line, change: Mapping[str, Any]) -> str:
        known = self._phrases(line)
        boxes, phrases = change.get("boxes"), change.get("phrases")
        corrected = record_from_page(line.record, boxes, phrases, known, self.categories)
        return reviewed_text(corrected, self.round)

    def _phrases(self, line: Line, extra: Sequence[Phrase] = ()) -> list[Phrase]:
        """All phrases of the line, its draft and its correction, in the line's order."""
        return list(dict.fromkeys([*phrases_of(line.record, self._shown(line)), *extra]))

    def _shown(self, line: Line) -> Record:
        """The draft if there is one, else the correction, else the model's record."""
        if line.mark is not None and line.mark.draft is not None:
            return parse_correction(line.mark.draft.encode("utf-8"), str(self.path)).record
        return line.record if line.correction is None else line.correction.record

    def _state(self, line: Line) -> str:
        if line.mark is not None and line.marked == self.round and line.mark.state != "accepted":
            return line.mark.state
        return "untouched" if line.correction is None else "accepted"

    def _is_own(self, line: Line) -> bool:
        """Whether something was done with the line in this round."""
        return line.marked == self.round or (line.row is not None and line.row.since == self.round)

    def _sync(self) -> None:
        with self._lock:
            if self._journal.sync():
                self.index.set_states(self._states())
                self._boxes.clear()
                self._changed = None

    def _states(self) -> list[tuple[bytes, int]]:
        """The state of every line that has one."""
        withdrawn = '"withdrawn": true'
        states = {
            row.key: ACCEPTED if withdrawn not in (row.text or "") or not _parsed(row, self.path).withdrawn
            else UNTOUCHED
            for row in self._journal.corrections_up_to(self.round)
        }  # fmt: skip
        for key, state in self._journal.marks_of(self.round):
            if state != "accepted":
                states[key] = STATES.index(state)
        return list(states.items())

    def add_category(self, name: Any) -> dict[int, str]:
        """Adds a category to the label map; returns the new one. Raises InputError if there is no label map file."""
        name = name.strip() if isinstance(name, str) else ""
        with self._lock:
            if not name or name.casefold() in {each.casefold() for each in self.categories.values()}:
                raise InputError("category", f"{name!r} is empty or already exists", "expected a new name")
            if self.label_map_path is None:
                raise InputError("category", "these labels have no label map file", "expected -m LABEL_MAP")
            meta = metadata_path(self.annotations)
            if meta.is_file() and isinstance(load_json(meta, ""), dict) and "plan" in load_json(meta, ""):
                what = (
                    "these labels were made for a plan with other categories, which refuses corrections with a new one"
                )
                raise InputError("category", what, f"add it to {self.label_map_path.name} and label again")
            label = max(self.categories, default=-1) + 1
            write_label_map(self.label_map_path, {**self.categories, label: name})
            self.categories[label] = name
            return dict(self.categories)

    def changed_boxes(self) -> tuple[np.ndarray, BoxRows]:
        """The lines that somebody has edited, accepted or skipped, ascending, and their boxes as they are now.

        Each line is read once, until it is changed again. Waits until all lines are known.
        """
        self.index.done.wait()
        for number in self._changed_lines().tolist():  # outside the lock: other requests are handled meanwhile
            self._boxes_of(number)
        with self._lock:
            self._sync()
            if self._changed is None:
                numbers = self._changed_lines()
                self._changed = numbers, _joined([self._boxes_of(number) for number in numbers.tolist()])
            return self._changed

    def _changed_lines(self) -> np.ndarray:
        return np.flatnonzero((self.index.state != UNTOUCHED) & ~self.index.broken)

    def _boxes_of(self, number: int) -> BoxRows:
        with self._lock:
            if number not in self._boxes:
                page = self.page(number)
                boxes = page["boxes"]
                labels = [-1 if page["caption"] is not None else each["of"] for each in boxes]
                scores = np.array([each["score"] for each in boxes], np.float32)  # None becomes NaN
                lines = np.full(len(boxes), number, np.int32)
                self._boxes[number] = BoxRows(lines, np.arange(len(boxes)), np.array(labels, np.int32), scores)
            return self._boxes[number]


def _joined(rows: Sequence[BoxRows]) -> BoxRows:
    none = BoxRows(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    return BoxRows(*map(np.concatenate, zip(none, *rows)))


def journal_key(record: Record) -> bytes:
    """The key of the record's line in the journal."""
    return key_bytes(record.filename, record.caption)


def _rows_of_file(path: Path) -> Iterable[CorrectionRow]:
    """The lines of a file of corrections. Raises InputError for one that is not marked as reviewed."""
    for each in read_corrections_file(path):
        if not each.since:
            what = 'is not marked "reviewed": true'
            raise InputError(each.location, what, "expected -o with a file of corrections")
        yield CorrectionRow(journal_key(each.record), each.since, each.text)


def _parsed(row: CorrectionRow, path: Path) -> Correction:
    assert row.text is not None  # rows without a text are not returned
    return parse_correction(row.text.encode("utf-8"), str(path))


def _revision(line: Line) -> str:
    """A hash of all changes that a person made to the line."""
    mark = None if line.mark is None or line.mark.state == "accepted" else (line.mark.state, line.mark.draft)
    made = repr((None if line.row is None else (line.row.since, line.row.text), mark))
    return hashlib.sha256(made.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without names
        return "unknown"
