"""The journal of a review, in SQLite: X_od_reviewed.sqlite beside the corrections in X_od_reviewed.json.

People and the loop read the file of corrections. It can only be rewritten as a whole, so it is not written for each
change. Instead a change, of any number of lines, is one transaction of the journal, marked as pending until the file
contains it. Readers of the file (formats.reviewed) add the pending changes from here, so a killed review loses nothing.
The journal also has what the file cannot store: drafts, skipped lines, who changed a line, and when.

key    identifies a line of a source: its file name and, after a NUL byte, its caption, in UTF-8
since  the first round to which a correction applies
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from formats.dataset_names import review_journal_path
from formats.io.errors import InputError
from formats.io.files import write_whole
from formats.io.storage import is_address

VERSION = 1
BUSY_TIMEOUT = 20.0  # seconds to wait while another process writes
ROWS_AT_ONCE = 5000  # read at once by an export, which bounds how long a change has to wait for it

_TABLES = f"""
CREATE TABLE corrections (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL, since INTEGER NOT NULL,
    text TEXT, pending INTEGER NOT NULL DEFAULT 0, UNIQUE (key, since)
);
CREATE INDEX corrections_pending ON corrections (pending) WHERE pending > 0;
CREATE TABLE marks (
    key BLOB NOT NULL, round INTEGER NOT NULL, state TEXT NOT NULL, draft TEXT, reviewer TEXT NOT NULL,
    at TEXT NOT NULL, PRIMARY KEY (key, round)
) WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
PRAGMA user_version = {VERSION};
"""

ChangedKey = tuple[bytes, int]  # key, since


class CorrectionRow(NamedTuple):
    """One line of the file of corrections. text: the line without its end; None: the correction was removed."""

    key: bytes
    since: int
    text: str | None


class ReviewMark(NamedTuple):
    """What a reviewer did with a line in a round.

    state: "edited", "accepted" or "skipped". draft: the edited line that is not accepted. at: UTC, as ISO 8601.
    """

    state: str
    draft: str | None
    reviewer: str
    at: str


def key_bytes(filename: str, caption: str | None) -> bytes:
    """The key of a line, including file names that are not valid UTF-8 on disk."""
    name = filename.encode("utf-8", "surrogateescape")
    return name if caption is None else name + b"\0" + caption.encode("utf-8", "surrogateescape")


def pending_changes(corrections: str | Path) -> dict[ChangedKey, CorrectionRow]:
    """The changes that are not in the file of corrections yet; {} without a journal."""
    path = review_journal_path(corrections)
    if is_address(path) or not path.is_file():
        return {}
    with closing(_connect(path)) as connection:
        rows = connection.execute("SELECT key, since, text FROM corrections WHERE pending > 0 ORDER BY id")
        return {(key, since): CorrectionRow(key, since, text) for key, since, text in rows}


def unfinished_drafts(corrections: str | Path, number: int) -> set[bytes]:
    """The keys of lines that were edited in a round but not accepted; empty without a journal."""
    path = review_journal_path(corrections)
    if is_address(path) or not path.is_file():
        return set()
    with closing(_connect(path)) as connection:
        rows = connection.execute("SELECT key FROM marks WHERE round = ? AND draft IS NOT NULL", (number,))
        return {key for (key,) in rows}


@contextmanager
def locked_corrections(corrections: str | Path) -> Iterator[None]:
    """Keeps reviews from changing the file of corrections during the block, and clears the pending changes after it.

    For programs that read the file with read_corrections, which includes pending changes, and write it themselves.
    """
    path = review_journal_path(corrections)
    if is_address(path) or not path.is_file():
        yield
        return
    with closing(_connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("DELETE FROM corrections WHERE text IS NULL")
        connection.execute("UPDATE corrections SET pending = 0 WHERE pending > 0")
        connection.execute("COMMIT")


class _WrittenElsewhere(Exception):
    """Another program has written the file of corrections since the journal last read it."""


class ReviewJournal:
    """The journal of one file of corrections, created if it is missing. Its methods are thread-safe.

    read_file: returns the rows of the file of corrections; called when another program has written it.
    """

    def __init__(self, corrections: Path, read_file: Callable[[Path], Iterable[CorrectionRow]]) -> None:
        """Raises InputError if the journal cannot be opened or is not one."""
        self.corrections = corrections
        self._read_file = read_file
        self._lock = threading.RLock()
        self._exporting = False
        path = review_journal_path(corrections)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = _connect(path, create=True)

    def close(self) -> None:
        """Exports pending changes and closes the journal."""
        with self._lock:
            if self.pending():
                self.export()
            self._connection.close()

    def sync(self) -> bool:
        """Reads the file of corrections if another program has changed it; returns whether it had."""
        stamp = _stamp(self.corrections)
        with self._lock:
            if self._exporting or stamp == self._fact("stamp"):
                return False
            rows = list(self._read_file(self.corrections)) if self.corrections.is_file() else []
            with self._transaction():
                self._replace_exported(rows)
                self._set_fact("stamp", stamp)
        return True

    def _replace_exported(self, rows: list[CorrectionRow]) -> None:
        """Replaces the exported rows with those of the file; pending rows stay, since they are newer."""
        run = self._connection.execute
        run("CREATE TEMP TABLE IF NOT EXISTS given (key BLOB, since INTEGER, text TEXT, PRIMARY KEY (key, since))")
        run("DELETE FROM given")
        self._connection.executemany("INSERT OR REPLACE INTO given VALUES (?, ?, ?)", rows)
        # A line that another program has changed is newer than a draft or a skip of the same round.
        run(
            "DELETE FROM marks WHERE EXISTS (SELECT 1 FROM given LEFT JOIN corrections "
            "USING (key, since) WHERE given.key = marks.key AND given.since = marks.round "
            "AND given.text IS NOT corrections.text)"
        )
        run("DELETE FROM corrections WHERE pending = 0")
        run(
            "INSERT INTO corrections (key, since, text) SELECT key, since, text FROM given WHERE TRUE "
            "ORDER BY rowid ON CONFLICT DO NOTHING"
        )

    def correction(self, key: bytes, number: int) -> CorrectionRow | None:
        """The correction of a line that applies in a round."""
        with self._lock:
            found = self._connection.execute(
                "SELECT key, since, text FROM corrections WHERE key = ? AND since <= ? AND text IS NOT NULL "
                "ORDER BY since DESC LIMIT 1",
                (key, number),
            ).fetchone()
        return None if found is None else CorrectionRow(*found)

    def mark(self, key: bytes, number: int) -> tuple[int, ReviewMark] | None:
        """(round, mark): the latest mark of a line up to a round."""
        with self._lock:
            found = self._connection.execute(
                "SELECT round, state, draft, reviewer, at FROM marks WHERE key = ? AND round <= ? "
                "ORDER BY round DESC LIMIT 1",
                (key, number),
            ).fetchone()
        return None if found is None else (found[0], ReviewMark(*found[1:]))

    def corrections_up_to(self, number: int) -> Iterator[CorrectionRow]:
        """The latest correction up to a round of every line that has one, in no particular order."""
        return (
            CorrectionRow(*row)
            for row in self._all(
                "SELECT key, max(since), text FROM corrections WHERE since <= ? AND text IS NOT NULL GROUP BY key",
                number,
            )
        )

    def marks_of(self, number: int) -> list[tuple[bytes, str]]:
        """(key, state) for each mark of a round."""
        return self._all("SELECT key, state FROM marks WHERE round = ?", number)

    def change(self, changes: Iterable[tuple[CorrectionRow | None, bytes, int, ReviewMark | None]]) -> None:
        """Saves changes in one transaction. A change: (row of the corrections or None, key, round, mark or None)."""
        with self._lock, self._transaction():
            last = self._fact("last_change") or 0
            for row, key, number, mark in changes:
                if row is not None:
                    last += 1
                    self._connection.execute(
                        "INSERT INTO corrections (key, since, text, pending) VALUES (?, ?, ?, ?) ON CONFLICT "
                        "(key, since) DO UPDATE SET text = excluded.text, pending = excluded.pending",
                        (*row, last),
                    )
                self._connection.execute("DELETE FROM marks WHERE key = ? AND round = ?", (key, number))
                if mark is not None:
                    self._connection.execute("INSERT INTO marks VALUES (?, ?, ?, ?, ?, ?)", (key, number, *mark))
            self._set_fact("last_change", last)

    def pending(self) -> int:
        """The number of changes that are not in the file of corrections."""
        return self._all("SELECT count(*) FROM corrections WHERE pending > 0")[0][0]

    def export(self) -> None:
        """Writes the file of corrections, atomically. Changes can be made meanwhile; they stay pending.

        If another program has written the file since it was last read, it is read again first.
        """
        while True:
            try:
                return self._export()
            except _WrittenElsewhere:
                self.sync()

    def _export(self) -> None:
        last = self._fact("last_change") or 0
        self._exporting = True
        try:
            with ExitStack() as held:
                with write_whole(self.corrections) as stream:
                    for text in self._texts():
                        stream.write(f"{text}\n")
                    # From here on no other program writes the file (locked_corrections).
                    held.enter_context(self._lock)
                    held.enter_context(self._transaction())
                    if _stamp(self.corrections) != (self._fact("stamp") or ""):
                        raise _WrittenElsewhere
                done = "pending <= ? AND"
                self._connection.execute(f"DELETE FROM corrections WHERE {done} text IS NULL", (last,))
                self._connection.execute(f"UPDATE corrections SET pending = 0 WHERE {done} pending > 0", (last,))
                self._set_fact("stamp", _stamp(self.corrections))
        finally:
            self._exporting = False

    def _texts(self) -> Iterator[str]:
        """The lines for the file, read from the database a few thousand at a time."""
        query = "SELECT id, text FROM corrections WHERE id > ? AND text IS NOT NULL ORDER BY id LIMIT ?"
        last = 0
        while rows := self._all(query, last, ROWS_AT_ONCE):
            last = rows[-1][0]
            yield from (text for _, text in rows)

    def _all(self, query: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def _fact(self, name: str) -> Any:
        found = self._all("SELECT value FROM facts WHERE name = ?", name)
        return found[0][0] if found else None

    def _set_fact(self, name: str, value: Any) -> None:
        self._connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


def _connect(path: Path, create: bool = False) -> sqlite3.Connection:
    """Raises InputError for a file that is not a journal, or one of a newer version."""
    mode = "rwc" if create else "rw"
    address = f"file:{_quoted(path)}?mode={mode}"
    try:
        connection = sqlite3.connect(
            address, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
        )
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0 and create and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            connection.executescript(f"BEGIN;{_TABLES}COMMIT;")
            version = VERSION
    except sqlite3.Error as error:
        raise InputError(
            path,
            f"cannot be read as a review's journal ({error})",
            "expected it as a review left it; move it away to continue without its drafts and unwritten changes",
        ) from error
    if version != VERSION:
        connection.close()
        raise InputError(path, f"is of version {version} of the journal", f"expected version {VERSION}")
    return connection


def _quoted(path: Path) -> str:
    """The path for SQLite's file: URI, in which ?, # and % must be escaped."""
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _stamp(path: Path) -> str:
    """A string that changes whenever the file at a path is replaced; "" if there is none."""
    if not path.is_file():
        return ""
    status = path.stat()
    return f"{status.st_ino} {status.st_mtime_ns} {status.st_size}"
