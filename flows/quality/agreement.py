"""Ranks images for review by how much their labels differ between two rounds, views or models."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flows.policies.agreement import image_agreement
from formats.boxes import boxes_by_name
from formats.io.errors import InputError
from formats.io.files import write_whole
from formats.odvg import read_odvg


class Agreement(NamedTuple):
    """The agreement of two label files on one line. agreement: 0..1. caption: None for detection."""

    agreement: float
    filename: str
    caption: str | None


def rank_by_agreement(labels: str | Path, others: str | Path) -> list[Agreement]:
    """The lines that are in both label files, lowest agreement first.

    Lines are matched by file name and caption. Raises InputError if none is in both.
    """
    by_image = {(record.filename, record.caption): record for record in read_odvg(others)}
    ranking = [
        Agreement(image_agreement(boxes_by_name(record), boxes_by_name(other)), record.filename, record.caption)
        for record in read_odvg(labels)
        if (other := by_image.get((record.filename, record.caption))) is not None
    ]
    if not ranking:
        raise InputError(others, f"has no line of {labels}", "expected labels of the same images")
    return sorted(ranking, key=lambda each: (each.agreement, each.filename, each.caption or ""))


def write_ranking(path: str | Path, ranking: Sequence[Agreement]) -> None:
    """Writes a CSV with the columns agreement, filename, caption."""
    with write_whole(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Agreement._fields)
        writer.writerows((f"{each.agreement:.6f}", each.filename, each.caption or "") for each in ranking)
