"""One slice of a cached volume, read from its known place in the shard and checked: the fast path of training.

`frost.cache.shards` writes the volumes, by zarr-python, and describes them here. zarr-python reads the same slice
in about eight times the time (`python -m bench.cache_read`), gives its fill value where a chunk is missing and takes
a swapped shard of equal shape for the right one; this reader says which slice is wrong. Without zarr's import of
0.3 s, so a data loader's processes have none of it.
"""

import os
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from jaxtyping import Float

from frost.errors import InputError

INDEX = "zarr.json"  # of a volume, a split or a whole cache
SHARD = Path("c", "0", "0", "0", "0")  # slice, crc32c, slice, crc32c ... offset and size of each, crc32c of these
N_CRC = 4  # bytes of a crc32c, little endian, behind what it is of
LITTLE_FLOAT32 = np.dtype("<f4")
REPAIR = "`frost verify --repair` makes it anew"


@dataclass(frozen=True)
class VolumeArray:
    """One volume, read slice by slice. It holds no open file, so it can be sent to any process.

    shape:      slice, channel, y, x
    attributes: all that the volume's metadata say, with `channels`, `maxima` and `slice_crc32c`
    """

    folder: Path
    shape: tuple[int, ...]
    attributes: dict[str, Any]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def channels(self) -> tuple[str, ...]:
        """The names on the channel axis."""
        return tuple(self.attributes["channels"])

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
        if not google_crc32c.value(pixels) == self.attributes["slice_crc32c"][i] == int.from_bytes(stored, "little"):
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
        return float(self.attributes["maxima"][self.position(name)])

    def check_size(self) -> None:
        """Raise InputError unless the shard is there, as long as it must be."""
        self._open().close()

    @property
    def _stride(self) -> int:
        """Bytes from one slice to the next."""
        return LITTLE_FLOAT32.itemsize * self.shape[1] * self.shape[2] * self.shape[3] + N_CRC

    def _open(self) -> FileIO:
        want = len(self) * (self._stride + 16) + N_CRC  # 16: offset and size, uint64
        try:
            file = (self.folder / SHARD).open("rb", buffering=0)
        except OSError as error:
            raise InputError(
                f"{self.folder}: slice 0 to {len(self) - 1}: cannot read the shard: {error.strerror}"
            ) from None
        size = os.fstat(file.fileno()).st_size
        if size != want:
            file.close()
            raise InputError(f"{self.folder}: the shard has {size} bytes, not the {want} of {len(self)} slices")
        return file
