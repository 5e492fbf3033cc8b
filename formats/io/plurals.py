"""Numbers of things in messages."""

from __future__ import annotations


def many(count: int, noun: str) -> str:
    """ "1 box", "2 boxes"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith('x') else 's'}"
