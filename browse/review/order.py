"""The order in which images are reviewed."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from formats.dataset_names import metadata_path
from formats.io.errors import InputError
from formats.io.files import load_json, read_text
from formats.io.values import Table
from formats.record import Record

Threshold = Callable[[str], float]  # category or phrase -> the score above which its boxes became labels


def in_order(records: Sequence[Record], order: str, annotations: Path) -> list[Record]:
    """The records in the order of `--order`: "file", "uncertain", a list of images (.jsonl), or a file of scores.

    Records of equal rank, and those without a score, stay in the order of their file, the latter at the end.
    Raises InputError for a file that is neither such a list nor such a table.
    """
    if order == "file":
        return list(records)
    if Path(order).suffix.lower() == ".jsonl":
        rank = {key: position for position, key in enumerate(read_listed(Path(order)))}
        return sorted(records, key=lambda record: _score(rank, record))
    if order == "uncertain":
        threshold = _threshold(records, annotations)
        return sorted(records, key=lambda record: distance_to_threshold(record, threshold))
    scores = _read_scores(Path(order))
    return sorted(records, key=lambda record: _score(scores, record))


def distance_to_threshold(record: Record, threshold: Threshold) -> float:
    """How far the score of the image's least certain box is from its threshold; infinite without scores."""
    return min((abs(score - threshold(name)) for name, score in _scored(record)), default=math.inf)


def _scored(record: Record) -> list[tuple[str, float]]:
    """(category or phrase, score) of every box that has a score, ignored ones too: they are the nearest."""
    scored = [(each.category, each.score) for each in record.instances or () if each.score is not None]
    return scored + [(" ".join(region.phrase), score) for region in record.regions or () for score in region.scores]


def _threshold(records: Sequence[Record], annotations: Path) -> Threshold:
    """The thresholds in X_od_v1.meta.json; without it the lowest score, which was just above its threshold."""
    meta = metadata_path(annotations)
    remedy = "remove it, or filter again"
    policy, adaptive = Table({}, meta), dict[str, float]()
    if meta.is_file():
        metadata = Table(load_json(meta, remedy), meta, remedy)
        policy, adaptive = metadata.table("policy"), metadata.numbers("thresholds_found")
    lowest = min((score for record in records for _, score in _scored(record)), default=0.0)
    default: float = policy.number("score_threshold", lowest)
    by_name = {**adaptive, **policy.numbers("class_thresholds")}
    return lambda name: by_name.get(name, default)


def read_listed(path: Path) -> dict[tuple[str, str], str]:
    """(file name, caption or "") -> why it should be looked at, in the order of a list of images.

    A line is {"filename": "a.jpg", "reason": "two views disagree"}, for captions also "caption"; "reason" may be left
    out. An image that is listed again keeps its place and gets both reasons.
    Raises InputError for a line that is not such an object.
    """
    remedy = 'expected lines such as {"filename": "a.jpg", "reason": "two views disagree"}'
    if not path.is_file():
        raise InputError(path, "does not exist", remedy)
    listed: dict[tuple[str, str], str] = {}
    for number, text in enumerate(read_text(path, remedy).splitlines(), start=1):
        if not text.strip():
            continue
        try:
            entry = json.loads(text)
            filename, caption, reason = entry["filename"], entry.get("caption") or "", entry.get("reason") or ""
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            what = f"is not an image to review ({type(error).__name__}: {error})"
            raise InputError(f"{path}:{number}", what, remedy) from None
        if not all(isinstance(value, str) for value in (filename, caption, reason)):
            raise InputError(f"{path}:{number}", "has a value that is not text", remedy)
        known = listed.get((filename, caption), "")
        listed[filename, caption] = "; ".join(filter(None, dict.fromkeys((known, reason))))
    return listed


def _read_scores(path: Path) -> dict[tuple[str, str], float]:
    """(file name, caption or "") -> score, of a JSON table or of the CSV that `groundhog agreement` writes."""
    if not path.is_file():
        raise InputError(
            "--order", f"{str(path)!r} does not exist", 'expected "file", "uncertain" or a table of scores'
        )
    remedy = 'expected {"a.jpg": 0.4}, or a CSV of `groundhog agreement`'
    try:
        if path.suffix.lower() == ".csv":
            rows = csv.DictReader(read_text(path, remedy).splitlines())
            return {(row["filename"], row["caption"] or ""): float(row["agreement"]) for row in rows}
        table: Mapping[str, Any] = load_json(path, remedy)
        return {(filename, ""): float(score) for filename, score in table.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(path, f"is not a table of scores ({type(error).__name__}: {error})", remedy) from error


def _score(scores: Mapping[tuple[str, str], float], record: Record) -> float:
    """By file name and caption, or by file name alone."""
    score = scores.get((record.filename, record.caption or ""), scores.get((record.filename, "")))
    return math.inf if score is None else score
