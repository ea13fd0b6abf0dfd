"""Batches of one shape, shared out among processes: the same training on any number of them."""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class ShapeBatches(Sampler[list[int]]):
    """Every slice once an epoch, in batches whose slices have one shape, in an order that is a function of (seed, epoch).

    A step takes `batch_size` slices in each of `world` processes, of which this one is number `rank`. The last step of a shape
    may have fewer; a process that then has none takes one for company, which `weight` says counts nothing.
    """

    def __init__(
        self,
        shapes: Sequence[Hashable],
        batch_size: int,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.batch_size, self.seed, self.shuffle, self.rank, self.world = (
            batch_size,
            seed,
            shuffle,
            rank,
            world,
        )
        self.buckets: dict[Hashable, list[int]] = {}  # in the order in which shapes first appear
        for index, shape in enumerate(shapes):
            self.buckets.setdefault(shape, []).append(index)
        self._plan: list[list[int]] = []
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the epochs to come."""
        random = np.random.default_rng((self.seed, epoch))
        step = self.batch_size * self.world
        plan: list[list[int]] = []
        for bucket in self.buckets.values():
            order = random.permutation(bucket).tolist() if self.shuffle else bucket
            plan += [order[start : start + step] for start in range(0, len(order), step)]
        self._plan = [plan[i] for i in random.permutation(len(plan))] if self.shuffle else plan

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._plan:
            yield self._share(batch) or batch[:1]

    def n_slices(self, step: int) -> int:
        """How many slices all processes together take in a step."""
        return len(self._plan[step])

    def weight(self, step: int) -> float:
        """1, or 0 for a process that has no slice of its own in this step."""
        return float(bool(self._share(self._plan[step])))

    def _share(self, batch: list[int]) -> list[int]:
        return batch[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
