"""Described objects (D3, Xie et al. 2023): COCO AP where the categories are sentences."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from formats.io.errors import InputError
from formats.record import Record
from grounding_model.metrics.coco import CocoResult, aligned, evaluate_coco
from grounding_model.metrics.true_boxes import Areas

# Number of words up to which a description belongs to a length group; the last has no end.
LENGTHS = (("short", 3), ("middle", 6), ("long", 9))
LONGEST = "very_long"


@dataclass(frozen=True)
class DescribedObjectsResult:
    """full: COCO's numbers over all descriptions. The others are mean APs of some of them, None where there are none.

    presence, absence: descriptions of what is there, and of what is lacking ("a dog without a leash").
    by_length: short (1 to 3 words), middle (4 to 6), long (7 to 9), very_long.
    """

    full: CocoResult
    presence: float | None
    absence: float | None
    by_length: Mapping[str, float | None]

    def as_dict(self) -> dict[str, Any]:
        """The numbers as JSON takes them."""
        scores = {"presence": self.presence, "absence": self.absence, "by_length": dict(self.by_length)}
        return self.full.as_dict() | scores

    def table(self) -> str:
        """A human-readable table, a line for each number."""
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
    """descriptions: all of the data set. absence: those among them that tell what is lacking.

    An image is queried only for the descriptions of its scenario; others have no detections in it, as in the
    reference. AP is a mean over categories, each scored independently: so presence and absence are means over their
    descriptions, equal to the scores of the data set's separate files.
    Raises InputError as evaluate_coco, and for an unknown description among `absence`.
    """
    if unknown := set(absence) - set(descriptions):
        raise InputError("absence", f"'{min(unknown)}' is not a description", "expected some of the descriptions")
    return split_result(evaluate_coco(truth, predictions, descriptions, areas=areas), absence)


def split_result(full: CocoResult, absence: Collection[str]) -> DescribedObjectsResult:
    """COCO's numbers of all descriptions, parted."""
    scores = full.per_category
    lengths = [length for length, _ in LENGTHS] + [LONGEST]
    return DescribedObjectsResult(
        full=full,
        presence=_mean([scores[each] for each in scores if each not in absence]),
        absence=_mean([scores[each] for each in scores if each in absence]),
        by_length={name: _mean([scores[each] for each in scores if length_of(each) == name]) for name in lengths},
    )


def length_of(description: str) -> str:
    """The length group of a description, by its words between blanks."""
    words = len(description.split())
    return next((name for name, max_words in LENGTHS if words <= max_words), LONGEST)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
