"""The training order: every item as often as it should come, wherever it is entered and however many share a step."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest

from formats.io.errors import InputError
from grounding_model.data.sampler import Draw, MixedOrder, group_into_batches

LENGTHS, WEIGHTS = [10, 7], [1.0, 0.5]
PORTRAIT = [np.arange(10) % 3 == 0, np.arange(7) < 5]


def together(processes: int, accumulate: int, batch_size: int, **more) -> list[list[Draw]]:
    """What all processes see in each step, in the order of positions."""
    orders = [
        list(
            MixedOrder(
                LENGTHS, WEIGHTS, batch_size, 12, 3, process=process, processes=processes, accumulate=accumulate, **more
            )
        )
        for process in range(processes)
    ]
    assert all(len(order) == 12 * accumulate for order in orders)
    steps = []
    for step in range(12):
        turns = range(step * accumulate, (step + 1) * accumulate)
        steps.append(sorted(chain.from_iterable(order[turn] for order in orders for turn in turns)))
    return steps


@pytest.mark.parametrize("portrait", [None, PORTRAIT])
@pytest.mark.parametrize("first_step", [0, 1, 7, 23, 39])
def test_the_order_is_the_same_wherever_it_is_entered(first_step: int, portrait: list[np.ndarray] | None) -> None:
    def order(step: int) -> list[list[Draw]]:
        return list(
            MixedOrder(LENGTHS, WEIGHTS, 3, 40, 5, step, process=1, processes=2, accumulate=2, portrait=portrait)
        )

    assert order(first_step) == order(0)[2 * first_step :]
    assert len(MixedOrder(LENGTHS, WEIGHTS, 3, 40, 5, first_step, accumulate=2)) == 2 * (40 - first_step)


@pytest.mark.parametrize(("processes", "accumulate", "batch_size"), [(2, 1, 12), (2, 3, 4), (1, 6, 4), (8, 1, 3)])
def test_a_step_is_the_same_however_many_share_it(processes: int, accumulate: int, batch_size: int) -> None:
    """Two processes of batch 12, or of 3 x 4, see together what one process of batch 24 sees."""
    assert together(processes, accumulate, batch_size) == together(1, 1, 24)


@pytest.mark.parametrize(("processes", "accumulate"), [(2, 3), (3, 2), (6, 1)])
def test_batches_of_one_aspect_are_the_same_however_many_share_them(processes: int, accumulate: int) -> None:
    alone = together(1, 6, 4, portrait=PORTRAIT)
    assert together(processes, accumulate, 4, portrait=PORTRAIT) == alone


def test_micro_batches_of_a_process_are_every_second_of_the_step() -> None:
    alone = list(MixedOrder(LENGTHS, WEIGHTS, 4, 2, 3, accumulate=6))
    for process in range(2):
        order = list(MixedOrder(LENGTHS, WEIGHTS, 4, 2, 3, process=process, processes=2, accumulate=3))
        assert order == alone[process::2]


@pytest.mark.parametrize("portrait", [None, [np.arange(10) < 4, np.arange(6) < 3]])
def test_every_item_comes_once_an_epoch_and_epochs_differ(portrait: list[np.ndarray] | None) -> None:
    for batch_size in (4, 16):
        order = MixedOrder([10, 6], [1.0, 1.0], batch_size, steps=32 // batch_size, seed=0, portrait=portrait)
        draws = [(draw.dataset, draw.item) for batch in order for draw in batch]
        assert set(Counter(draws[:16]).values()) == {1}
        assert sorted(draws[:16]) == sorted(draws[16:])
        assert draws[:16] != draws[16:]


def test_a_weight_is_passes_an_epoch() -> None:
    order = MixedOrder([10, 10], [2.0, 0.5], batch_size=25, steps=2, seed=0, portrait=[np.arange(10) < 3] * 2)
    first, second = (Counter((draw.dataset, draw.item) for draw in batch) for batch in order)
    assert [first[0, item] for item in range(10)] == [2] * 10
    assert [first[1, item] + second[1, item] for item in range(10)] == [1] * 10


def test_positions_count_on() -> None:
    order = MixedOrder([5], [1.0], batch_size=3, steps=4, seed=0)
    assert [draw.position for batch in order for draw in batch] == list(range(12))


def test_batches_hold_one_aspect_but_for_the_ends_of_epochs() -> None:
    rng = np.random.default_rng(0)
    portrait = [rng.random(41) < 0.3, rng.random(62) < 0.5]
    epoch = 41 + 62
    mixed_at = []
    for batch in MixedOrder([41, 62], [1.0, 1.0], 4, steps=100, seed=1, portrait=portrait):
        if len({bool(portrait[draw.dataset][draw.item]) for draw in batch}) > 1:
            mixed_at.append(batch[-1].position)
    # Fewer than two batches are left over of the two aspects, and one straddles the border to the next epoch.
    assert all(position % epoch >= epoch - 8 or position % epoch < 4 for position in mixed_at)
    assert len(mixed_at) < 0.15 * 100


def test_grouping_a_row_keeps_its_items_and_is_late_by_as_little_as_can_be() -> None:
    row = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8])
    kind = np.array([1, 0, 0, 1, 0, 1, 1, 0, 1], dtype=bool)
    assert group_into_batches(row, kind, 2).tolist() == [1, 2, 0, 3, 5, 6, 4, 7, 8]
    assert group_into_batches(row, kind, 20).tolist() == row.tolist()
    assert group_into_batches(row[:0], kind[:0], 2).tolist() == []


def test_weights_without_any_image_are_refused() -> None:
    with pytest.raises(InputError, match="an epoch has no images"):
        MixedOrder([3], [0.1], 2, 10, 0)


def test_millions_of_items_are_ordered_at_once() -> None:
    """No loop in Python over the items: an epoch of a million takes a fraction of a second."""
    count = 1_000_000
    portrait = [np.arange(count) % 7 == 0]
    batch = next(iter(MixedOrder([count], [1.0], 64, 10, 0, portrait=portrait)))
    assert len({draw.item for draw in batch}) == 64
