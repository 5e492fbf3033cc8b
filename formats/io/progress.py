"""Progress of long work: a bar on a terminal; a line every half minute if stderr is a file or a scheduler's log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from formats.io.plurals import many

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 30.0  # work that takes less prints nothing, which keeps logs short


def show_progress(
    items: Iterable[Item] | None = None, *, unit: str, desc: str = "", total: int | None = None, initial: int = 0,
    hidden: bool = False, delay: float = 0, leave: bool = True,
) -> Any:  # fmt: skip
    """A tqdm bar or LogLines, which have the same interface: iterate over it, or update() it inside a `with`.

    unit: a noun in the singular, or "B" for bytes. delay: seconds before a bar is shown. leave: whether it stays on
    the screen at the end. Both write to stderr.
    """
    if hidden or sys.stderr.isatty():
        return tqdm(
            items, desc=desc or None, total=total, initial=initial, disable=hidden, delay=delay, leave=leave,
            unit=unit if unit == "B" else f" {unit}s", unit_scale=unit == "B", dynamic_ncols=True,
        )  # fmt: skip
    return LogLines(items, unit=unit, desc=desc, total=total, initial=initial)


class LogLines(Generic[Item]):
    """The part of tqdm's interface that we use, printing "label: 480 of 5000 images, 9.6 images/s, 07:51 left"."""

    def __init__(
        self, items: Iterable[Item] | None = None, *, unit: str, desc: str = "", total: int | None = None,
        initial: int = 0,
    ) -> None:  # fmt: skip
        if total is None and items is not None and hasattr(items, "__len__"):
            total = len(items)  # type: ignore[arg-type]
        self._items, self._unit, self._desc, self._total = items, unit, desc, total
        self.n = self._initial = initial
        self._began = self._last = time.monotonic()
        self._printed_at: int | None = None  # n of the last line
        self._more = ""

    def __iter__(self) -> Iterator[Item]:
        with self:
            for item in self._items or ():
                yield item
                self.update()

    def __enter__(self) -> LogLines[Item]:
        return self

    def __exit__(self, *failure: object) -> None:
        if failure[0] is None:
            self.close()

    def update(self, n: int = 1) -> None:
        self.n += n
        if (now := time.monotonic()) - self._last >= SECONDS_BETWEEN_LINES:
            self._print(now)

    def set_postfix(self, refresh: bool = True, **numbers: Any) -> None:
        """Sets numbers to print at the end of the next line."""
        self._more = "".join(f", {name} {value}" for name, value in numbers.items())

    def close(self) -> None:
        """Prints a last line, if there was one before."""
        if self._printed_at not in (None, self.n):
            self._print(time.monotonic())

    def _print(self, now: float) -> None:
        self._last, self._printed_at = now, self.n
        rate = (self.n - self._initial) / max(now - self._began, 1e-9)
        parts = [self._counted(), self._rate(rate)]
        if self._total and self.n < self._total and rate > 0:
            parts.append(f"{tqdm.format_interval((self._total - self.n) / rate)} left")
        start = f"{self._desc}: " if self._desc else ""
        print(f"{start}{', '.join(parts)}{self._more}", file=sys.stderr, flush=True)

    def _counted(self) -> str:
        if self._unit == "B":
            whole = f" of {_bytes(self._total)}" if self._total else ""
            return f"{_bytes(self.n)}{whole}"
        return f"{self.n} of {many(self._total, self._unit)}" if self._total else many(self.n, self._unit)

    def _rate(self, rate: float) -> str:
        if self._unit == "B":
            return f"{_bytes(rate)}/s"
        return f"{rate:.1f} {self._unit}s/s" if rate >= 1 or not rate else f"{1 / rate:.1f} s for each {self._unit}"


def _bytes(count: float) -> str:
    return f"{tqdm.format_sizeof(count, 'B', 1000)}"
