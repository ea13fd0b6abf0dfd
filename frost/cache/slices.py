"""The volumes of a cache, read a slice at a time and checked: the fast path of training.

`frost.cache.shards` writes the volumes, by zarr-python, and describes them here. zarr-python reads the same slice
in about eight times the time (`python -m bench.cache_read`), gives its fill value where a chunk is missing and takes
a swapped shard of equal shape for the right one; this reader says which slice is wrong. Without zarr's import of
0.3 s, so a data loader's processes have none of it. They get a table of some 200 bytes a volume and 4 a slice; what
else the metadata hold stays in the index of the split until somebody wants it.
"""

import json
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from jaxtyping import Float

from frost.errors import InputError

INDEX = "zarr.json"  # of a volume, a split or a whole cache
SHARD = Path("c", "0", "0", "0", "0")  # slice, crc32c, slice, crc32c ... offset and size of each, crc32c of these
N_CRC = 4  # bytes of a crc32c, little endian, behind what it is of
LITTLE_FLOAT32 = np.dtype("<f4")
REPAIR = "`frost verify --repair` makes it anew"


class Place(NamedTuple):
    """Where the metadata of a volume stand in the index of its split."""

    start: int  # bytes from the beginning of the file
    size: int
    crc32c: int  # of these bytes, taken when the whole file was checked


@dataclass(frozen=True)
class VolumeArray:
    """One volume, read slice by slice. It holds no open file, so it can be sent to any process.

    shape:    slice, channel, y, x
    channels: the names on the channel axis
    maxima:   the largest value of each channel
    """

    folder: Path
    shape: tuple[int, ...]
    channels: tuple[str, ...]
    maxima: Sequence[float]
    slice_crc32c: Sequence[int]
    place: Place

    @property
    def attributes(self) -> dict[str, Any]:
        """All that the volume's metadata say, read anew each time. Raises InputError where they are others by now."""
        index = self.folder.parent / INDEX
        try:
            with index.open("rb", buffering=0) as file:
                text = os.pread(file.fileno(), self.place.size, self.place.start)
        except OSError as error:
            raise InputError(f"{index}: {error.strerror}") from None
        if google_crc32c.value(text) != self.place.crc32c:
            raise InputError(f"{index}: has changed since it was opened, or is damaged; run it again")
        attributes: dict[str, Any] = json.loads(text)["attributes"]
        return attributes

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, i: int) -> Float[np.ndarray, "channel y x"]:
        """Slice `i`, checked against the metadata; read-only, as it is a view of the bytes that were checked.

        Plain reads, not a memory map: a map of a file that someone truncates kills the process, and thousands
        of maps are thousands of open files. Raises InputError that names volume and slice.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"slice {i} of {len(self)}")
        start, stop = i * self._stride, (i + 1) * self._stride - N_CRC
        with self._open() as file:
            pixels, stored = os.pread(file.fileno(), stop - start, start), os.pread(file.fileno(), N_CRC, stop)
        if not google_crc32c.value(pixels) == self.slice_crc32c[i] == int.from_bytes(stored, "little"):
            raise InputError(f"{self.folder}: slice {i} is damaged or another volume's: {REPAIR}")
        return np.frombuffer(pixels, LITTLE_FLOAT32).reshape(self.shape[1:])

    def channel(self, name: str) -> Float[np.ndarray, "slice y x"]:
        """One channel of the whole volume, a copy."""
        return np.stack([self.read(i)[self.position(name)] for i in range(len(self))])

    def position(self, name: str) -> int:
        """Where channel `name` stands on the channel axis. Raises InputError with the names there are."""
        if name not in self.channels:
            raise InputError(f"{self.folder}: no channel {name!r}; there are {', '.join(self.channels)}")
        return self.channels.index(name)

    def maximum(self, name: str) -> float:
        """The largest value of channel `name` in this volume."""
        return float(self.maxima[self.position(name)])

    def check_size(self) -> None:
        """Raise InputError unless the shard is there, as long as it must be."""
        try:
            self._require_size((self.folder / SHARD).stat().st_size)
        except OSError as error:
            raise self._unreadable(error) from None

    @property
    def _stride(self) -> int:
        """Bytes from one slice to the next."""
        return LITTLE_FLOAT32.itemsize * self.shape[1] * self.shape[2] * self.shape[3] + N_CRC

    def _open(self) -> FileIO:
        try:
            file = (self.folder / SHARD).open("rb", buffering=0)
        except OSError as error:
            raise self._unreadable(error) from None
        try:
            self._require_size(os.fstat(file.fileno()).st_size)
        except InputError:
            file.close()
            raise
        return file

    def _require_size(self, size: int) -> None:
        want = len(self) * (self._stride + 16) + N_CRC  # 16: offset and size, uint64
        if size != want:
            raise InputError(f"{self.folder}: the shard has {size} bytes, not the {want} of {len(self)} slices")

    def _unreadable(self, error: OSError) -> InputError:
        return InputError(f"{self.folder}: slice 0 to {len(self) - 1}: cannot read the shard: {error.strerror}")


class SplitArrays(Mapping[str, VolumeArray]):
    """The volumes of a split by name, in order of their names, as a table of numbers: small to keep and to send."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: list[str] = []
        self._kinds: dict[tuple[tuple[int, ...], tuple[str, ...]], int] = {}  # shape and channels, most often a few
        self._kind = array("I")
        self._places = array("Q")
        self._maxima, self._first_maximum = array("d"), array("Q", [0])
        self._crcs, self._first_crc = array("I"), array("Q", [0])
        self._by_number: list[tuple[tuple[int, ...], tuple[str, ...]]] = []

    def add(self, name: str, document: Mapping[str, Any], place: Place) -> None:
        """Add the volume that follows, of which `document` is the metadata. Raises ValueError where it cannot be."""
        attributes = document["attributes"]
        kind = (tuple(document["shape"]), tuple(attributes["channels"]))
        if self._names and name <= self._names[-1]:
            raise ValueError("names must be in their order")
        if kind not in self._kinds:
            self._kinds[kind] = len(self._by_number)
            self._by_number.append(kind)
        self._names.append(name)
        self._kind.append(self._kinds[kind])
        self._places.extend(place)
        self._maxima.extend(attributes["maxima"])
        self._first_maximum.append(len(self._maxima))
        self._crcs.extend(attributes["slice_crc32c"])
        self._first_crc.append(len(self._crcs))

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._row(name) is not None

    def __getitem__(self, name: str) -> VolumeArray:
        row = self._row(name)
        if row is None:
            raise KeyError(name)
        shape, channels = self._by_number[self._kind[row]]
        maxima = self._maxima[self._first_maximum[row] : self._first_maximum[row + 1]]
        crcs = self._crcs[self._first_crc[row] : self._first_crc[row + 1]]
        place = Place(*self._places[3 * row : 3 * row + 3])
        return VolumeArray(self.folder / name, shape, channels, maxima, crcs, place)

    def _row(self, name: str) -> int | None:
        row = bisect_left(self._names, name)
        return row if row < len(self._names) and self._names[row] == name else None
