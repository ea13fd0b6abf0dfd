"""Batches of one shape, shared out among processes and steps: the same training on any number of them."""

from array import array
from collections.abc import Hashable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from torch.utils.data import Sampler


class ShapeBatches(Sampler[list[int]]):
    """Every slice once an epoch, in batches of one shape, in an order that is a function of (seed, epoch).

    An update of the weights takes `batch_size * accumulate * world` slices of one shape: `batch_size` of them at a time
    in each of `world` processes, of which this one is number `rank`, in `accumulate` steps. So two processes, two steps
    or a batch of two make the same updates. The last update of a shape may have fewer slices; a process that then has
    none in a step takes one for company, which `weight` says counts nothing.
    """

    def __init__(
        self,
        shapes: Sequence[Hashable],
        batch_size: int,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
    ) -> None:
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.rank, self.world, self.accumulate = rank, world, accumulate
        self._n_at_once = batch_size * world
        buckets: dict[Hashable, array[int]] = {}  # in the order in which shapes first appear
        for index, shape in enumerate(shapes):
            buckets.setdefault(shape, array("q")).append(index)
        self._buckets = [np.asarray(bucket) for bucket in buckets.values()]
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the epochs to come.

        Kept as arrays of numbers, as there may be millions of steps: all slices, those of an update together; of each
        update, in their order, where it begins among them, how many it has, and its first step.
        """
        random = np.random.default_rng((self.seed, epoch))
        size = self._n_at_once * self.accumulate
        buckets = [random.permutation(bucket) if self.shuffle else bucket for bucket in self._buckets]
        self._slices = np.concatenate([np.empty(0, np.int64), *buckets])
        ends = np.cumsum([0, *map(len, buckets)])
        begins = [np.arange(first, last, size) for first, last in pairwise(ends)]
        sizes = [np.minimum(size, last - begin) for begin, last in zip(begins, ends[1:])]
        self._begin, self._size = (np.concatenate([np.empty(0, np.int64), *parts]) for parts in (begins, sizes))
        self.n_updates = len(self._begin)
        if self.shuffle:
            order = random.permutation(self.n_updates)
            self._begin, self._size = self._begin[order], self._size[order]
        self._first_step = np.concatenate([[0], np.cumsum(-(-self._size // self._n_at_once))])

    def __len__(self) -> int:
        return int(self._first_step[-1])

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(len(self)):
            slices = self._in_step(step)
            yield self._share(slices) or slices[:1]

    def n_slices(self, step: int) -> int:
        """How many slices make up the update that a step belongs to, in all its steps and processes."""
        return int(self._size[self._update(step)])

    def ends_update(self, step: int) -> bool:
        """Whether the weights move after this step."""
        return bool(self._first_step[self._update(step) + 1] == step + 1)

    def weight(self, step: int) -> float:
        """1, or 0 for a process that has no slice of its own in this step."""
        return float(bool(self._share(self._in_step(step))))

    def _update(self, step: int) -> int:
        return int(np.searchsorted(self._first_step, step, side="right")) - 1

    def _in_step(self, step: int) -> list[int]:
        """What all processes together take in a step."""
        update = self._update(step)
        done = (step - self._first_step[update]) * self._n_at_once
        begin, n = self._begin[update] + done, min(self._n_at_once, self._size[update] - done)
        slices: list[int] = self._slices[begin : begin + n].tolist()
        return slices

    def _share(self, slices: list[int]) -> list[int]:
        return slices[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
