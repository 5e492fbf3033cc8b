"""Numbers of things in messages."""

from __future__ import annotations


def many(count: int, noun: str) -> str:
    """ "1 box", "2 boxes", "0 categories". noun: in the singular; of several words the last one counts."""
    if count == 1:
        return f"{count} {noun}"
    if noun.endswith("y"):
        return f"{count} {noun[:-1]}ies"
    return f"{count} {noun}{'es' if noun.endswith(('x', 's', 'ch')) else 's'}"
