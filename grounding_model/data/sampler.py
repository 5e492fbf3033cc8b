"""Which image comes when: a pure function of seed and position, cut into batches for every process of a run.

N items of one epoch, B images of a micro-batch
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from formats.io.errors import InputError


class Draw(NamedTuple):
    """One place of the training order. position: 0, 1, … over the whole run, the seed of everything random there."""

    position: int
    dataset: int
    item: int


class MixedOrder(Sampler[list[Draw]]):
    """Micro-batches of a weighted mixture, shuffled anew each epoch; the same for a seed wherever it is entered.

    An epoch holds weight x length items of every data set. Weights that are no whole numbers take up in the next epoch
    where they ended in this one, so every item has its turn. Batches run on over the end of an epoch.

    One step takes the next processes x accumulate x batch_size positions. They are cut into micro-batches of batch_size
    positions, of which process p gets those with the numbers p, p + processes, …: `accumulate` for each step. So what a
    step learns from depends on the product alone, not on how many processes share it.

    portrait: of each data set, which images are taller than wide. Micro-batches then hold images of one aspect, as
    mmdet's AspectRatioBatchSampler does, up to the last few of each epoch; an epoch has the same items as without.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[float],
        batch_size: int,
        steps: int,
        seed: int,
        first_step: int = 0,
        *,
        process: int = 0,
        processes: int = 1,
        accumulate: int = 1,
        portrait: Sequence[np.ndarray] | None = None,
    ) -> None:
        self._lengths, self._batch_size, self._seed = tuple(lengths), batch_size, seed
        self._quotas = tuple(round(length * weight) for length, weight in zip(lengths, weights))
        self._steps, self._first_step = steps, first_step
        self._process, self._processes, self._accumulate = process, processes, accumulate
        # Items of all data sets are numbered through: data set d begins at _starts[d].
        self._starts = np.cumsum([0, *lengths])
        self._portrait = None if portrait is None else np.concatenate([*portrait, np.empty(0, dtype=bool)])
        if self._portrait is not None and len(self._portrait) != self._starts[-1]:
            raise ValueError(f"portrait tells of {len(self._portrait)} images, there are {self._starts[-1]}")
        if sum(self._quotas) == 0:
            raise InputError("datasets", "the weights leave no image in an epoch", "expected larger weights")

    @property
    def epoch_length(self) -> int:
        return sum(self._quotas)

    def __len__(self) -> int:
        return (self._steps - self._first_step) * self._accumulate

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self._first_step, self._steps):
            for turn in range(step * self._accumulate, (step + 1) * self._accumulate):
                start = (turn * self._processes + self._process) * self._batch_size
                draws = []
                for position in range(start, start + self._batch_size):
                    if position // self.epoch_length != epoch:
                        epoch = position // self.epoch_length
                        order = self._order_of(epoch)
                    draws.append(self._draw(position, order[position % self.epoch_length]))
                yield draws

    def _draw(self, position: int, number: np.int64) -> Draw:
        dataset = int(np.searchsorted(self._starts, number, side="right")) - 1
        return Draw(position, dataset, int(number - self._starts[dataset]))

    def _order_of(self, epoch: int) -> np.ndarray:
        """(N,) int64 numbers of items."""
        order = np.concatenate(
            [
                start + self._items(dataset, epoch * quota, (epoch + 1) * quota)
                for dataset, (start, quota) in enumerate(zip(self._starts, self._quotas))
            ]
        )
        np.random.default_rng([self._seed, epoch]).shuffle(order)
        if self._portrait is None:
            return order
        # The first positions of an epoch may fill up the last micro-batch of the epoch before.
        head = min(-epoch * self.epoch_length % self._batch_size, len(order))
        order[head:] = grouped(order[head:], self._portrait[order[head:]], self._batch_size)
        return order

    def _items(self, dataset: int, start: int, stop: int) -> np.ndarray:
        """Items start..stop of an endless row of permutations of one data set."""
        length = self._lengths[dataset]
        if start == stop:
            return np.empty(0, dtype=np.int64)
        rounds = range(start // length, (stop - 1) // length + 1)
        row = np.concatenate(
            [np.random.default_rng([self._seed, dataset, number, 1]).permutation(length) for number in rounds]
        )
        return row[start - rounds.start * length : stop - rounds.start * length]


def grouped(order: np.ndarray, kind: np.ndarray, batch_size: int) -> np.ndarray:
    """The same items with every run of batch_size of one kind, as far as that goes; the mixed rest stands at the end.

    order: (N,). kind: (N,) bool of each place of it. A batch comes when its last item would have come.
    """
    batches, rest = [], []
    for places in (np.flatnonzero(kind), np.flatnonzero(~kind)):
        full = len(places) - len(places) % batch_size
        batches.append(places[:full].reshape(-1, batch_size))
        rest.append(places[full:])
    together = np.concatenate(batches)
    by_last = together[np.argsort(together[:, -1])]
    return order[np.concatenate([by_last.ravel(), np.sort(np.concatenate(rest))])]
