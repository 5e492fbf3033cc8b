"""InputError, the exception for bad input, and helpers that word it and attach its location."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input: where it is, what is wrong, and what was expected.

    str() is `location: what; remedy`. Commands print it and exit with code 2.
    """

    def __init__(self, location: object, what: str, remedy: str = "") -> None:
        self.location, self.what, self.remedy = str(location), what, remedy
        super().__init__(f"{location}: {what}" + (f"; {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        """By default an exception is pickled with its message alone, from which an InputError cannot be rebuilt."""
        return type(self), (self.location, self.what, self.remedy)


def did_you_mean(known: Iterable[object], word: object, similarity: float = 0.6) -> str:
    """The remedy for an unknown word: the most similar known word, ignoring case; "" if none is similar.

    similarity: the minimum, 0..1, as difflib measures it. A value that is not a string is similar to none.
    """
    if not isinstance(word, str):
        return ""
    by_lower_case = {str(each).lower(): str(each) for each in known}
    close = difflib.get_close_matches(word.lower(), by_lower_case, n=1, cutoff=similarity)
    return f"did you mean {by_lower_case[close[0]]!r}?" if close else ""


def expected_one_of(known: Iterable[object], word: object) -> str:
    """The remedy for an unknown word: the most similar known word, or a list of all known words."""
    words = [str(each) for each in known]
    return did_you_mean(words, word) or f"expected one of {', '.join(words)}"


def refused(location: object, error: Exception, where: str = "") -> InputError:
    """Turns an error with the message `what; remedy`, as formats.record raises it, into an InputError at `location`.

    where: the part of the location that is wrong, put before the message.
    """
    what, _, remedy = str(error).partition("; ")
    return InputError(location, where + what, remedy)


@contextmanager
def located(location: object) -> Iterator[None]:
    """A ValueError of the block, as formats.record raises it, becomes an InputError at `location`."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise refused(location, error) from error


@contextmanager
def at_file(path: object) -> Iterator[None]:
    """Puts the path of a file before the location of an InputError that the block raises."""
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
