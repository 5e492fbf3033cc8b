"""Reads large JSON files such as {"images": [...], "annotations": [...]} item by item, in bounded memory."""

from __future__ import annotations

import json
import marshal
import re
from array import array
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import IO, Any, NamedTuple

from formats.io.errors import InputError
from formats.io.progress import show_progress

_CHUNK = 1 << 20  # characters
_BLANKS = re.compile(r"[ \t\n\r]*")
_PLAIN_STARTS = frozenset('{"0123456789')
_NEAR_THE_END = 16  # characters; longer than any JSON literal or escape that the end of a chunk can cut


class JsonItem(NamedTuple):
    """One value of a file. The first is the top-level value, under key "": {} or [] if its items follow.

    key: of the top-level object; "" if the file is one array. position: index of the item in the array of that key,
    from 0; None for a value that is not an array, and for the array itself, which comes before its items as [].
    """

    key: str
    position: int | None
    value: Any


def stream_json(path: str | Path, remedy: str) -> Iterator[JsonItem]:
    """The values of a top-level object in file order, arrays item by item; or the items of a top-level array.

    Raises InputError with `remedy` if the file is missing or is not JSON; items before the error were yielded already.
    """
    try:
        with open(path, encoding="utf-8-sig") as stream, _bar(path) as bar:
            yield from _Scanner(stream, bar).items()
    except FileNotFoundError:
        raise InputError(path, "does not exist", remedy) from None
    except IsADirectoryError:
        raise InputError(path, "is a folder", remedy) from None
    except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply
        if isinstance(error, InputError):
            raise
        raise InputError(path, f"is not JSON ({error})", remedy) from error


def _bar(path: str | Path) -> Any:
    """A progress bar over the bytes of a file, shown if reading takes more than two seconds."""
    size = Path(path).stat().st_size
    return show_progress(desc=Path(path).name, total=size, unit="B", leave=False, delay=2)


class _Scanner:
    """Parses a stream incrementally: reads more text only when the next value needs it."""

    def __init__(self, stream: IO[str], bar: Any) -> None:
        self._stream = stream
        self._bar = bar
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._at = 0  # of the next character in the text
        self._before = 0  # characters of the file before the text

    def items(self) -> Iterator[JsonItem]:
        sign = self._sign()
        if sign == "[":
            yield from self._array("")
        elif sign == "{":
            yield JsonItem("", None, {})
            yield from self._object()
        else:
            yield JsonItem("", None, self._value())
        if self._sign():
            raise self._error("Extra data")

    def _object(self) -> Iterator[JsonItem]:
        self._take("{")
        more = self._sign() != "}"
        while more:
            if self._sign() != '"':
                raise self._error("Expecting property name enclosed in double quotes")
            key = self._value()
            self._take(":")
            if self._sign() == "[":
                yield from self._array(key)
            else:
                yield JsonItem(key, None, self._value())
            more = self._has_another("}")
        self._take("}")

    def _array(self, key: str) -> Iterator[JsonItem]:
        self._take("[")
        yield JsonItem(key, None, [])
        more = self._sign() != "]"
        for position in count():
            if not more:
                break
            yield JsonItem(key, position, self._value())
            more = self._has_another("]")
        self._take("]")

    def _has_another(self, end: str) -> bool:
        """Consumes a comma; False at the end of the array or object."""
        at = self._at
        plain = self._text[at + 2 : at + 3] in _PLAIN_STARTS
        if plain and self._text[at : at + 2] == ", ":  # nearly always
            self._at = at + 2
            return True
        if self._sign() == end:
            return False
        self._take(",")
        if self._sign() == end:
            raise self._error("Illegal trailing comma")
        return True

    def _value(self) -> Any:
        """Parses the next value, reading as much text as it needs."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
                # A number at the end of the text may continue in the next chunk: "1" of "1.5".
                if end < len(self._text) - _NEAR_THE_END or not self._read():
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self._text) - _NEAR_THE_END or error.msg.startswith("Unterminated")
                if not cut or not self._read():
                    self._at = min(error.pos, len(self._text))
                    raise self._error(error.msg) from None

    def _sign(self) -> str:
        """The next character that is not white space, without consuming it; "" at the end of the file."""
        while True:
            self._at = _BLANKS.match(self._text, self._at).end()  # type: ignore[union-attr]  # matches anything
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return ""

    def _take(self, sign: str) -> None:
        if self._sign() != sign:
            raise self._error(f"Expecting {sign!r}")
        self._at += 1

    def _read(self) -> bool:
        """Drops the consumed text and appends the next chunk; False, without a change, at the end of the file."""
        # At least as much as is left over: a value that spans many chunks is then parsed a few times, not once a chunk.
        more = self._stream.read(max(_CHUNK, len(self._text) - self._at))
        self._bar.update(len(more))  # characters, not bytes: with text beyond ASCII the bar ends early
        if more:
            self._before += self._at
            self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)

    def _error(self, what: str) -> ValueError:
        return ValueError(f"{what}: character {self._before + self._at}")


class PackedItems:
    """A list of JSON values stored as bytes: about a hundred per box, a tenth of the size as Python objects."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("Q", [0])

    def append(self, value: Any) -> None:
        """Appends a value made of plain containers, strings and numbers."""
        self._bytes += marshal.dumps(value)  # marshal is safe here: the bytes never leave this process
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Any:
        return marshal.loads(self._bytes[self._ends[index] : self._ends[index + 1]])

    def __iter__(self) -> Iterator[Any]:
        load, packed, start = marshal.loads, self._bytes, 0
        for end in self._ends[1:]:
            yield load(packed[start:end])
            start = end
