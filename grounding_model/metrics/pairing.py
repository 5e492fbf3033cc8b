"""Pairs each ground truth record with its prediction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from formats.io.errors import InputError
from formats.record import Record, Region


def check_pairing(truth: Sequence[Any], predictions: Sequence[Any]) -> None:
    """Raises InputError for duplicate keys on either side, and for predictions whose key is not in the ground truth."""
    for side, keys in (("truth", truth), ("predictions", predictions)):
        duplicates = [key for key, count in Counter(keys).items() if count > 1]
        if duplicates:
            raise InputError(side, f"{_key_text(duplicates[0])} is listed twice", "expected each only once")
    unknown = set(predictions) - set(truth)
    if unknown:
        raise InputError(
            "predictions", f"{_key_text(min(unknown))} is not in the truth", "expected only images of the truth"
        )


def _key_text(key: Any) -> str:
    return key if isinstance(key, str) else ": ".join(str(part) for part in key)


def paired_captions(truth: Sequence[Record], predictions: Sequence[Record]) -> list[tuple[Record, tuple[Region, ...]]]:
    """Each true record with its predicted regions, () if there are none.

    Records are paired by filename and caption, in any order. If both sides have the same keys in the same order, they
    are paired by position, so that an image may have the same caption twice, as in RefCOCO, where the two refer to
    different objects.
    """
    for record in (*truth, *predictions):
        if record.caption is None:
            raise InputError(record.filename, "has no caption", "expected captions with phrases")
    keys, predicted_keys = ([(record.filename, record.caption) for record in side] for side in (truth, predictions))
    if keys == predicted_keys:
        return [(record, prediction.regions or ()) for record, prediction in zip(truth, predictions)]
    check_pairing(keys, predicted_keys)
    regions = {key: record.regions or () for key, record in zip(predicted_keys, predictions)}
    return [(record, regions.get(key, ())) for record, key in zip(truth, keys)]


def regions_to_find(record: Record) -> list[Region]:
    return [region for region in record.regions or () if region.boxes and not region.ignore]
