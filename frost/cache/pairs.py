"""Training pairs from the two caches: the frozen network's image beside the other images of a slice."""

import hashlib
import json
import math
import re
from array import array
from bisect import bisect_right
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch.utils.data import Dataset

from frost.cache.slices import VolumeArray
from frost.errors import InputError

SAME = ("identity", "mask")  # of a volume in both caches


class PairDataset(Dataset[dict[str, Any]]):
    """The slices of one split, from both caches: `images` (made by `prepare`), `varnet` (by `cache_varnet`).

    `inputs` are names of channels: `varnet`, `grappa`, `sense`, `zero_filled`. With an offset, `varnet-1` or
    `varnet+1`, a channel of the neighbouring slice; beyond either end of a volume, of the slice at that end.

    An item is a dict of `inputs` float32 (channel, y, x), `target` float32 (y, x), `maximum`, which is L of SSIM: the
    `max` that the file of the volume gives, else that of its target; both only where the volume has a target, `index`,
    `slice`, `name`, `patient`. `need_target` leaves out volumes without one. Nothing here opens a scan, and no file
    stays open: each DataLoader worker reads what it needs.

    Raises InputError where the caches are not of the same volumes, of the same scans, under the same masks.
    """

    def __init__(self, images: Path, varnet: Path, inputs: Sequence[str], need_target: bool = True) -> None:
        from frost.cache.shards import open_split  # here: a data loader's process, which unpickles this, needs no zarr

        scans, scans_of_varnet = array("Q"), array("Q")
        patients: list[str] = []
        given = array("d")

        def note(name: str, attributes: Mapping[str, Any]) -> None:
            scans.append(_scan(attributes))
            patients.append(attributes.get("patient", name))
            maximum = attributes.get("maximum")
            given.append(math.nan if maximum is None else float(maximum))

        self._images = open_split(images, note)
        self._varnet = open_split(varnet, lambda name, attributes: scans_of_varnet.append(_scan(attributes)))
        _check_same(images, varnet, self._images, self._varnet, [a == b for a, b in zip(scans, scans_of_varnet)])
        self.channels = tuple(inputs)
        self._channels = [parse_channel(name) for name in inputs]
        rows = [(row, name) for row, name in enumerate(self._images) if not need_target or self.has_target(name)]
        self.names = [name for _, name in rows]
        self._patients = [patients[row] for row, _ in rows]
        self._given = array("d", [given[row] for row, _ in rows])  # the `max` of a file, nan where it has none
        self._first = array("Q", [0])  # of each volume its first index
        for name in self.names:
            for channel, _ in self._channels:
                self._array(name, channel).position(channel)
            self._first.append(self._first[-1] + len(self._images[name]))

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """(y, x) of every slice: what `ShapeBatches` groups by."""
        arrays = (self._images[name] for name in self.names)
        return [shape for one in arrays for shape in [one.shape[2:]] * len(one)]

    def __len__(self) -> int:
        return self._first[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        row = bisect_right(self._first, index) - 1
        name, i = self.names[row], index - self._first[row]
        images = self._images[name]
        inputs, image = self._read(images, self._varnet[name], i)
        item = {"inputs": torch.from_numpy(inputs), "index": index, "slice": i, "name": name}
        item["patient"] = self._patients[row]
        if "target" in images.channels:
            image = images.read(i) if image is None else image
            item["target"] = torch.from_numpy(image[images.position("target")].copy())
            given = self._given[row]
            item["maximum"] = images.maximum("target") if math.isnan(given) else given
        return item

    def set_epoch(self, epoch: int) -> None:
        """Part of what a training asks of a dataset; the caches are the same in all epochs."""

    def inputs(self, name: str, i: int) -> Float[np.ndarray, "channel y x"]:
        """The inputs alone, for slice `i` of volume `name`."""
        return self._read(self._images[name], self._varnet[name], i)[0]

    def volume(self, name: str) -> dict[str, Float[np.ndarray, "slice y x"]]:
        """All that both caches hold of a volume, by channel."""
        read: dict[str, np.ndarray] = {}
        for one in (self._images[name], self._varnet[name]):
            slices = np.stack([one.read(i) for i in range(len(one))], axis=1)
            read |= dict(zip(one.channels, slices))
        return read

    def facts(self, name: str) -> dict[str, Any]:
        """What `prepare` wrote down of a volume: patient, acquisition, mask and so on."""
        return self._images[name].attributes | {"name": name}

    def has_target(self, name: str) -> bool:
        """Whether a volume can be trained on and scored."""
        return "target" in self._images[name].channels

    def made_by(self) -> dict[str, Any]:
        """How the inputs were made, for who does the same to a new scan: masks, GRAPPA, stage 1's network."""
        attributes = [self._images[name].attributes for name in self.names]
        words = ("kind", "acceleration", "center_fraction")
        masks = {tuple(volume["mask"][word] for word in words) for volume in attributes}
        return {
            "masks": [dict(zip(words, mask)) for mask in sorted(masks, key=str)],
            "prepare": attributes[0]["prepare"] if attributes else None,
            "networks": sorted({self._varnet[name].attributes["network"] for name in self.names}),
            "trained_on_validation": any("val" in self._varnet[n].attributes.get("trained_on", "") for n in self.names),
        }

    def scan_ranges(self) -> dict[str, list[float]]:
        """Least and largest of every property of the scans (`frozen.scan_properties`), for who judges a new scan."""
        found = [self._varnet[name].attributes.get("properties", {}) for name in self.names]
        if any("directions" in properties for properties in found):  # what is undersampled in one does not say so
            found = [{"directions": 1.0} | properties for properties in found]
        common = set(found[0]).intersection(*found) if found else set()
        return {key: _range([properties[key] for properties in found]) for key in sorted(common)}

    def difference_ranges(self) -> dict[str, list[float]]:
        """Least and largest `relative_difference` over all volumes, by the name in `DIFFERENCES` that it has there."""
        found: dict[str, list[float]] = {}
        for name in self.names:
            i, other = len(self._images[name]) // 2, unlearned(self._images[name].channels)
            pair = [self._array(name, key).read(i)[self._array(name, key).position(key)] for key in ("varnet", other)]
            found.setdefault(DIFFERENCES[other], []).append(relative_difference(*pair))
        return {name: _range(values) for name, values in found.items()}

    def _array(self, name: str, channel: str) -> VolumeArray:
        return (self._varnet if channel == "varnet" else self._images)[name]

    def _read(self, images: VolumeArray, varnet: VolumeArray, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The inputs, and the same slice of `images` where they needed it: each chunk is read once."""
        inputs = np.empty((len(self._channels), *images.shape[2:]), np.float32)
        chunks: dict[tuple[bool, int], np.ndarray] = {}
        for row, (channel, offset) in enumerate(self._channels):
            one = varnet if channel == "varnet" else images
            place = (one is images, min(max(i + offset, 0), len(images) - 1))
            if place not in chunks:
                chunks[place] = one.read(place[1])
            inputs[row] = chunks[place][one.position(channel)]
        return inputs, chunks.get((True, i))


def input_channels(
    names: Sequence[str], images: Mapping[str, Float[np.ndarray, "slice y x"]], i: int
) -> Float[np.ndarray, "channel y x"]:
    """The inputs that `names` ask for of slice `i`, from whole volumes of images in memory: as an item has them."""
    last = len(next(iter(images.values()))) - 1
    chosen = [(channel, min(max(i + offset, 0), last)) for channel, offset in map(parse_channel, names)]
    return np.stack([images[channel][place] for channel, place in chosen]).astype(np.float32)


#: images that learned nothing, the best first, and what the distance of VarNet's image from each is called
DIFFERENCES = {"grappa": "difference", "sense": "difference_sense", "zero_filled": "difference_zero_filled"}


def unlearned(images: Container[str]) -> str:
    """The image whose disagreement with VarNet's warns, as it learned nothing: GRAPPA's where the volume has one."""
    return next(image for image in DIFFERENCES if image in images)


def relative_difference(varnet: Float[np.ndarray, "y x"], other: Float[np.ndarray, "y x"]) -> float:
    """||v - o|| / ||o||: how far the learned image of a slice is from one that learned nothing. 0 where o is empty."""
    norm = float(np.linalg.norm(other.astype(np.float64)))
    return float(np.linalg.norm(varnet.astype(np.float64) - other)) / norm if norm else 0.0


def _range(values: Sequence[float]) -> list[float]:
    return [round(min(values), 4), round(max(values), 4)]


def parse_channel(name: str) -> tuple[str, int]:
    """`varnet-1` is channel `varnet` of the slice before."""
    match = re.fullmatch(r"([a-z_]+)([+-]\d+)?", name)
    if match is None or match[1].startswith("target"):  # the answer, with noise or without
        raise InputError(f"inputs: {name!r} is no channel such as varnet or grappa, nor one like varnet-1 or varnet+1")
    return match[1], int(match[2] or 0)


def _scan(attributes: Mapping[str, Any]) -> int:
    """A number by which scan and mask of two volumes are compared without keeping either."""
    words = json.dumps([attributes.get(key) for key in SAME], sort_keys=True)
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big")


def _check_same(
    images: Path,
    varnet: Path,
    left: Mapping[str, VolumeArray],
    right: Mapping[str, VolumeArray],
    agree: Sequence[bool],
) -> None:
    """Raise InputError where the caches are not of the same scans; agree: whether `_scan` is the same, by volume."""
    if list(left) != list(right):
        name = min(set(left) ^ set(right))
        here, there = (images, varnet) if name in left else (varnet, images)
        raise InputError(f"{here / name}: this volume is not in {there}: run `dvc repro`")
    for name, same in zip(left, agree):
        a, b = left[name], right[name]
        if not same:
            theirs, others = a.attributes, b.attributes
            for key in SAME:
                if theirs.get(key) != others.get(key):
                    raise InputError(f"{varnet / name}: its {key} is not that of {images / name}: run `dvc repro`")
        if (len(a), *a.shape[2:]) != (len(b), *b.shape[2:]):
            raise InputError(f"{varnet / name}: its shape {b.shape} does not fit that of {images / name}, {a.shape}")
