"""Words of messages: singular and plural, and lists that are cut off."""

from __future__ import annotations

from collections.abc import Iterable


def singular(noun: str) -> str:
    """ "box" of "boxes"; the inverse of what many() makes."""
    for plural, one in (("ies", "y"), ("ipses", "ipse"), ("xes", "x"), ("ses", "s"), ("ches", "ch")):
        if noun.endswith(plural):
            return noun.removesuffix(plural) + one
    return noun.removesuffix("s")


def verb(count: int, of_one: str, of_several: str) -> str:
    """The verb that goes with a number of things: verb(1, "is", "are")."""
    return of_one if count == 1 else of_several


def many(count: int, noun: str) -> str:
    """ "1 box", "2 boxes", "0 categories". noun: in the singular; of several words the last is inflected."""
    if count == 1:
        return f"{count} {noun}"
    if noun.endswith("y"):
        return f"{count} {noun[:-1]}ies"
    return f"{count} {noun}{'es' if noun.endswith(('x', 's', 'ch')) else 's'}"


def first_of(texts: Iterable[str], max_count: int) -> str:
    """ "a, b and 7 more": the first texts, and how many there are besides."""
    listed = list(texts)
    rest = f" and {len(listed) - max_count} more" if len(listed) > max_count else ""
    return ", ".join(listed[:max_count]) + rest


def first_lines(texts: Iterable[str], max_count: int) -> list[str]:
    """The first texts as indented lines, and a last line with the number of the others, if there are any."""
    listed = list(texts)
    rest = [f"  and {len(listed) - max_count} more"] if len(listed) > max_count else []
    return [*(f"  {text}" for text in listed[:max_count]), *rest]
