"""Reading untrusted JSON: parsed with a limit on nesting, and each value checked for its type.

`Table(value, location)` wraps a JSON object. Each of its methods returns a value of one type, or raises InputError that
names the location, the key and the actual value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from formats.io.errors import InputError

MAX_DEPTH = 200  # nested containers; data files have about ten. Code that walks through them may recurse
_MISSING: Any = object()


def parse_json(text: str | bytes, location: object, remedy: str, pairs_hook: Callable | None = None) -> Any:
    """The value of a JSON text. Raises InputError with `remedy` if it is invalid or nested too deeply.

    pairs_hook: the object_pairs_hook of json.loads.
    """
    try:
        value = json.loads(text, object_pairs_hook=pairs_hook)
    except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply
        raise InputError(location, f"is not JSON ({_first_line(error)})", remedy) from error
    check_depth(value, location, remedy)
    return value


def check_depth(value: Any, location: object, remedy: str) -> None:
    """Raises InputError if lists and tables are nested more than MAX_DEPTH deep."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [part for each in level for part in _parts(each)]
        if not level:
            return
    raise InputError(location, f"is nested more than {MAX_DEPTH} deep", remedy)


def _parts(value: Any) -> Any:
    if isinstance(value, dict):
        return [part for part in value.values() if isinstance(part, dict | list | tuple)]
    return [part for part in value if isinstance(part, dict | list | tuple)] if isinstance(value, list | tuple) else ()


def _first_line(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    return text if len(text) <= 200 else f"{text[:200]}…"


def brief_json(value: Any) -> str:
    """The beginning of a value's JSON, for a message that compares two of them."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}…"


def describe_value(value: Any) -> str:
    """A value for a message: shortened, and of a container only its kind."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:40]}…"


class Table:
    """A JSON object. location: for messages, the file; of a table inside another, also its key."""

    def __init__(self, value: Any, location: object, remedy: str = "expected a table") -> None:
        if not isinstance(value, dict):
            raise InputError(location, f"is {describe_value(value)}", remedy)
        self._values: dict[str, Any] = value
        self.location = location

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def keys(self) -> list[str]:
        return list(self._values)

    def get(self, key: str, default: Any = None) -> Any:
        """The value, of any type."""
        return self._values.get(key, default)

    def table(self, key: str) -> Table:
        """The table under a key; an empty one if it is missing or null."""
        value = self._values.get(key)
        return Table({} if value is None else value, f"{self.location}: {key}")

    def text(self, key: str, default: Any = _MISSING) -> Any:
        return self._typed(key, default, lambda value: isinstance(value, str), "a string")

    def whole(self, key: str, default: Any = _MISSING, low: int = 0, high: int = 1 << 31) -> Any:
        """A whole number from low to high; null counts as missing."""
        want = f"a whole number from {low} to {high}"
        return self._typed(key, default, lambda value: type(value) is int and low <= value <= high, want)

    def number(self, key: str, default: Any = _MISSING, low: float = -math.inf, high: float = math.inf) -> Any:
        """A finite number from low to high; null counts as missing."""
        want = "a number" if low == -math.inf else f"a number from {low:g} to {high:g}"

        def fits(value: Any) -> bool:
            return type(value) in (int, float) and abs(value) < math.inf and low <= value <= high

        return self._typed(key, default, fits, want)

    def numbers(self, key: str) -> dict[str, float]:
        """The table under a key, whose values must all be finite numbers; {} if it is missing or null."""
        table = self.table(key)
        return {name: table.number(name) for name in table.keys()}  # noqa: SIM118 - not a dict

    def _typed(self, key: str, default: Any, fits: Callable[[Any], bool], want: str) -> Any:
        value = self._values.get(key)
        if value is None:
            if default is _MISSING:
                raise InputError(self.location, f"{key!r} is missing", f"expected {want}")
            return default
        if not fits(value):
            raise InputError(f"{self.location}: {key}", f"is {describe_value(value)}", f"expected {want}")
        return value
