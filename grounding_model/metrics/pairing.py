"""What belongs together: each true record with what was found for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from formats.io.errors import InputError
from formats.record import Record, Region


def check_pairing(known: Sequence[Any], found: Sequence[Any]) -> None:
    """Raises InputError for a key given twice on a side and for found keys that are not known."""
    for side, keys in (("truth", known), ("predictions", found)):
        twice = [key for key, count in Counter(keys).items() if count > 1]
        if twice:
            raise InputError(side, f"{_shown(twice[0])} is there twice", "expected each once")
    unknown = set(found) - set(known)
    if unknown:
        raise InputError(
            "predictions", f"the truth does not know {_shown(min(unknown))}", "expected no more than it has"
        )


def _shown(key: Any) -> str:
    return key if isinstance(key, str) else ": ".join(str(part) for part in key)


def paired_captions(truth: Sequence[Record], predictions: Sequence[Record]) -> list[tuple[Record, tuple[Region, ...]]]:
    """Each true record with the regions found for it, () where nothing was.

    By filename and caption, in any order. Predictions in the order of the truth, one each, are paired as they stand:
    so an image may have the same caption twice, as in RefCOCO, where it means another thing each time.
    """
    for record in (*truth, *predictions):
        if record.caption is None:
            raise InputError(record.filename, "has no caption", "expected captions with phrases")
    keys, found_keys = ([(record.filename, record.caption) for record in side] for side in (truth, predictions))
    if keys == found_keys:
        return [(record, found.regions or ()) for record, found in zip(truth, predictions)]
    check_pairing(keys, found_keys)
    found = {key: record.regions or () for key, record in zip(found_keys, predictions)}
    return [(record, found.get(key, ())) for record, key in zip(truth, keys)]


def regions_to_find(record: Record) -> list[Region]:
    return [region for region in record.regions or () if region.boxes and not region.ignore]
