"""Names of the categories of well-known data sets, in their own order; `--texts '$: coco'` asks for them here."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from formats.problems import InputError

FOLDER = Path(__file__).parent / "categories"


def category_lists() -> list[str]:
    """The data sets that are known."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def read_category_list(name: str) -> tuple[str, ...]:
    """The categories of a data set. Raises InputError, with what comes close, when it is not known."""
    known = category_lists()
    key = name.strip().lower()
    if key not in known:
        close = get_close_matches(key, known, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise InputError(f"$: {name.strip()}", "no data set of this name", f"{hint}want one of {', '.join(known)}")
    return tuple((FOLDER / f"{key}.txt").read_text(encoding="utf-8").splitlines())
