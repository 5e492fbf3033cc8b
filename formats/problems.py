"""How this project says that something is wrong with what it was given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input: where, what stands there, what would be right.

    str() is `place: what; want remedy`. Commands print it and end with exit code 2.
    """

    def __init__(self, place: object, what: str, remedy: str = "") -> None:
        self.place, self.what, self.remedy = str(place), what, remedy
        super().__init__(f"{place}: {what}" + (f"; {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        """For other processes: an exception is pickled by its one message otherwise, which makes no InputError."""
        return type(self), (self.place, self.what, self.remedy)


@contextmanager
def handed_to(on_problem: Callable[[InputError], None] | None) -> Iterator[None]:
    """Hands an InputError of the block to `on_problem`; without one it goes on its way."""
    try:
        yield
    except InputError as error:
        if on_problem is None:
            raise
        on_problem(error)
