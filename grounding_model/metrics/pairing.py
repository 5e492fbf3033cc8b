"""What belongs together: each true record with what was found for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from formats.problems import InputError
from formats.record import Record, Region


def check_pairing(known: Sequence[Any], found: Sequence[Any]) -> None:
    """Raises InputError for a key given twice on a side and for found keys that are not known."""
    for side, keys in (("truth", known), ("predictions", found)):
        twice = [key for key, count in Counter(keys).items() if count > 1]
        if twice:
            raise InputError(side, f"{_shown(twice[0])} is there twice", "want each once")
    unknown = set(found) - set(known)
    if unknown:
        raise InputError("predictions", f"the truth does not know {_shown(min(unknown))}", "want no more than it has")


def _shown(key: Any) -> str:
    return key if isinstance(key, str) else ": ".join(str(part) for part in key)


def paired_captions(truth: Sequence[Record], predictions: Sequence[Record]) -> list[tuple[Record, tuple[Region, ...]]]:
    """Each true record with the regions found for it, () where nothing was."""
    for record in (*truth, *predictions):
        if record.caption is None:
            raise InputError(record.filename, "has no caption", "want captions with phrases")
    keys = [(record.filename, record.caption) for record in truth]
    found = {(record.filename, record.caption): record.regions or () for record in predictions}
    check_pairing(keys, [(record.filename, record.caption) for record in predictions])
    return [(record, found.get(key, ())) for record, key in zip(truth, keys)]


def regions_to_find(record: Record) -> list[Region]:
    return [region for region in record.regions or () if region.boxes and not region.ignore]
