"""Access to the lines of a label file by number, and an index of all lines: names, boxes, scores, states.

A file of a million lines opens immediately: finding the line breaks takes a second, and the data for filters are read
in the background, a few thousand lines at a time, by another process (browse.review.line_facts). N lines; they are
numbered from 0, without blank ones.
"""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from browse.review.line_facts import ERRORS, FactsReader, facts_of, hash_of, take_line
from formats.io.errors import InputError
from formats.io.json_stream import stream_json
from formats.odvg import line_bytes
from formats.odvg_lines import object_of_line, record_from_line
from formats.record import Record

CHUNK = 2000  # lines that are read at a time
SCAN_CHUNK = 1 << 24  # bytes
SHORTEST_LINE = 20  # bytes: whatever is shorter may be blank
TEXT_BLOCK = 1 << 20  # bytes of names that are searched at once, small enough for a processor's cache
RARE = 50  # of so many bytes one at most is a candidate: fewer are looked at one by one
CHECKED_LINES = 10_000  # a file of at most so many is checked line by line when it is opened
MAX_LISTED = 20  # lines listed as not reviewable; the rest are only counted

UNTOUCHED, EDITED, ACCEPTED, SKIPPED = range(4)
STATES = ("untouched", "edited", "accepted", "skipped")


class LabelLines:
    """The lines of an ODVG file, or of a JSON array, as they were when the file was opened."""

    def __init__(self, path: Path) -> None:
        """Raises InputError if there is no such file."""
        if not path.is_file():
            raise InputError(path, "does not exist", "expected an ODVG file (JSON Lines)")
        self.path = path
        self._content: bytes | None = None
        self._file = open(path, "rb")  # noqa: SIM115  # stays open, to keep reading this file if it is replaced
        if _is_array(self._file):
            items = stream_json(path, "expected JSON Lines or one array")
            self._content = b"\n".join(line_bytes(item.value) for item in items if item.position is not None)
        self._starts, self._ends, self._physical = self._bounds()

    def __len__(self) -> int:
        return len(self._starts)

    def raw(self, number: int) -> bytes:
        """One line without its line break. Raises IndexError for an unknown number."""
        return self.chunk(number, number + 1)[0]

    def chunk(self, start: int, stop: int) -> list[bytes]:
        """The lines start … stop - 1."""
        if not 0 <= start < stop <= len(self):
            raise IndexError(f"lines {start} to {stop} of {len(self)}")
        base, end = int(self._starts[start]), int(self._ends[stop - 1])
        content = self._read(base, end)
        return [
            content[first - base : last - base]
            for first, last in zip(self._starts[start:stop].tolist(), self._ends[start:stop].tolist())
        ]

    def location(self, number: int) -> str:
        """`file:line`, from 1 like in editors."""
        return f"{self.path}:{self.physical(number) + 1}"

    def physical(self, number: int) -> int:
        """The number of a line in the file, from 0, counting blank ones."""
        return int(self._physical[number])

    def number(self, physical: int) -> int | None:
        """The number of a line from its number in the file, which counts blank ones; None for a blank one."""
        position = int(np.searchsorted(self._physical, physical))
        return position if position < len(self) and self._physical[position] == physical else None

    def record(self, number: int) -> Record:
        """The record of a line. Raises InputError for a broken or quarantined one."""
        location = self.location(number)
        try:
            text = self.raw(number).removeprefix(b"\xef\xbb\xbf").decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(location, f"is not UTF-8 ({error})", "save it as UTF-8") from None
        return record_from_line(object_of_line(text, location), location)

    def _read(self, start: int, end: int) -> bytes:
        if self._content is not None:
            return self._content[start:end]
        return os.pread(self._file.fileno(), end - start, start)

    def _bounds(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N,) int64 each: starts and ends of lines, and their numbers in the file, which count blank ones."""
        size = len(self._content) if self._content is not None else os.fstat(self._file.fileno()).st_size
        found = []
        for base in range(0, size, SCAN_CHUNK):
            piece = np.frombuffer(self._read(base, min(size, base + SCAN_CHUNK)), np.uint8)
            found.append(np.flatnonzero(piece == ord("\n")) + base)
        ends = np.concatenate([*found, [size]]).astype(np.int64)
        starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
        keep = ends > starts
        for number in np.flatnonzero(keep & (ends - starts < SHORTEST_LINE)):
            keep[number] = bool(self._read(int(starts[number]), int(ends[number])).strip(b" \t\r\n\xef\xbb\xbf"))
        return starts[keep], ends[keep], np.flatnonzero(keep)


def _is_array(file: Any) -> bool:
    first = next((line for line in file if line.strip()), b"")
    return first.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


class LineIndex:
    """An index of all lines, as arrays. Complete once `done` is set; until then, up to line `known`.

    hashes    (N,) int64, of the line's key (browse.review.line_facts.hash_of)
    state     (N,) uint8, position in STATES
    broken    (N,) bool, lines that cannot be reviewed
    first     (N + 1,) int64, of the line's boxes in labels and scores: first[n] … first[n + 1] - 1
    labels    (B,) int32, label of each box; -1 for a box of a caption
    scores    (B,) float32, NaN where a box has none
    problems  messages about the first lines that cannot be reviewed
    names     label -> category, as in the lines
    """

    def __init__(self, lines: LabelLines, categories: Mapping[int, str] | None) -> None:
        """Reads lines. categories: lines with other labels are broken; None: every label is known."""
        count = len(lines)
        self.lines = lines
        self.hashes = np.zeros(count, np.int64)
        self.state = np.zeros(count, np.uint8)
        self.broken = np.zeros(count, bool)
        self.first = np.zeros(count + 1, np.int64)
        self.problems: list[str] = []
        self.names: dict[int, str] = {}
        self.known = 0
        self.done = threading.Event()
        self._categories = categories
        self._labels, self._scores = array("i"), array("f")
        self._text, self._text_ends = bytearray(), array("q", [0])
        self._known_states = (np.zeros(0, np.int64), np.zeros(0, np.uint8))
        self._stopped = False
        self._guard = threading.Lock()

    @property
    def labels(self) -> np.ndarray:
        """(B,) int32. Waits until all lines are known."""
        self.done.wait()
        return np.frombuffer(self._labels, np.int32)

    @property
    def scores(self) -> np.ndarray:
        """(B,) float32. Waits until all lines are known."""
        self.done.wait()
        return np.frombuffer(self._scores, np.float32)

    def start(self) -> None:
        """Reads the lines: short files now, long ones in the background."""
        if len(self.lines) <= CHECKED_LINES:
            self._read_all()
        else:
            reader = FactsReader(self._categories)
            threading.Thread(target=self._read_all, args=(reader,), name="index of lines", daemon=True).start()

    def stop(self) -> None:
        """Stops reading in the background."""
        self._stopped = True

    def set_states(self, states: Mapping[bytes, int] | Sequence[tuple[bytes, int]]) -> None:
        """Sets the states of all lines by their keys; the other lines are untouched."""
        pairs = states.items() if isinstance(states, Mapping) else states
        table = np.array([(hash_of(key), state) for key, state in pairs], np.int64).reshape(-1, 2)
        table = table[np.argsort(table[:, 0], kind="stable")]
        with self._guard:
            self._known_states = (table[:, 0], table[:, 1].astype(np.uint8))
            self._set_range(0, self.known)

    def set_state(self, key: bytes, state: int) -> None:
        """Sets the state of the lines with this key."""
        with self._guard:
            hashes, states = self._known_states
            position = int(np.searchsorted(hashes, hash_of(key)))
            if position < len(hashes) and hashes[position] == hash_of(key):
                states[position] = state
            elif not self.done.is_set():
                self._known_states = (np.insert(hashes, position, hash_of(key)), np.insert(states, position, state))
            self.state[: self.known][self.hashes[: self.known] == hash_of(key)] = state

    def counts(self) -> dict[str, int]:
        """The number of lines in each state and of those that can be reviewed, among the lines read so far."""
        known = self.known
        counts = np.bincount(self.state[:known][~self.broken[:known]], minlength=len(STATES))
        broken = int(np.count_nonzero(self.broken[:known]))
        return {**dict(zip(STATES, counts.tolist())), "lines": len(self.lines) - broken, "broken": broken}

    def mark_broken(self, number: int, problem: str) -> None:
        """Marks a line that turns out to be invalid when it is shown."""
        if not self.broken[number]:
            self.broken[number] = True
            self._note(problem)

    def matching(self, words: str) -> np.ndarray:
        """(N,) bool: lines whose file name or caption contains the words, ignoring case. Waits for all lines."""
        self.done.wait()
        wanted = words.casefold().encode("utf-8", "surrogateescape")
        found = np.zeros(len(self.lines), bool)
        ends = np.frombuffer(self._text_ends, np.int64)
        for places in places_of(np.frombuffer(self._text, np.uint8), wanted):
            found[np.searchsorted(ends, places, side="right") - 1] = True
        return found

    def has_captions(self) -> bool:
        """Whether the first line that can be reviewed has a caption."""
        numbers = np.flatnonzero(~self.broken)
        return bool(len(numbers)) and self.lines.record(int(numbers[0])).caption is not None

    @cached_property
    def box_lines(self) -> np.ndarray:
        """(B,) int32: the line of each box. Waits until all lines are known."""
        self.done.wait()
        return np.repeat(np.arange(len(self.lines), dtype=np.int32), np.diff(self.first))

    @cached_property
    def lowest(self) -> float:
        """The lowest score of all boxes; 0 where none has one. Waits until all lines are known."""
        return float(np.nanmin(self.scores)) if np.isfinite(self.scores).any() else 0.0

    def _read_all(self, reader: FactsReader | None = None) -> None:
        try:
            for start in range(0, len(self.lines), CHUNK):
                if self._stopped:
                    return
                self._read_chunk(start, min(len(self.lines), start + CHUNK), reader)
        finally:
            if reader is not None:
                reader.close()
        self.done.set()

    def _read_chunk(self, start: int, stop: int, reader: FactsReader | None) -> None:
        lines = self.lines.chunk(start, stop)
        facts = facts_of(lines, self._categories) if reader is None else reader.read(lines)
        self.hashes[start:stop] = facts.hashes
        self.first[start + 1 : stop + 1] = len(self._labels) + np.cumsum(facts.counts)
        self._labels.extend(facts.labels)
        self._scores.extend(facts.scores)
        self._text_ends.frombytes((len(self._text) + np.frombuffer(facts.ends, np.int64)).tobytes())
        self._text += facts.text
        for label, name in facts.names.items():
            self.names.setdefault(label, name)
        for position in facts.broken:
            self._break(start + position, lines[position])
        if len(self.lines) <= CHECKED_LINES:
            self._check(start, stop)
        with self._guard:
            self._set_range(start, stop)
            self.known = stop

    def _check(self, start: int, stop: int) -> None:
        """Parses each line as a record."""
        for number in range(start, stop):
            if not self.broken[number]:
                try:
                    self.lines.record(number)
                except InputError as error:
                    self.mark_broken(number, str(error))

    def _break(self, number: int, raw: bytes) -> None:
        """Marks a line that `facts_of` could not parse."""
        self.broken[number] = True
        if len(self.problems) >= MAX_LISTED:
            return
        try:
            take_line(facts_of((), None), raw, self._categories)
        except ERRORS as error:
            self._note(self._problem(number, error))

    def _problem(self, number: int, error: Exception) -> str:
        location = self.lines.location(number)
        if isinstance(error, InputError):
            return str(error) if error.location else str(InputError(location, error.what, error.remedy))
        try:
            self.lines.record(number)
        except InputError as reason:
            return str(reason)
        return f"{location}: cannot be read ({type(error).__name__}: {error})"

    def _note(self, problem: str) -> None:
        if len(self.problems) < MAX_LISTED:
            self.problems.append(problem)

    def _set_range(self, start: int, stop: int) -> None:
        hashes, states = self._known_states
        if not len(hashes):
            self.state[start:stop] = UNTOUCHED
            return
        position = np.minimum(np.searchsorted(hashes, self.hashes[start:stop]), len(hashes) - 1)
        self.state[start:stop] = np.where(hashes[position] == self.hashes[start:stop], states[position], UNTOUCHED)


def places_of(text: np.ndarray, wanted: bytes) -> Iterator[np.ndarray]:
    """Where some bytes begin in a text, (N,) uint8; ascending positions, a block of the text at a time.

    A byte of the wanted ones that is rare in the text rules most places out; the others are then looked at only there.
    """
    common = np.bincount(text[:: max(1, len(text) >> 16)], minlength=256)
    order = sorted(range(len(wanted)), key=lambda offset: common[wanted[offset]])
    for start in range(0, len(text) - len(wanted) + 1, TEXT_BLOCK):
        block = text[start : start + TEXT_BLOCK + len(wanted) - 1]
        last = len(block) - len(wanted) + 1
        left = list(order)
        fits = np.ones(last, bool)
        while left and np.count_nonzero(fits) * RARE > last:
            offset = left.pop(0)
            fits &= block[offset : offset + last] == wanted[offset]
        places = np.flatnonzero(fits)
        for offset in left:
            places = places[block[places + offset] == wanted[offset]]
        yield start + places
