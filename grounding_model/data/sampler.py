"""The order of training images: a pure function of seed and position, split into batches for each process of a run.

Shapes: N items of one epoch, B images of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from formats.io.errors import InputError


class Draw(NamedTuple):
    """One item of the training order. position: 0, 1, … over the whole run; seeds all randomness of the sample."""

    position: int
    dataset: int
    item: int


class MixedOrder(Sampler[list[Draw]]):
    """Micro-batches of a weighted mixture, shuffled anew each epoch; the same for a seed from any first step.

    An epoch has weight x length items of every data set. With a fractional weight the next epoch continues where this
    one ended, so that every item is used. A batch may span two epochs.

    One step takes the next processes x accumulate x batch_size positions. They are split into micro-batches of
    batch_size positions, and process p gets micro-batches p, p + processes, …: `accumulate` for each step. So the
    images of a step depend only on the product, not on the number of processes.

    portrait: for each data set, which images are taller than wide. Micro-batches then have images of one orientation,
    as in mmdet's AspectRatioBatchSampler, except the last few of each epoch; the items of an epoch are the same.
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
        # Items of all data sets are numbered consecutively: data set d begins at _starts[d].
        self._starts = np.cumsum([0, *lengths])
        self._portrait = None if portrait is None else np.concatenate([*portrait, np.empty(0, dtype=bool)])
        if self._portrait is not None and len(self._portrait) != self._starts[-1]:
            raise ValueError(f"portrait has {len(self._portrait)} entries for {self._starts[-1]} images")
        if sum(self._quotas) == 0:
            raise InputError("datasets", "with these weights an epoch has no images", "expected larger weights")

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
        order[head:] = group_into_batches(order[head:], self._portrait[order[head:]], self._batch_size)
        return order

    def _items(self, dataset: int, start: int, stop: int) -> np.ndarray:
        """Items start..stop of an endless sequence of permutations of one data set."""
        length = self._lengths[dataset]
        if start == stop:
            return np.empty(0, dtype=np.int64)
        passes = range(start // length, (stop - 1) // length + 1)
        sequence = np.concatenate(
            [np.random.default_rng([self._seed, dataset, number, 1]).permutation(length) for number in passes]
        )
        return sequence[start - passes.start * length : stop - passes.start * length]


def group_into_batches(order: np.ndarray, kind: np.ndarray, batch_size: int) -> np.ndarray:
    """The same items in batches of one kind each; the mixed remainder comes at the end.

    order: (N,). kind: (N,) bool of each item in it. A batch is placed where its last item was.
    """
    batches, rest = [], []
    for indices in (np.flatnonzero(kind), np.flatnonzero(~kind)):
        full = len(indices) - len(indices) % batch_size
        batches.append(indices[:full].reshape(-1, batch_size))
        rest.append(indices[full:])
    all_batches = np.concatenate(batches)
    by_last = all_batches[np.argsort(all_batches[:, -1])]
    return order[np.concatenate([by_last.ravel(), np.sort(np.concatenate(rest))])]
