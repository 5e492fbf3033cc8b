"""A table of functions by format name, whose modules are imported on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any


class Functions(Mapping[str, Callable[..., Any]]):
    """A read-only mapping of names to functions. locations: name -> "module.function" in this package."""

    def __init__(self, locations: Mapping[str, str]) -> None:
        self._locations = dict(locations)

    def __getitem__(self, name: str) -> Callable[..., Any]:
        module, function = self._locations[name].rsplit(".", 1)
        return getattr(import_module(f"{__package__}.{module}"), function)

    def __iter__(self) -> Iterator[str]:
        return iter(self._locations)

    def __len__(self) -> int:
        return len(self._locations)

    def __contains__(self, name: object) -> bool:
        return name in self._locations
