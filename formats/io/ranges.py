"""Ranges of settings as part of their types: `learning_rate: Rate = 1e-4` is checked wherever its value comes from.

read_config checks every table of a file and names file, key, value and range in its error. A dataclass that is also
built in Python calls check_ranges in its __post_init__.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin

from formats.io.errors import InputError
from formats.io.values import describe_value


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, inclusive; with `above`, low itself is excluded."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def holds(self, value: Any) -> bool:
        return self.low <= value <= self.high and abs(value) < math.inf and not (self.above and value == self.low)

    def __str__(self) -> str:
        if math.isinf(self.low):
            return "a finite number"
        low = f"above {self.low:g}" if self.above else f"from {self.low:g}"
        return f"a number {low} to {self.high:g}"


@dataclass(frozen=True)
class FileName:
    """A string that is a valid file name on every operating system."""

    def holds(self, value: Any) -> bool:
        return bool(re.fullmatch(r"[^/\\:*?\"<>|\x00-\x1f]{1,100}", value)) and value.strip(". ") == value

    def __str__(self) -> str:
        return "a file name: up to 100 characters, no slash, and no dot or space at its ends"


Share = Annotated[float, Range(0, 1)]
PositiveShare = Annotated[float, Range(0, 1, above=True)]
Factor = Annotated[float, Range(0, 1e6)]  # multiplies a loss or a cost
Rate = Annotated[float, Range(0, 10)]  # a learning rate; anything useful is far below 10
Count = Annotated[int, Range(1, 10**9)]
CountOrZero = Annotated[int, Range(0, 10**9)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # what numpy accepts
Pixels = Annotated[int, Range(1, 100_000)]
Amount = Annotated[float, Range(0, 1e9, above=True)]
Name = Annotated[str, FileName()]

_FINITE = Range()


def range_problems(config_type: Any, values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(field, what is wrong, remedy) for each value outside the range that its dataclass declares.

    Floats without a range must be finite. Items of tuples and tables are checked as `field.key`.
    """
    for name, value in values.items():
        for key, number, limits in _limited(name, value, _hints(config_type).get(name)):
            if not limits.holds(number):
                yield key, f"is {describe_value(number)}", f"expected {limits}"


def check_ranges(config: Any) -> None:
    """Raises InputError for the first setting of a dataclass instance that is outside its range."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    for name, what, remedy in range_problems(type(config), values):
        raise InputError(name, what, remedy)


@cache
def _hints(config_type: Any) -> dict[str, Any]:
    return typing.get_type_hints(config_type, include_extras=True)


def _limited(name: str, value: Any, hint: Any) -> Iterator[tuple[str, Any, Range | FileName]]:
    """(key, number or string, its limits) for a value and the items in it."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, Mapping):
        items = get_args(hint)[-1] if get_origin(hint) in (dict, Mapping) and get_args(hint) else None
        for key, item in value.items():
            yield from _limited(f"{name}.{key}", item, items)
    elif isinstance(value, tuple | list):
        hints = [each for each in get_args(_without_none(hint)) if each is not Ellipsis]
        for index, item in enumerate(value):
            yield from _limited(f"{name}.{index}", item, hints[min(index, len(hints) - 1)] if hints else None)
    elif (limits := _limits_of(hint)) is not None and isinstance(value, str if _is_name(limits) else (int, float)):
        yield name, value, limits
    elif isinstance(value, float):
        yield name, value, _FINITE


def _is_name(limits: Range | FileName) -> bool:
    return isinstance(limits, FileName)


def _without_none(hint: Any) -> Any:
    members = [each for each in get_args(hint) if each is not type(None)]
    return members[0] if len(members) == 1 and len(get_args(hint)) == 2 and type(None) in get_args(hint) else hint


def _limits_of(hint: Any) -> Range | FileName | None:
    hint = _without_none(hint)
    found = [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Range | FileName)]
    return found[0] if found else None
