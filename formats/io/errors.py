"""InputError, and the remedies that it suggests."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input: where, what is wrong, what is expected.

    str() is `location: what; expected remedy`. Commands print it and end with exit code 2.
    """

    def __init__(self, location: object, what: str, remedy: str = "") -> None:
        self.location, self.what, self.remedy = str(location), what, remedy
        super().__init__(f"{location}: {what}" + (f"; {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        """For other processes: an exception is pickled by its one message otherwise, which makes no InputError."""
        return type(self), (self.location, self.what, self.remedy)


def did_you_mean(known: Iterable[object], word: object, similarity: float = 0.6) -> str:
    """The remedy for an unknown word: the known word that resembles it, in any case; else "".

    similarity: 0..1, the minimum that counts, as difflib measures it. What is not text looks like nothing.
    """
    if not isinstance(word, str):
        return ""
    by_lower_case = {str(each).lower(): str(each) for each in known}
    close = difflib.get_close_matches(word.lower(), by_lower_case, n=1, cutoff=similarity)
    return f"did you mean {by_lower_case[close[0]]!r}?" if close else ""


def expected_one_of(known: Iterable[object], word: object) -> str:
    """The remedy for an unknown word: the known word that resembles it, or all known words."""
    words = [str(each) for each in known]
    return did_you_mean(words, word) or f"expected one of {', '.join(words)}"


def refused(location: object, error: Exception, where: str = "") -> InputError:
    """The InputError for a value's own error, `what; remedy`, as formats.record raises it, with its location.

    where: which part of the location it is, put before the words.
    """
    what, _, remedy = str(error).partition("; ")
    return InputError(location, where + what, remedy)


@contextmanager
def located(location: object) -> Iterator[None]:
    """A value's own error inside the block, as formats.record raises it, becomes an InputError at `location`."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise refused(location, error) from error


@contextmanager
def at_file(path: object) -> Iterator[None]:
    """An InputError of the block about what stands in a file names that file before its own location."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error.location}", error.what, error.remedy) from error


@contextmanager
def handed_to(on_problem: Callable[[InputError], None] | None) -> Iterator[None]:
    """Passes an InputError of the block to `on_problem`; without one it is raised."""
    try:
        yield
    except InputError as error:
        if on_problem is None:
            raise
        on_problem(error)
