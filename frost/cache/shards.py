"""Volumes as Zarr arrays, every byte under a checksum: written, described and verified by zarr-python.

A cache is one Zarr v3 hierarchy, `zarr.open_group("data/varnet.zarr")["train"]["file1000"][3]`; a volume is one
array, float32 (slice, channel, y, x). A chunk is one slice and a shard the whole volume, so a volume is two files
and a slice one read at a known place (`frost.cache.slices`). No compression: noise hardly shrinks.

    <cache>/zarr.json                  the root group, the same in every cache
    <split>/zarr.json                  the index: consolidated metadata, digests of all metadata
    <split>/<volume>/zarr.json         shape, codecs, attributes
    <split>/<volume>/c/0/0/0/0         the shard

Readers take all metadata from the index, the crc32c of every slice included, so one file vouches for a whole
split. A chunk that is missing is NaN to other readers of Zarr, which no slice of ours holds, and an error to ours.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from jaxtyping import Float
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec
from zarr.core.buffer import Buffer, cpu
from zarr.errors import ZarrUserWarning
from zarr.storage import LocalStore, MemoryStore, StorePath

from frost.cache.slices import INDEX, LITTLE_FLOAT32, REPAIR, VolumeArray
from frost.errors import InputError
from frost.pipeline.unfinished import is_left, unfinished

DIMENSIONS = ("slice", "channel", "y", "x")
NO_DIGEST = "0" * 64  # in a group's metadata while the digest of them is taken


def write_volume(
    folder: Path,
    slices: Iterable[Float[np.ndarray, "channel y x"]],
    n_slices: int,
    channels: Sequence[str],
    attributes: Mapping[str, Any],
) -> None:
    """Write one volume into an empty folder.

    zarr-python puts a shard together in memory: this takes three times the bytes of the volume, at most some
    100 MB, for as long as the writing lasts, and one times while the slices come in.

    `attributes` are for anyone who opens the array; `channels`, `maxima` (the largest value of each) and
    `slice_crc32c` join them. Raises InputError for a slice that is not finite, ValueError for a wrong shape
    or number of slices.
    """
    images = np.empty((0, 0, 0, 0), LITTLE_FLOAT32)
    checksums: list[int] = []
    for i, image in enumerate(slices):
        if i == 0:
            images = np.empty((n_slices, len(channels), *image.shape[1:]), LITTLE_FLOAT32)
        if i == n_slices or image.shape != images.shape[1:] or image.dtype != np.float32:
            raise ValueError(f"slice {i}: {image.dtype} {image.shape}, not of {n_slices} float32 {images.shape[1:]}")
        if not np.isfinite(image).all():
            raise InputError(f"{attributes.get('name', folder.name)}: slice {i}: the computed image is not finite")
        images[i] = image
        checksums.append(google_crc32c.value(images[i].tobytes()))
    if len(checksums) != n_slices:
        raise ValueError(f"{len(checksums)} slices, not {n_slices}")
    ours = {"channels": list(channels), "maxima": images.max(axis=(0, 2, 3)).tolist(), "slice_crc32c": checksums}
    zarr.create_array(
        folder, data=images, shards=images.shape, chunks=(1, *images.shape[1:]), compressors=Crc32cCodec(),
        fill_value=np.nan, dimension_names=DIMENSIONS, attributes={**attributes, **ours},
    )  # fmt: skip


def write_split(folder: Path) -> None:
    """Write the index over the volumes in a split. Raises InputError for what is not a volume, or another's."""
    files = sorted(folder.glob(f"*/{INDEX}"))
    if len({file.parent.name.casefold() for file in files}) < len(files):  # zarr keeps no order among such names
        raise InputError(f"{folder}: two volumes whose names differ only in upper and lower case; rename one")
    metadata = {file.parent.name: file.read_bytes() for file in files}
    digests = {name: _sha256(content) for name, content in metadata.items()}
    _write_group(folder, {"metadata_sha256": digests}, folder.parent, metadata)
    open_split(folder)


def write_root(folder: Path) -> None:
    """Write the group that makes one hierarchy of the splits in a cache."""
    _write_group(folder, {}, folder)
    for path in folder.glob(f".*{INDEX}.*"):
        if is_left(path):
            path.unlink(missing_ok=True)


def _write_group(
    folder: Path, attributes: Mapping[str, Any], near: Path, metadata: Mapping[str, bytes] | None = None
) -> None:
    """A group whose `digest` vouches for it: the sha256 of its zarr.json, with `NO_DIGEST` in its own place.

    near:     a folder for the file until it is whole; a rename puts it in its place, as of two runs each may write one
    metadata: zarr.json of each array in it, to be consolidated
    """
    held: dict[str, Buffer] = {
        f"{name}/{INDEX}": cpu.Buffer.from_bytes(content) for name, content in (metadata or {}).items()
    }
    zarr.create_group(memory := MemoryStore(held), attributes={"digest": NO_DIGEST, **attributes})
    if metadata is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZarrUserWarning)  # that Zarr's specification has no such metadata yet
            zarr.consolidate_metadata(memory)
    content = held[INDEX].to_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    fresh = near / unfinished(f".{INDEX}")
    try:
        fresh.write_bytes(content.replace(NO_DIGEST.encode(), _sha256(content).encode(), 1))
        fresh.replace(folder / INDEX)
    finally:
        fresh.unlink(missing_ok=True)


def open_split(folder: Path) -> dict[str, VolumeArray]:
    """The volumes of a split by name, in order of their names. No pixel is read yet.

    Raises InputError where the index is damaged, or the volumes in the folder are not exactly those it names.
    """
    volumes, _ = _read_index(folder)
    for fault in _unexpected(folder, volumes):
        raise InputError(fault)
    for volume in volumes.values():
        volume.check_size()
    return volumes


def cache_faults(folder: Path, splits: Iterable[str]) -> list[str]:
    """Read all there is in a cache: a line for each volume and each group that is not what was written."""
    return _faults(_read_group, folder) + [fault for split in splits for fault in split_faults(folder / split)]


def split_faults(folder: Path) -> list[str]:
    """Read all there is in a split: a line for each volume, and for the index, that is not what was written."""
    if faults := _faults(_read_index, folder):
        return faults
    volumes, digests = _read_index(folder)
    there = [name for name in volumes if (folder / name).is_dir()]
    faults = [fault for name in there for fault in _faults(_verify, volumes[name], digests.get(name))]
    return _unexpected(folder, volumes) + faults


def _faults(check: Callable[..., object], *given: object) -> list[str]:
    try:
        check(*given)
    except InputError as error:
        return [str(error)]
    return []


def _verify(volume: VolumeArray, digest: str | None) -> None:
    """Read each slice, and by zarr-python too, which follows the shard's own index. Raises InputError for a fault."""
    own = volume.folder / INDEX
    if not own.is_file() or _sha256(own.read_bytes()) != digest:
        raise InputError(f"{own}: damaged or another volume's: {REPAIR}")
    by_zarr = zarr.open_array(volume.folder, mode="r")
    for i in range(len(volume)):
        image = volume.read(i)
        with suppress(ValueError):  # the checksum of the shard's index
            if np.array_equal(np.asarray(by_zarr[i]), image):
                continue
        raise InputError(f"{volume.folder}: the index of the shard is damaged: {REPAIR}")


def _read_index(folder: Path) -> tuple[dict[str, VolumeArray], dict[str, str]]:
    """The volumes of a split by name, and the digests of their own metadata. Raises InputError where it is damaged."""
    group = _read_group(folder)
    volumes = {}
    for name, metadata in sorted(group.consolidated_metadata.metadata.items() if group.consolidated_metadata else ()):
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
            raise InputError(f"{folder / INDEX}: {name!r} is not a name for a volume")
        if not _is_volume(metadata):
            raise InputError(f"{folder / name}: not a volume of float32 (slice, channel, y, x) as Frost writes it")
        if (other := metadata.attributes.get("name", name)) != name:
            raise InputError(f"{folder / name}: holds the volume {other!r}: the folder was renamed or swapped")
        volumes[name] = VolumeArray(folder / name, metadata.shape, metadata.attributes)
    return volumes, group.attributes.get("metadata_sha256", {})


def _read_group(folder: Path) -> Any:
    """A group's metadata as zarr-python parses them, once their digest is right. Raises InputError where it is not.

    Not by `zarr.open_group`, which starts a thread: a training forks its data loader's processes after this.
    """
    file = folder / INDEX
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    digest = re.search(rb'"digest": "([0-9a-f]{64})"', content)
    if not digest or _sha256(content.replace(digest[1], NO_DIGEST.encode(), 1)) != digest[1].decode():
        raise InputError(f"{file}: damaged, or of another version of Frost: its digest is of another content")
    try:
        return zarr.AsyncGroup.from_dict(StorePath(LocalStore(folder)), json.loads(content)).metadata
    except Exception:  # zarr-python has no one kind of error for what it cannot parse
        raise InputError(f"{file}: damaged: not the metadata of a group of volumes") from None


def _is_volume(metadata: Any) -> bool:
    """Whether metadata are of an array as `write_volume` writes it, which is what `VolumeArray` can read."""
    if (metadata.zarr_format, metadata.node_type) != (3, "array") or len(shape := metadata.shape) != 4:
        return False
    described = [metadata.attributes.get(key) for key in ("slice_crc32c", "channels", "maxima")]
    return (
        min(shape) > 0
        and metadata.data_type.to_native_dtype() == LITTLE_FLOAT32
        and metadata.shards == shape
        and metadata.codecs == (ShardingCodec(chunk_shape=(1, *shape[1:]), codecs=(BytesCodec(), Crc32cCodec())),)
        and all(isinstance(values, list) for values in described)
        and [len(values) for values in described] == [shape[0], shape[1], shape[1]]
    )


def _unexpected(folder: Path, volumes: Iterable[str]) -> list[str]:
    """What is in the folder and not in its index, or the other way round."""
    there = {path.name for path in folder.iterdir()} - {INDEX}
    return [
        f"{folder / name}: {'not in' if name in there else 'missing, but in'} the index of {folder.name}"
        for name in sorted(there ^ set(volumes))
    ]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
