"""What to review first: the images whose labels differ most between two rounds, two views or two models."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flows.policies.agreement import image_agreement
from formats.files import write_whole
from formats.odvg import read_odvg
from formats.problems import InputError
from formats.record import Record


class Agreement(NamedTuple):
    """Of one line. agreement: 0..1. caption: None for detection."""

    agreement: float
    filename: str
    caption: str | None


def rank_by_agreement(labels: str | Path, others: str | Path) -> list[Agreement]:
    """The lines that both label files have, least agreement first.

    Lines are matched by file name and caption. Raises InputError when not one is in both.
    """
    theirs = {(record.filename, record.caption): record for record in read_odvg(others)}
    ranking = [
        Agreement(_agreement(record, other), record.filename, record.caption)
        for record in read_odvg(labels)
        if (other := theirs.get((record.filename, record.caption))) is not None
    ]
    if not ranking:
        raise InputError(others, f"has no line of {labels}", "want labels of the same images")
    return sorted(ranking, key=lambda each: (each.agreement, each.filename, each.caption or ""))


def write_ranking(path: str | Path, ranking: Sequence[Agreement]) -> None:
    """CSV: agreement, filename, caption."""
    with write_whole(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Agreement._fields)
        writer.writerows((f"{each.agreement:.6f}", each.filename, each.caption or "") for each in ranking)


def _agreement(record: Record, other: Record) -> float:
    names: dict[str, int] = {}
    (boxes, labels), (other_boxes, other_labels) = (_boxes(each, names) for each in (record, other))
    return image_agreement(boxes, labels, other_boxes, other_labels)


def _boxes(record: Record, names: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """(N, 4) and (N,) of what is not ignored, in the record's order; names: category or phrase -> its number, grows."""
    found = [(each.category, each.box) for each in record.instances or () if not each.ignore]
    found += [
        (" ".join(region.phrase), box) for region in record.regions or () if not region.ignore for box in region.boxes
    ]
    labels = [names.setdefault(name, len(names)) for name, _ in found]
    boxes = np.array([box for _, box in found], dtype=np.float64).reshape(-1, 4)
    return boxes, np.array(labels, dtype=np.int64)
