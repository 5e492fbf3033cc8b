"""Reads what the index stores of each line (key, labels, scores, words), in this or a separate process.

A million lines take ten seconds of Python. In a thread they would delay every request, because of the global
interpreter lock, so they are read in a separate process. Its `main` handles pickled lists of lines from its pipes until
they are closed. K lines, B boxes.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import nan
from typing import Any, NamedTuple

import orjson

from formats.io.errors import InputError
from formats.odvg_lines import QUARANTINED, object_of_line
from formats.review_journal import key_bytes

ERRORS = (InputError, KeyError, TypeError, AttributeError, ValueError, OverflowError)  # raised for an invalid line


class LineFacts(NamedTuple):
    """The indexed data of K lines.

    hashes  (K,) int64, of their keys; 0 of a broken line
    counts  (K,) int64, how many boxes each has
    labels  (B,) int32; -1 for a box of a caption
    scores  (B,) float32; NaN where a box has none
    text    file names and captions in lower case, UTF-8, each with a line feed; `ends` (K,) int64 says where each ends
    broken  the lines that cannot be reviewed, by their positions in the list
    names   label -> category, as in the lines
    """

    hashes: array[int]
    counts: array[int]
    labels: array[int]
    scores: array[float]
    text: bytearray
    ends: array[int]
    broken: list[int]
    names: dict[int, str]


def hash_of(key: bytes) -> int:
    """A 64-bit hash of a key (formats.review_journal), the same in every process."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little", signed=True)


def facts_of(lines: Sequence[bytes], categories: Mapping[int, str] | None) -> LineFacts:
    """Reads lines. categories: lines with other labels are broken; None: every label is known."""
    facts = LineFacts(array("q"), array("q"), array("i"), array("f"), bytearray(), array("q"), [], {})
    for position, raw in enumerate(lines):
        boxes = len(facts.labels)
        try:
            facts.hashes.append(hash_of(take_line(facts, raw, categories)))
        except ERRORS:
            facts.hashes.append(0)
            facts.broken.append(position)
            del facts.labels[boxes:], facts.scores[boxes:]
        facts.counts.append(len(facts.labels) - boxes)
        facts.ends.append(len(facts.text))
    return facts


def take_line(facts: LineFacts, raw: bytes, categories: Mapping[int, str] | None) -> bytes:
    """Adds a line's boxes and words; returns its key. Raises one of ERRORS for a line that cannot be reviewed."""
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError:
        line = object_of_line(raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8"), "")
    if QUARANTINED in line:
        raise InputError(str(line.get("filename")), f"is quarantined: {line[QUARANTINED]}")
    for each in (line.get("detection") or {"instances": ()})["instances"]:
        label = each["label"]
        _add_box(facts, label, each.get("score"))
        if label not in facts.names:
            facts.names[label] = _known_name(label, each["category"], categories)
    grounding = line.get("grounding")
    caption = grounding["caption"] if grounding else None
    for region in (grounding.get("regions") or ()) if grounding else ():
        scores = region.get("score")
        for score in scores if isinstance(scores, list) else (scores,):
            _add_box(facts, -1, score)
    filename = line["filename"]
    words = filename if caption is None else f"{filename}\0{caption}"
    facts.text.extend(words.casefold().encode("utf-8", "surrogateescape") + b"\n")
    return key_bytes(filename, caption)


def _add_box(facts: LineFacts, label: int, score: Any) -> None:
    facts.labels.append(label)
    facts.scores.append(score if isinstance(score, int | float) else nan)


def _known_name(label: int, category: str, categories: Mapping[int, str] | None) -> str:
    if categories is not None and label not in categories:
        raise InputError("", f"label {label} ({category!r}) is not in the label map", "expected another label map")
    return category


class FactsReader:
    """Reads lines in a separate process, or in this one if that cannot be started or ends."""

    def __init__(self, categories: Mapping[int, str] | None) -> None:
        """categories: as in facts_of."""
        self._categories = None if categories is None else dict(categories)
        self._process: subprocess.Popen[bytes] | None = None
        paths = os.pathsep.join(filter(None, sys.path))
        command = [sys.executable, "-c", "from browse.review.line_facts import main; main()"]
        with suppress(OSError):
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": paths},
                start_new_session=True,  # Ctrl+C should end only the server, which closes the pipes
            )

    def read(self, lines: Sequence[bytes]) -> LineFacts:
        """The indexed data of these lines."""
        if self._process is not None:
            try:
                return self._asked(self._process, lines)
            except (OSError, EOFError, pickle.UnpicklingError):  # the process was killed
                self.close()
        return facts_of(lines, self._categories)

    def _asked(self, process: subprocess.Popen[bytes], lines: Sequence[bytes]) -> LineFacts:
        assert process.stdin is not None
        assert process.stdout is not None
        pickle.dump((list(lines), self._categories), process.stdin, pickle.HIGHEST_PROTOCOL)
        process.stdin.flush()
        facts: LineFacts = pickle.load(process.stdout)
        return facts

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def main() -> None:
    """Processes requests until its input is closed, at the latest when the server ends."""
    requests, responses = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            lines, categories = pickle.load(requests)
            pickle.dump(facts_of(lines, categories), responses, pickle.HIGHEST_PROTOCOL)
            responses.flush()
        except (EOFError, BrokenPipeError, KeyboardInterrupt):
            os._exit(0)  # without flushing output that nobody reads
