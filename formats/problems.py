"""How this project says that something is wrong with what it was given."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: where, what stands there, what would be right.

    str() is `place: what; want remedy`. Commands print it and end with exit code 2.
    """

    def __init__(self, place: object, what: str, remedy: str = "") -> None:
        self.place, self.what, self.remedy = str(place), what, remedy
        super().__init__(f"{place}: {what}" + (f"; {remedy}" if remedy else ""))
