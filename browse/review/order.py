"""The orders in which images are reviewed, and the reasons to look at an image."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from browse.review.index import LineIndex
from browse.review.line_facts import hash_of
from formats.dataset_names import metadata_path
from formats.io.errors import InputError
from formats.io.files import load_json, read_text
from formats.io.values import Table
from formats.review_journal import key_bytes

Listed = dict[tuple[str, str], str]  # (file name, caption or "") -> why it should be looked at
LIST_SUFFIX = ".jsonl"


class Thresholds(NamedTuple):
    """The score above which a box became a label. default: None if it is unknown."""

    default: float | None
    of_name: Mapping[str, float]

    def of(self, name: str, lowest: float = 0.0) -> float:
        """The threshold of a category or phrase. lowest: the lowest score of the labels, just above it."""
        return self.of_name.get(name, lowest if self.default is None else self.default)


def read_thresholds(annotations: Path) -> Thresholds:
    """The thresholds in X_od_v1.meta.json; empty if it does not exist."""
    meta = metadata_path(annotations)
    if not meta.is_file():
        return Thresholds(None, {})
    remedy = "remove it, or filter again"
    metadata = Table(load_json(meta, remedy), meta, remedy)
    policy = metadata.table("policy")
    by_name = {**metadata.numbers("thresholds_found"), **policy.numbers("class_thresholds")}
    return Thresholds(policy.number("score_threshold", None), by_name)


def uncertain_order(index: LineIndex, names: Mapping[int, str], thresholds: Thresholds) -> np.ndarray:
    """(N,) line numbers, those with a score closest to its threshold first; lines without scores last."""
    return np.argsort(doubt_of_lines(index, names, thresholds), kind="stable")


def doubt_of_lines(index: LineIndex, names: Mapping[int, str], thresholds: Thresholds) -> np.ndarray:
    """(N,) float: distance of the score of the line's least certain box from its threshold; infinite without scores."""
    distance = doubt_of_boxes(index.labels, index.scores, names, thresholds, index.lowest)
    lines = np.full(len(index.lines), np.inf)
    with_boxes = np.diff(index.first) > 0
    if len(distance):
        lines[with_boxes] = np.minimum.reduceat(distance, index.first[:-1][with_boxes])
    return lines


def doubt_of_boxes(
    labels: np.ndarray, scores: np.ndarray, names: Mapping[int, str], thresholds: Thresholds, lowest: float
) -> np.ndarray:
    """(B,) float: how far each score is from its threshold; infinite where there is none.

    labels, scores: (B,). lowest: the lowest score of all labels.
    """
    limits = {label: thresholds.of_name[name] for label, name in sorted(names.items()) if name in thresholds.of_name}
    limit: Any = thresholds.of("", lowest)
    if limits:
        known, values = np.array(list(limits)), np.array(list(limits.values()))
        place = np.minimum(np.searchsorted(known, labels), len(known) - 1)
        limit = np.where(known[place] == labels, values[place], limit)
    distance = np.abs(scores - limit)
    distance[np.isnan(distance)] = np.inf
    return distance


def read_order(path: Path) -> tuple[Listed, dict[tuple[str, str], float]]:
    """Reads `--order FILE`: (reasons, ranks, lowest first), both by (file name, caption or "").

    Raises InputError for a file that is neither a list of images nor a table of scores.
    """
    if path.suffix.lower() == LIST_SUFFIX:
        listed = read_listed(path)
        return listed, {key: position for position, key in enumerate(listed)}
    scores = _read_scores(path)
    return {}, scores


def ranked_order(index: LineIndex, rank: Mapping[tuple[str, str], float]) -> tuple[np.ndarray, np.ndarray]:
    """(N,) line numbers by rank, then those without one in file order; and (N,) bool, which lines have one.

    The rank of a file name without a caption applies to all its lines.
    """
    index.done.wait()
    by_hash = {hash_of(key_bytes(name, caption or None)): value for (name, caption), value in rank.items()}
    ranks = np.array([by_hash.get(each, math.inf) for each in index.hashes.tolist()])
    without = [number for number in np.flatnonzero(np.isinf(ranks)) if not index.broken[number]]
    if any(caption == "" for _, caption in rank) and index.has_captions():
        for number in without:
            ranks[number] = rank.get((index.lines.record(int(number)).filename, ""), math.inf)
    return np.argsort(ranks, kind="stable"), np.isfinite(ranks)


def read_listed(path: Path) -> Listed:
    """(file name, caption or "") -> reason to look at it, in the order of a list of images.

    A line is {"filename": "a.jpg", "reason": "two views disagree"}, for captions also "caption"; "reason" may be left
    out. An image that is listed again keeps its place and gets both reasons.
    Raises InputError for a line that is not such an object.
    """
    remedy = 'expected lines such as {"filename": "a.jpg", "reason": "two views disagree"}'
    if not path.is_file():
        raise InputError(path, "does not exist", remedy)
    listed: Listed = {}
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
    """(file name, caption or "") -> score, from a JSON table or the CSV of `groundhog agreement`."""
    if not path.is_file():
        raise InputError(
            "--order",
            f"{str(path)!r} does not exist",
            'expected "file", "uncertain", "diverse", a list of images or of scores',
        )
    remedy = 'expected {"a.jpg": 0.4}, or a CSV of `groundhog agreement`'
    try:
        if path.suffix.lower() == ".csv":
            rows = csv.DictReader(read_text(path, remedy).splitlines())
            return {(row["filename"], row["caption"] or ""): float(row["agreement"]) for row in rows}
        table: Mapping[str, Any] = load_json(path, remedy)
        return {(filename, ""): float(score) for filename, score in table.items()}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(path, f"is not a table of scores ({type(error).__name__}: {error})", remedy) from error
