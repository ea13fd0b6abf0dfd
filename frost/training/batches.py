"""Batches of one shape, shared out among processes and steps: the same training on any number of them."""

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class Step(NamedTuple):
    """What all processes together do at once."""

    slices: list[int]
    n_in_update: int
    ends_update: bool


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
        self.buckets: dict[Hashable, list[int]] = {}  # in the order in which shapes first appear
        for index, shape in enumerate(shapes):
            self.buckets.setdefault(shape, []).append(index)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the epochs to come."""
        random = np.random.default_rng((self.seed, epoch))
        a_step = self.batch_size * self.world
        updates: list[list[int]] = []
        for bucket in self.buckets.values():
            updates += _parts(random.permutation(bucket).tolist() if self.shuffle else bucket, a_step * self.accumulate)
        if self.shuffle:
            updates = [updates[i] for i in random.permutation(len(updates))]
        self.n_updates = len(updates)
        self._steps: list[Step] = []
        for update in updates:
            steps = _parts(update, a_step)
            self._steps += [Step(slices, len(update), slices is steps[-1]) for slices in steps]

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self._steps:
            yield self._share(step.slices) or step.slices[:1]

    def n_slices(self, step: int) -> int:
        """How many slices make up the update that a step belongs to, in all its steps and processes."""
        return self._steps[step].n_in_update

    def ends_update(self, step: int) -> bool:
        """Whether the weights move after this step."""
        return self._steps[step].ends_update

    def weight(self, step: int) -> float:
        """1, or 0 for a process that has no slice of its own in this step."""
        return float(bool(self._share(self._steps[step].slices)))

    def _share(self, slices: list[int]) -> list[int]:
        return slices[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]


def _parts(indices: list[int], size: int) -> list[list[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]
