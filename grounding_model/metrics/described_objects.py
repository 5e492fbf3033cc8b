"""Described object detection (D3, Xie et al. 2023): COCO's AP with sentences as categories."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from formats.io.errors import InputError
from formats.record import Record
from grounding_model.metrics.coco import CocoResult, aligned, evaluate_coco
from grounding_model.metrics.true_boxes import Areas

# (length group, largest number of words); longer descriptions belong to LONGEST.
LENGTHS = (("short", 3), ("middle", 6), ("long", 9))
LONGEST = "very_long"


@dataclass(frozen=True)
class DescribedObjectsResult:
    """full: COCO's metrics over all descriptions. The others are mean APs over groups of them; None for an empty group.

    presence, absence: descriptions of something present, and of something absent ("a dog without a leash").
    by_length: short (1 to 3 words), middle (4 to 6), long (7 to 9), very_long.
    """

    full: CocoResult
    presence: float | None
    absence: float | None
    by_length: Mapping[str, float | None]

    def as_dict(self) -> dict[str, Any]:
        """The metrics as a dict for JSON."""
        scores = {"presence": self.presence, "absence": self.absence, "by_length": dict(self.by_length)}
        return self.full.as_dict() | scores

    def table(self) -> str:
        """A human-readable table, one line per metric."""
        rows = [("AP presence", self.presence), ("AP absence", self.absence)]
        rows += [(f"AP {length.replace('_', ' ')}", value) for length, value in self.by_length.items()]
        return f"{self.full.table()}\n{aligned(rows)}"


def evaluate_described_objects(
    truth: Sequence[Record],
    predictions: Sequence[Record],
    descriptions: Sequence[str],
    absence: Collection[str] = (),
    areas: Areas | None = None,
) -> DescribedObjectsResult:
    """D3's metrics. descriptions: all of the data set. absence: those of them about something absent.

    As in the reference, an image is queried only with the descriptions of its scenario, so the others have no
    detections in it. AP is a mean over categories that are scored independently, so the means over presence and absence
    descriptions equal the scores on the separate files of the data set.
    Raises InputError as evaluate_coco does, and for an unknown description in `absence`.
    """
    if unknown := set(absence) - set(descriptions):
        raise InputError("absence", f"'{min(unknown)}' is not a description", "expected some of the descriptions")
    return split_result(evaluate_coco(truth, predictions, descriptions, areas=areas), absence)


def split_result(full: CocoResult, absence: Collection[str]) -> DescribedObjectsResult:
    """Splits COCO's metrics over all descriptions into groups."""
    scores = full.per_category
    lengths = [length for length, _ in LENGTHS] + [LONGEST]
    return DescribedObjectsResult(
        full=full,
        presence=_mean([scores[each] for each in scores if each not in absence]),
        absence=_mean([scores[each] for each in scores if each in absence]),
        by_length={name: _mean([scores[each] for each in scores if length_of(each) == name]) for name in lengths},
    )


def length_of(description: str) -> str:
    """The length group of a description, by its number of words."""
    words = len(description.split())
    return next((name for name, max_words in LENGTHS if words <= max_words), LONGEST)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
