"""Reads pickles of lists, dicts, strings and numbers without running any code in them.

A pickle can name functions for its reader to call. Here every such name is refused, so only plain containers can
result. A pickle of a hundred bytes can also describe a value that takes hours to hash, gigabytes to print, or is nested
so deeply that the interpreter crashes. The limits against that are also here, and every reader of pickles uses them.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, ClassVar

from formats.io.errors import InputError

MAX_DEPTH = 100  # nested containers; published files have fewer than 10
MAX_KEY_PARTS = 16  # items of a tuple that is a key
MAX_KEY_BITS = 60  # larger integers can be chosen so that their hashes collide, which makes a dict of them quadratic
REPEATS = 100  # largest ratio of a value, written out, to its file: a string of 200 bytes is repeated by 2 bytes
SMALL = 1 << 20  # characters, written out, that are always allowed
ATOMS = (str, bytes, int, float, complex, type(None))


class Oversized(pickle.UnpicklingError):
    """The value exceeds a limit on nesting, keys or size that no published file comes near."""


# The Python implementation, not the C one: that allocates as much as ten bytes of a pickle announce, and offers no hook
# to check a key before it is hashed.
_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class BoundedUnpickler(_PythonUnpickler):
    """Allocates no more than the file's size and hashes no nested key. The value must still pass check_extent."""

    key_types: ClassVar[tuple[type, ...]] = ATOMS

    def __init__(self, file: IO[bytes], size: int, **options: Any) -> None:
        """size: of the whole file in bytes."""
        super().__init__(_Bounded(file, size), **options)

    def load_setitem(self) -> None:
        self._check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        self._check_keys(self.stack[::2])  # the keys since the mark
        super().load_setitems()

    def load_dict(self) -> None:
        self._check_keys(self.stack[::2])
        super().load_dict()

    def load_additems(self) -> None:
        self._check_keys(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        self._check_keys(self.stack)
        super().load_frozenset()

    def _check_keys(self, keys: Iterable[object]) -> None:
        for key in keys:
            check_key(key, self.key_types)

    dispatch: ClassVar[dict] = {
        **_PythonUnpickler.dispatch,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
    }
    del dispatch[pickle.BYTEARRAY8[0]]  # the Python implementation allocates for this one; published files have none


class _Bounded:
    """A file that refuses to read more bytes than it has."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        if count > self._size:
            raise EOFError(f"{count} bytes are announced, the file has {self._size}")
        return self._file.read(count)


def check_key(key: object, types: tuple[type, ...] = ATOMS) -> None:
    """Raises Oversized unless a key or set member is a string, a number or a short tuple of these."""
    for part in key if type(key) is tuple and len(key) <= MAX_KEY_PARTS else (key,):
        if not isinstance(part, types):
            raise Oversized(f"a {type(part).__name__} is part of a key")
        if isinstance(part, int) and part.bit_length() > MAX_KEY_BITS:
            raise Oversized(f"a key is a number of {part.bit_length()} bits")


def check_extent(value: object, file_size: int) -> None:
    """Raises Oversized if a value contains itself, is nested too deeply, or would be far larger if written out.

    A few shared containers can describe a huge value, so each is visited once, without recursion.
    """
    limit = max(SMALL, REPEATS * file_size)
    extents: dict[int, int] = {}  # of finished containers
    open_ones: set[int] = set()
    todo: list[tuple[object, bool]] = [(value, False)]
    while todo:
        item, seen = todo.pop()
        if seen:
            open_ones.discard(id(item))
            extent = 1 + sum(_extent(part, extents) for part in _parts(item))
            if extent > limit:
                raise Oversized(f"written out it has more than {limit} characters, from a file of {file_size} bytes")
            extents[id(item)] = extent
        elif isinstance(item, dict | list | tuple | set | frozenset) and id(item) not in extents:
            if id(item) in open_ones:
                raise Oversized("a container contains itself")
            if len(open_ones) >= MAX_DEPTH:
                raise Oversized(f"containers are nested more than {MAX_DEPTH} deep")
            open_ones.add(id(item))
            todo.append((item, True))
            todo.extend((part, False) for part in _parts(item))


def _parts(container: Any) -> Iterable[object]:
    return (part for pair in container.items() for part in pair) if isinstance(container, dict) else container


def _extent(part: object, extents: dict[int, int]) -> int:
    return 1 + len(part) if isinstance(part, str | bytes) else extents.get(id(part), 1)


class _PlainUnpickler(BoundedUnpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_plain_pickle(path: str | Path) -> Any:
    """The value of a pickle that contains only lists, tuples, dicts, sets, strings, bytes, numbers and None.

    Strings of Python 2 are read as UTF-8. Raises InputError for anything else, without running it.
    """
    try:
        data = Path(path).read_bytes()
        value = _PlainUnpickler(io.BytesIO(data), len(data), encoding="utf-8").load()
        check_extent(value, len(data))
        return value
    except FileNotFoundError:
        raise InputError(path, "does not exist", "expected a pickle of plain containers") from None
    except Exception as error:  # a broken pickle can raise nearly anything
        what = f"is not a pickle of plain containers ({error})"
        raise InputError(path, what, "expected the published file") from error
