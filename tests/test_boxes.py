"""Which of two sets of boxes belong together."""

from __future__ import annotations

import numpy as np
import pytest

from formats.boxes import best_pairs


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (1, 1), (4, 7), (7, 4)])
def test_pairs_are_the_best_that_are_left_until_one_is_worth_too_little(shape: tuple[int, int]) -> None:
    worth = np.random.default_rng(0).random(shape)
    before = worth.copy()
    pairs = best_pairs(worth, 0.5)
    assert (worth == before).all()
    rows, columns = {row for row, _ in pairs}, {column for _, column in pairs}
    assert len(rows) == len(columns) == len(pairs)
    for place, pair in enumerate(pairs):
        earlier = pairs[:place]
        free = [
            worth[row, column]
            for row in range(shape[0])
            for column in range(shape[1])
            if all(row != one and column != other for one, other in earlier)
        ]
        assert worth[pair] == max(free) >= 0.5
    left = np.delete(np.delete(worth, list(rows), axis=0), list(columns), axis=1)
    assert not (left >= 0.5).any()
