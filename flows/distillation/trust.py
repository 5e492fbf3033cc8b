"""Weights the labels for the training of a student, in a copy of the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from flows.distillation.defaults import Trust
from formats.odvg import read_odvg, write_odvg
from formats.record import Record


def write_trusted(labels: Path, out: Path, trust: Trust) -> Path:
    """Writes a copy of the labels weighted by `trust` (see DistillConfig). Returns its path, or `labels` if unchanged.

    Invalid lines are left out; when training reads the original labels, it skips and counts them.
    """
    if trust == "labels":
        return labels
    write_odvg(out, _trusted(labels, trust))
    return out


def _trusted(labels: Path, trust: Trust) -> Iterator[Record]:
    for record in read_odvg(labels, on_problem=lambda problem: None):
        instances = record.instances
        if instances is not None and trust == "none":
            instances = tuple(replace(each, weight=1.0) for each in instances if not each.ignore)
        elif instances is not None:
            instances = tuple(
                each if each.score is None or each.weight != 1.0 else replace(each, weight=each.score)
                for each in instances
            )
        yield replace(record, instances=instances)
