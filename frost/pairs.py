"""Training pairs from the two caches: the frozen network's image beside the other images of a slice."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from frost.errors import InputError
from frost.shards import VolumeArray, open_split

Split = dict[str, VolumeArray]


class PairDataset(Dataset[dict[str, Any]]):
    """The slices of one split, as both caches hold them: `images` (from `prepare`), `varnet` (from `cache_varnet`).

    `inputs` are names of channels: `varnet`, `grappa`, `zero_filled`. With an offset, `varnet-1` or
    `varnet+1`, a channel of the neighbouring slice; beyond either end of a volume, of the slice at that end.

    An item is a dict of `inputs` float32 (channel, y, x), `target` float32 (y, x), `maximum` (see
    `data_range`), both only where the volume has a target, `index`, `slice`, `name`, `patient`. `need_target`
    leaves out volumes without one. Nothing here opens a scan, and no file stays open: each DataLoader worker
    reads what it needs.

    Raises InputError where the caches are not of the same volumes, of the same scans, under the same masks.
    """

    def __init__(self, images: Path, varnet: Path, inputs: Sequence[str], need_target: bool = True) -> None:
        self._images, self._varnet = open_split(images), open_split(varnet)
        _check_same(images, varnet, self._images, self._varnet)
        self._channels = [_parse(name) for name in inputs]
        self.names = [name for name in self._images if not need_target or self.has_target(name)]
        for name in self.names:
            for channel, _ in self._channels:
                self._array(name, channel).position(channel)
        self._places = [(name, i) for name in self.names for i in range(len(self._images[name]))]
        #: (y, x) of every slice: what `ShapeBatches` groups by
        self.shapes: list[tuple[int, ...]] = [self._images[name].shape[2:] for name, _ in self._places]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, i = self._places[index]
        inputs, image = self._read(name, i)
        array = self._images[name]
        item = {"inputs": torch.from_numpy(inputs), "index": index, "slice": i, "name": name}
        item["patient"] = array.attributes.get("patient", name)
        if self.has_target(name):
            image = array.read(i) if image is None else image
            item["target"] = torch.from_numpy(image[array.position("target")].copy())
            item["maximum"] = data_range(array)
        return item

    def set_epoch(self, epoch: int) -> None:
        """Part of what a training asks of a dataset; the caches are the same in all epochs."""

    def inputs(self, name: str, i: int) -> Float[np.ndarray, "channel y x"]:
        """The inputs alone, for slice `i` of volume `name`."""
        return self._read(name, i)[0]

    def volume(self, name: str) -> dict[str, Float[np.ndarray, "slice y x"]]:
        """All that both caches hold of a volume, by channel."""
        read: dict[str, np.ndarray] = {}
        for array in (self._images[name], self._varnet[name]):
            slices = np.stack([array.read(i) for i in range(len(array))], axis=1)
            read |= dict(zip(array.channels, slices))
        return read

    def facts(self, name: str) -> dict[str, Any]:
        """What `prepare` wrote down of a volume: patient, acquisition, mask and so on."""
        return self._images[name].attributes | {"name": name}

    def has_target(self, name: str) -> bool:
        """Whether a volume can be trained on and scored."""
        return "target" in self._images[name].channels

    def _array(self, name: str, channel: str) -> VolumeArray:
        return (self._varnet if channel == "varnet" else self._images)[name]

    def _read(self, name: str, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The inputs, and the chunk of `images` of the same slice if they needed it: each chunk is read once."""
        images = self._images[name]
        inputs = np.empty((len(self._channels), *images.shape[2:]), np.float32)
        chunks: dict[tuple[bool, int], np.ndarray] = {}
        for row, (channel, offset) in enumerate(self._channels):
            array = self._array(name, channel)
            place = (array is images, min(max(i + offset, 0), len(images) - 1))
            if place not in chunks:
                chunks[place] = array.read(place[1])
            inputs[row] = chunks[place][array.position(channel)]
        return inputs, chunks.get((True, i))


def data_range(array: VolumeArray) -> float:
    """L of SSIM for a volume of `images`: its file's own `max` where there is one, else that of its target."""
    given = array.attributes.get("maximum")
    return array.maximum("target") if given is None else float(given)


def _parse(name: str) -> tuple[str, int]:
    """`varnet-1` is channel `varnet` of the slice before."""
    match = re.fullmatch(r"([a-z_]+)([+-]\d+)?", name)
    if match is None:
        raise InputError(
            f"inputs: {name!r} is no channel such as varnet or grappa, nor one like varnet-1 or varnet+1"
        )
    return match[1], int(match[2] or 0)


def _check_same(
    images: Path, varnet: Path, left: Mapping[str, VolumeArray], right: Mapping[str, VolumeArray]
) -> None:
    for name in sorted(set(left) ^ set(right)):
        here, there = (images, varnet) if name in left else (varnet, images)
        raise InputError(f"{here / name}: this volume is not in {there}: run `dvc repro`")
    for name in left:
        a, b = left[name], right[name]
        for key in ("identity", "mask"):
            if a.attributes.get(key) != b.attributes.get(key):
                raise InputError(
                    f"{varnet / name}: its {key} is not that of {images / name}: run `dvc repro`"
                )
        if (len(a), *a.shape[2:]) != (len(b), *b.shape[2:]):
            raise InputError(
                f"{varnet / name}: its shape {b.shape} does not fit that of {images / name}, {a.shape}"
            )


class ShapeBatches(Sampler[list[int]]):
    """Batches of one shape: every slice once an epoch, in an order that is a function of (seed, epoch) alone.

    A step has `batch_size` slices for each of `world` processes; they take turns in it. The last step of a
    shape may have fewer. A process that would get none repeats one, so that all make the same steps, and
    `counts` it as nothing.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._buckets: dict[tuple[int, ...], list[int]] = {}
        for index, shape in enumerate(shapes):
            self._buckets.setdefault(tuple(shape), []).append(index)
        self._n_together = batch_size * world
        self._seed, self._shuffle, self._rank, self._world = seed, shuffle, rank, world
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self._epoch = epoch

    def plan(self, epoch: int) -> list[list[int]]:
        """The slices of each step, those of all processes together."""
        random = np.random.default_rng((self._seed, epoch))
        steps: list[list[int]] = []
        for _, bucket in sorted(self._buckets.items()):
            order = [bucket[k] for k in random.permutation(len(bucket))] if self._shuffle else bucket
            steps += [
                order[start : start + self._n_together] for start in range(0, len(order), self._n_together)
            ]
        return [steps[k] for k in random.permutation(len(steps))] if self._shuffle else steps

    def counts(self, step: int, rank: int, n: int, device: torch.device) -> Float[Tensor, " n"]:
        """The weight of each of `n` slices that process `rank` has in a step: 1, or 0 for a mere repetition."""
        return torch.full((n,), float(rank < len(self._current()[step])), device=device)

    def __len__(self) -> int:
        return sum(-(-len(bucket) // self._n_together) for bucket in self._buckets.values())

    def __iter__(self) -> Iterator[list[int]]:
        for indices in self._current():
            yield indices[self._rank :: self._world] or indices[:1]

    def _current(self) -> list[list[int]]:
        """The plan of this epoch, made once."""
        if getattr(self, "_planned", (None,))[0] != self._epoch:
            self._planned = (self._epoch, self.plan(self._epoch))
        return self._planned[1]
