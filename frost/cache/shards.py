"""Volumes as Zarr arrays, every byte under a checksum: written, described and verified by zarr-python.

A cache is one Zarr v3 hierarchy, `zarr.open_group("data/varnet.zarr")["train"]["file1000"][3]`; a volume is one
array, float32 (slice, channel, y, x). A chunk is one slice and a shard the whole volume, so a volume is two files
and a slice one read at a known place (`frost.cache.slices`). No compression: noise hardly shrinks.

    <cache>/zarr.json                  the root group, the same in every cache
    <split>/zarr.json                  the index: consolidated metadata, digests of all metadata
    <split>/<volume>/zarr.json         shape, codecs, attributes
    <split>/<volume>/c/0/0/0/0         the shard

Readers take all metadata from the index, the crc32c of every slice included, so one file vouches for a whole
split. It is written and read in parts, a volume at a time, however many there are. A chunk that is missing is NaN to
other readers of Zarr, which no slice of ours holds, and an error to ours.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

import google_crc32c
import numpy as np
import zarr
from jaxtyping import Float
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec
from zarr.core.buffer import Buffer
from zarr.core.metadata.v3 import ArrayV3Metadata
from zarr.errors import ZarrUserWarning
from zarr.storage import LocalStore, MemoryStore, StorePath

from frost.cache.slices import INDEX, LITTLE_FLOAT32, REPAIR, Place, SplitArrays, VolumeArray
from frost.errors import InputError
from frost.pipeline.processes.unfinished import is_left, unfinished

DIMENSIONS = ("slice", "channel", "y", "x")
NO_DIGEST = "0" * 64  # in a group's metadata while the digest of them is taken
#: how an index is read in parts: what goes before all volumes, before each, and before each line of one
PARTS, NO_PARTS = b'"metadata": {', b'"metadata": {}'
PART, PART_LINE = b" " * 6, b"\n" + b" " * 6
BLOCK = 1 << 20  # bytes read at once


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
    names = sorted(file.parent.name for file in folder.glob(f"*/{INDEX}"))
    if len({name.casefold() for name in names}) < len(names):  # zarr keeps no order among such names
        raise InputError(f"{folder}: two volumes whose names differ only in upper and lower case; rename one")
    folder.mkdir(parents=True, exist_ok=True)
    digests: dict[str, str] = {}
    with tempfile.TemporaryFile(dir=folder.parent) as parts:
        for name in names:
            own = (folder / name / INDEX).read_bytes()
            digests[name] = _sha256(own)
            parts.write(b",\n" if len(digests) > 1 else b"\n")
            parts.write(PART + json.dumps(name).encode() + b": " + _in_lines(own).replace(b"\n", PART_LINE))
        _write_group(folder, {"metadata_sha256": digests}, folder.parent, parts)
    open_split(folder)


def _in_lines(metadata: bytes) -> bytes:
    """The metadata of an array as zarr-python spells them, by which an index is read in parts."""
    if metadata.startswith(b'{\n  "') and metadata.endswith(b"\n}"):
        return metadata
    with suppress(ValueError, RecursionError):
        return json.dumps(json.loads(metadata), indent=2).encode()
    return b"{}"  # which is refused when the index is opened


def write_root(folder: Path) -> None:
    """Write the group that makes one hierarchy of the splits in a cache."""
    _write_group(folder, {}, folder)
    for path in folder.glob(f".*{INDEX}.*"):
        if is_left(path):
            path.unlink(missing_ok=True)


def _write_group(folder: Path, attributes: Mapping[str, Any], near: Path, parts: IO[bytes] | None = None) -> None:
    """A group whose `digest` vouches for it: the sha256 of its zarr.json, with `NO_DIGEST` in its own place.

    near:  a folder for the file until it is whole; a rename puts it in its place, as of two runs each may write one
    parts: the consolidated metadata of the arrays in it, in the text that `zarr.consolidate_metadata` makes of them
           when it has them all in memory
    """
    held: dict[str, Buffer] = {}
    zarr.create_group(memory := MemoryStore(held), attributes={"digest": NO_DIGEST, **attributes})
    if parts is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZarrUserWarning)  # that Zarr's specification has no such metadata yet
            zarr.consolidate_metadata(memory)
    content = held[INDEX].to_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    fresh = near / unfinished(f".{INDEX}")
    try:
        with fresh.open("w+b") as out:
            if parts is not None and parts.tell():
                head, _, tail = content.partition(NO_PARTS)
                out.write(head + NO_PARTS[:-1])
                parts.seek(0)
                shutil.copyfileobj(parts, out)
                out.write(b"\n" + PART[:-2] + b"}" + tail)
            else:
                out.write(content)
            out.seek(0)
            digest = hashlib.file_digest(out, "sha256").hexdigest()
            out.seek(content.index(NO_DIGEST.encode()))
            out.write(digest.encode())
        fresh.replace(folder / INDEX)
    finally:
        fresh.unlink(missing_ok=True)


def open_split(folder: Path, each: Callable[[str, Mapping[str, Any]], None] | None = None) -> SplitArrays:
    """The volumes of a split by name, in order of their names. No pixel is read yet.

    each: gets name and attributes of every volume, in that order, on the way; to read them again takes as long

    Raises InputError where the index is damaged, or the volumes in the folder are not exactly those it names.
    """
    volumes, _ = _read_index(folder, each)
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


def _read_index(
    folder: Path, each: Callable[[str, Mapping[str, Any]], None] | None = None
) -> tuple[SplitArrays, dict[str, str]]:
    """The volumes of a split by name, and the digests of their own metadata. Raises InputError where it is damaged."""
    volumes, layouts = SplitArrays(folder), dict[tuple[int, ...], dict[str, Any]]()

    def take(name: str, start: int, text: bytes) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
            raise InputError(f"{folder / INDEX}: {name!r} is not a name for a volume")
        try:
            document = json.loads(text)
            _require_volume(document, layouts)
            volumes.add(name, document, Place(start, len(text), google_crc32c.value(text)))
        except Exception:  # zarr-python has no one kind of error for what it cannot parse
            raise InputError(
                f"{folder / name}: not a volume of float32 (slice, channel, y, x) as Frost writes it"
            ) from None
        if (other := document["attributes"].get("name", name)) != name:
            raise InputError(f"{folder / name}: holds the volume {other!r}: the folder was renamed or swapped")
        if each:
            each(name, document["attributes"])

    group = _read_group(folder, take)
    return volumes, group.attributes.get("metadata_sha256", {})


def _read_group(folder: Path, take: Callable[[str, int, bytes], None] | None = None) -> Any:
    """A group's metadata as zarr-python parses them, once their digest is right. Raises InputError where it is not.

    take: is given name, place and text of the metadata of each array that the group has consolidated, in their order,
          and the group then has none of them

    Not by `zarr.open_group`, which starts a thread: a training forks its data loader's processes after this.
    """
    file = folder / INDEX
    try:
        opened = file.open("rb")
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    with opened:
        _check_digest(opened, file)
        opened.seek(0)
        text = _without_parts(opened, take) if take else opened.read()
    try:
        group = zarr.AsyncGroup.from_dict(StorePath(LocalStore(folder)), json.loads(text)).metadata
        if take is None or group.consolidated_metadata is None or not group.consolidated_metadata.metadata:
            return group
    except Exception:  # zarr-python has no one kind of error for what it cannot parse
        pass
    raise InputError(f"{file}: damaged: not the metadata of a group of volumes")


def _check_digest(opened: BinaryIO, file: Path) -> None:
    """Raise InputError where the sha256 of a group's metadata is not the `digest` that they begin with."""
    block = opened.read(BLOCK)
    digest = re.search(rb'"digest": "([0-9a-f]{64})"', block)
    sha256 = hashlib.sha256(block.replace(digest[1], NO_DIGEST.encode(), 1) if digest else block)
    while block := opened.read(BLOCK):
        sha256.update(block)
    if not digest or sha256.hexdigest() != digest[1].decode():
        raise InputError(f"{file}: damaged, or of another version of Frost: its digest is of another content")


def _without_parts(opened: BinaryIO, take: Callable[[str, int, bytes], None]) -> bytes:
    """The text of an index without the metadata of its volumes, each of which `take` gets with its name and place.

    They stand in lines, as no string of JSON holds a line's end: what begins with `PART` ends with the next brace that
    stands as far to the right. Only the block in work is in memory.
    """
    text, begin = b"", b"\n" + PART + b'"'

    def more() -> bool:
        nonlocal text
        block = opened.read(BLOCK)
        text += block
        return bool(block)

    def find(mark: bytes, start: int = 0) -> int:
        """Where `mark` is in `text`, which grows until it is there; -1 where it never is."""
        while (found := text.find(mark, start)) < 0:
            start = max(start, len(text) - len(mark))
            if not more():
                return -1
        return found

    if (first := find(PARTS)) < 0:
        return text
    offset = at = first + len(PARTS)  # in the file, and in `text`
    head, text, at = text[:at], text[at:], 0
    while True:
        while len(text) < at + len(begin) and more():
            pass
        if not text.startswith(begin, at):
            return head + text[at:] + opened.read()
        end_of_name = find(b'": ', at)
        value, end = end_of_name + 3, find(PART_LINE + b"}", end_of_name)
        if min(end, end_of_name) < 0:
            return head + text[at:]
        end += len(PART_LINE) + 1
        take(text[at + len(begin) : end_of_name].decode(errors="replace"), offset + value, text[value:end])
        find(b"\n", end)
        at = end + text.startswith(b",", end)
        if at > BLOCK:
            text, offset, at = text[at:], offset + at, 0


def _require_volume(document: dict[str, Any], layouts: dict[tuple[int, ...], dict[str, Any]]) -> None:
    """Raise an error unless metadata are of an array as `write_volume` writes it, which `VolumeArray` can read.

    layouts: by shape, metadata without attributes that zarr-python has parsed before: it takes ten times as long as
             a look at whether others are the same
    """
    attributes, shape = document.pop("attributes"), tuple(document["shape"])
    if layouts.get(shape) != document:
        parsed = ArrayV3Metadata.from_dict({**document, "attributes": {}})
        if not _is_layout(parsed):
            raise ValueError("another layout")
        layouts[shape] = dict(document)
    document["attributes"] = attributes
    described = [attributes[key] for key in ("slice_crc32c", "channels", "maxima")]
    if [len(values) for values in described if isinstance(values, list)] != [shape[0], shape[1], shape[1]]:
        raise ValueError("slices or channels are not described")


def _is_layout(metadata: ArrayV3Metadata) -> bool:
    shape = metadata.shape
    return (
        (metadata.zarr_format, metadata.node_type) == (3, "array")
        and len(shape) == 4
        and min(shape) > 0
        and metadata.data_type.to_native_dtype() == LITTLE_FLOAT32
        and metadata.shards == shape
        and metadata.codecs == (ShardingCodec(chunk_shape=(1, *shape[1:]), codecs=(BytesCodec(), Crc32cCodec())),)
    )


def _unexpected(folder: Path, volumes: Iterable[str]) -> list[str]:
    """What is in the folder and not in its index, or the other way round."""
    there = set(os.listdir(folder)) - {INDEX}  # noqa: PTH208  # names, not paths
    return [
        f"{folder / name}: {'not in' if name in there else 'missing, but in'} the index of {folder.name}"
        for name in sorted(there ^ set(volumes))
    ]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
