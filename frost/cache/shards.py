"""Volumes as Zarr v3 arrays, written and read a slice at a time, every byte under a checksum.

One volume is one array, float32 (slice, channel, y, x); a chunk is one slice, a shard is the whole volume, so
a volume is two files. No compression: noise hardly shrinks, and a slice is then one read at a known place.
Any Zarr v3 library reads these folders (https://zarr-specs.readthedocs.io, codec `sharding_indexed`). We read
them without one: Zarr fills a missing chunk with zeros and takes a swapped shard of equal shape for the right
one, where this reader says which slice is wrong. What it also gains in time: `python -m bench.cache_read`.

A split is a folder of volumes with one index, the group's `zarr.json`: consolidated metadata and a digest of
itself. Readers take all metadata from there, the crc32c of every slice included, so one small file vouches
for a whole split.

    <split>/zarr.json              the index
    <split>/<volume>/zarr.json     shape, codecs, attributes
    <split>/<volume>/c/0/0/0/0     the shard: slice, crc32c, slice, crc32c ... [offset, size] of each, crc32c
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from jaxtyping import Float

from frost.errors import InputError

INDEX = "zarr.json"
SHARD = Path("c", "0", "0", "0", "0")
LITTLE_FLOAT32 = np.dtype("<f4")
REPAIR = "`frost verify --repair` makes it anew"
N_CRC = 4  # bytes of a crc32c, little endian, behind what it is of


def canonical(document: object) -> bytes:
    """The one spelling of a JSON document: parsed and spelled again it has the same bytes, or is not ours."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def parse(file: Path) -> dict[str, Any]:
    """A JSON object in its one spelling. Raises InputError where the file is missing or spelled otherwise."""
    try:
        spelled = file.read_bytes()
        document = json.loads(spelled)
        if isinstance(document, dict) and canonical(document) == spelled:
            return document
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except (ValueError, RecursionError):
        pass
    raise InputError(f"{file}: damaged: not the JSON that was written")


def write_volume(
    folder: Path,
    slices: Iterable[Float[np.ndarray, "channel y x"]],
    n_slices: int,
    channels: Sequence[str],
    attributes: Mapping[str, Any],
) -> None:
    """Write one volume as it comes, never holding more than a slice.

    `attributes` are for anyone who opens the array; `channels`, `maxima` (the largest value of each) and
    `slice_crc32c` join them. Raises InputError for a slice that is not finite, ValueError for a wrong shape
    or number of slices.
    """
    shape: tuple[int, ...] | None = None
    checksums: list[int] = []
    maxima = np.full(len(channels), -np.inf, LITTLE_FLOAT32)
    shard = folder / SHARD
    shard.parent.mkdir(parents=True, exist_ok=True)
    with shard.open("wb") as file:
        for i, image in enumerate(slices):
            shape = shape or image.shape
            if image.shape != shape or image.shape[0] != len(channels) or image.dtype != np.float32:
                raise ValueError(
                    f"slice {i}: {image.dtype} {image.shape}, not float32 ({len(channels)}, y, x) as before"
                )
            if not np.isfinite(image).all():
                raise InputError(f"{attributes.get('name', folder.name)}: slice {i}: the computed image is not finite")
            pixels = image.astype(LITTLE_FLOAT32, copy=False).tobytes()
            checksums.append(google_crc32c.value(pixels))
            maxima = np.maximum(maxima, image.max(axis=(1, 2)))
            file.write(pixels + checksums[-1].to_bytes(N_CRC, "little"))
        if shape is None or len(checksums) != n_slices:
            raise ValueError(f"{len(checksums)} slices, not {n_slices}")
        file.write(_shard_index(n_slices, LITTLE_FLOAT32.itemsize * int(np.prod(shape)) + N_CRC))
    ours = {"channels": list(channels), "maxima": maxima.tolist(), "slice_crc32c": checksums}
    (folder / INDEX).write_bytes(canonical(_array_metadata((n_slices, *shape), {**attributes, **ours})))


def _shard_index(n_slices: int, stride: int) -> bytes:
    """Offset and size of every chunk, uint64, and their crc32c: the tail of a shard."""
    table = np.array([(i * stride, stride) for i in range(n_slices)], "<u8").tobytes()
    return table + int(google_crc32c.value(table)).to_bytes(N_CRC, "little")


def _array_metadata(shape: Sequence[int], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The zarr.json of a volume: all that can differ between two of ours are shape and attributes."""
    checked = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    sharding = {
        "chunk_shape": [1, *shape[1:]],
        "codecs": checked,
        "index_codecs": checked,
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": "float32",
        "fill_value": 0.0,
        "dimension_names": ["slice", "channel", "y", "x"],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": dict(attributes),
        "storage_transformers": [],
    }


class VolumeArray:
    """One volume, read slice by slice. It holds no open file, so it can be sent to any process.

    Raises InputError where `metadata` is not that of a volume of ours.
    """

    def __init__(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        self.folder = folder
        shape, attributes = metadata.get("shape"), metadata.get("attributes")
        if not (
            isinstance(shape, list)
            and len(shape) == 4
            and all(type(n) is int and 0 < n < 2**20 for n in shape)
            and isinstance(attributes, dict)
            and metadata == _array_metadata(shape, attributes)
            and all(isinstance(attributes.get(key), list) for key in ("channels", "maxima", "slice_crc32c"))
            and len(attributes["slice_crc32c"]) == shape[0]
            and len(attributes["channels"]) == len(attributes["maxima"]) == shape[1]
        ):
            raise InputError(
                f"{folder}: not a volume of float32 (slice, channel, y, x) as `frost.cache.shards` writes it"
            )
        self.shape: tuple[int, int, int, int] = (shape[0], shape[1], shape[2], shape[3])
        self.attributes: dict[str, Any] = attributes
        self.channels: tuple[str, ...] = tuple(attributes["channels"])
        self._checksums: list[int] = attributes["slice_crc32c"]
        self._n_bytes = LITTLE_FLOAT32.itemsize * shape[1] * shape[2] * shape[3]

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, i: int) -> Float[np.ndarray, "channel y x"]:
        """Slice `i`, checked against the metadata; read-only, as it is a view of the bytes that were checked.

        Plain reads, not a memory map: a map of a file that someone truncates kills the process, and thousands
        of maps are thousands of open files. Raises InputError that names volume and slice.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"slice {i} of {len(self)}")
        stride = self._n_bytes + N_CRC
        with self._open() as file:
            pixels = os.pread(file.fileno(), self._n_bytes, i * stride)
            stored = os.pread(file.fileno(), N_CRC, i * stride + self._n_bytes)
        if not google_crc32c.value(pixels) == self._checksums[i] == int.from_bytes(stored, "little"):
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

    def verify(self) -> None:
        """Read each slice and the shard's own index. Raises InputError for the first that is wrong."""
        for i in range(len(self)):
            self.read(i)
        tail = _shard_index(len(self), self._n_bytes + N_CRC)
        with self._open() as file:
            if os.pread(file.fileno(), len(tail), len(self) * (self._n_bytes + N_CRC)) != tail:
                raise InputError(
                    f"{self.folder}: the index of the shard is damaged: `frost verify --repair` makes it anew"
                )

    def check_size(self) -> None:
        """Raise InputError unless the shard is there, as long as it must be."""
        self._open().close()

    def _open(self) -> FileIO:
        want = len(self) * (self._n_bytes + N_CRC) + 16 * len(self) + N_CRC
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


def open_volume(folder: Path) -> VolumeArray:
    """A volume by its own zarr.json, outside any split: for what has just been written. Raises InputError."""
    return VolumeArray(folder, parse(folder / INDEX))


def write_split(folder: Path) -> None:
    """Write the index over the volumes in a split. Raises InputError for one under another's name."""
    metadata: dict[str, Any] = {}
    for volume in sorted(path for path in folder.iterdir() if path.is_dir()):
        array = open_volume(volume)
        if array.attributes.get("name", volume.name) != volume.name:
            raise InputError(
                f"{volume}: holds the volume {array.attributes['name']!r}: the folder was renamed or swapped"
            )
        metadata[volume.name] = parse(volume / INDEX)
    temporary = folder / f"{INDEX}.tmp"  # then renamed: whoever links to the old index keeps it
    temporary.write_bytes(canonical(_group_metadata(metadata)))
    temporary.replace(folder / INDEX)


def _group_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The zarr.json of a split."""
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"digest": hashlib.sha256(canonical(metadata)).hexdigest()},
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": dict(metadata)},
    }


def open_split(folder: Path) -> dict[str, VolumeArray]:
    """The volumes of a split by name, in order of their names. No pixel is read yet.

    Raises InputError where the index is damaged, or the volumes in the folder are not exactly those it names.
    """
    metadata = _read_index(folder)
    for fault in _unexpected(folder, metadata):
        raise InputError(fault)
    arrays = {name: VolumeArray(folder / name, metadata[name]) for name in sorted(metadata)}
    for array in arrays.values():
        array.check_size()
    return arrays


def split_faults(folder: Path) -> list[str]:
    """Read all there is in a split: a line for each volume, and for the index, that is not what was written."""
    try:
        metadata = _read_index(folder)
    except InputError as error:
        return [str(error)]
    found = _unexpected(folder, metadata)
    for name in sorted(name for name in metadata if (folder / name).is_dir()):
        try:
            VolumeArray(folder / name, metadata[name]).verify()
            if parse(folder / name / INDEX) != metadata[name]:
                raise InputError(f"{folder / name}: its {INDEX} is another volume's: {REPAIR}")
        except InputError as error:
            found.append(str(error))
    return found


def _read_index(folder: Path) -> dict[str, Any]:
    """Metadata of each volume by name. Raises InputError where it is not what was written."""
    group = parse(folder / INDEX)
    inline = group.get("consolidated_metadata")
    metadata = inline.get("metadata") if isinstance(inline, dict) else None
    if not isinstance(metadata, dict) or group != _group_metadata(metadata):
        raise InputError(f"{folder / INDEX}: damaged: its digest is of another content")
    for name, volume in metadata.items():
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name) or not isinstance(volume, dict):
            raise InputError(f"{folder / INDEX}: {name!r} is not a name for a volume, or is none")
        if not isinstance(attributes := volume.get("attributes"), dict) or attributes.get("name", name) != name:
            raise InputError(f"{folder / name}: holds another volume: the folder was renamed or swapped")
    return metadata


def _unexpected(folder: Path, metadata: Mapping[str, Any]) -> list[str]:
    """What is in the folder and not in its index, or the other way round."""
    there = {path.name for path in folder.iterdir()} - {INDEX}
    return [
        f"{folder / name}: {'not in' if name in there else 'missing, but in'} the index of {folder.name}"
        for name in sorted(there ^ set(metadata))
    ]
