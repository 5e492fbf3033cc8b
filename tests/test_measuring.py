"""How much is wrong with a prediction."""

from __future__ import annotations

import pytest

from flows.evaluation.scoring import mistakes_of
from formats.record import Instance, Record


def scene(*boxes: tuple[float, float, float, float], category: str = "cat", score: float = 0.5) -> Record:
    return Record("a.png", 100, 100, tuple(Instance(box, 0, category, score) for box in boxes))


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        (scene(), scene(), 0),
        (scene((0, 0, 10, 10)), scene(), 1),
        (scene((0, 0, 10, 10)), scene((0, 0, 10, 9)), 0),
        (scene((0, 0, 10, 10)), scene((0, 0, 10, 10), (0, 0, 10, 10)), 1),
        (scene((0, 0, 10, 10)), scene((50, 50, 60, 60)), 2),
        (scene((0, 0, 10, 10)), scene((0, 0, 10, 10), category="dog"), 1),  # one object under another name
        (scene((0, 0, 10, 10)), scene((0, 0, 10, 10), score=0.1), 1),  # nobody would see it
    ],
)
def test_mistakes_are_what_was_missed_what_is_none_and_what_is_named_wrongly(
    truth: Record, found: Record, expected: int
) -> None:
    assert mistakes_of([truth], [found], "coco") == [expected]
