"""An entry of the store: the key of all that it depends on, its files, a manifest to check them by, links to them.

`frost.cache.store` keeps entries and says where they lie.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frost.cache.slices import REPAIR
from frost.errors import InputError
from frost.pipeline.processes.unfinished import is_left, unfinished, writer

SCHEMA = 1  # in every key: raise it when the manifest changes its form. A stage's own files: its sources are in its key
MANIFEST = "manifest.json"
FICLONE = 0x40049409  # Linux ioctl: share the blocks of another file until one of them is written


# ---- what an entry depends on


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


def entry_key(stage: str, facts: Mapping[str, Any]) -> str:
    """The key of what `stage` makes from `facts`, which must hold everything that can change a byte of it.

    That is: digests of weights and sources, the volume's identity and mask record, the params that matter,
    and whatever is written into the entry. Nothing else: neither times nor places.
    """
    return hashlib.sha256(canonical({"schema": SCHEMA, "stage": stage, "facts": facts})).hexdigest()


# ---- its files


@dataclass(frozen=True)
class Entry:
    """A finished piece of work, just checked: `files` are paths relative to `folder`, with sha256, size."""

    stage: str
    key: str
    folder: Path
    facts: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]


def files_of(folder: Path) -> list[Path]:
    """All files at any depth, by path; symbolic links too."""
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def described(file: Path) -> dict[str, Any]:
    """What a manifest says of a file: sha256, and size in bytes."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return {"sha256": digest, "size": opened.tell()}


def write_manifest(folder: Path, stage: str, key: str, facts: Mapping[str, Any]) -> None:
    """Describe the files in `folder`, whose manifest says no time and no place."""
    files = {path.relative_to(folder).as_posix(): described(path) for path in files_of(folder)}
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "stage": stage,
        "key": key,
        "facts": dict(facts),
        "files": files,
    }
    manifest["digest"] = hashlib.sha256(canonical(manifest)).hexdigest()
    (folder / MANIFEST).write_bytes(canonical(manifest))


def verified(folder: Path, stage: str, key: str, every_byte: bool = True) -> Entry:
    """The entry in `folder`, of which every byte was read. Raises InputError naming it where a byte is another.

    every_byte: False reads the manifest, and of files the size alone
    """

    def wrong(what: str) -> InputError:
        return InputError(f"store entry {stage}/{key}: {what}: {REPAIR}")

    try:
        manifest = parse(folder / MANIFEST)
    except InputError:
        raise wrong(f"{MANIFEST} is missing or damaged") from None
    digest = manifest.pop("digest", None)
    if digest != hashlib.sha256(canonical(manifest)).hexdigest():
        raise wrong(f"{MANIFEST} is damaged")
    if manifest.get("schema") != SCHEMA:
        raise wrong(f"{MANIFEST} is of another schema than {SCHEMA}")
    if (manifest["stage"], manifest["key"]) != (stage, key) or entry_key(stage, manifest["facts"]) != key:
        raise wrong("holds another entry")
    there = {path.relative_to(folder).as_posix(): path for path in files_of(folder)}
    there.pop(MANIFEST, None)
    for name in sorted(there.keys() ^ manifest["files"].keys()):
        raise wrong(f"{name} {'does not belong here' if name in there else 'is missing'}")
    for name, description in manifest["files"].items():
        if there[name].is_symlink() or there[name].stat().st_size != description["size"]:
            raise wrong(f"{name} does not have its {description['size']} bytes")
        if every_byte and described(there[name]) != description:
            raise wrong(f"{name} is damaged")
    return Entry(stage, key, folder, manifest["facts"], manifest["files"])


def make_durable(folder: Path) -> None:
    """On the disk, not only in memory, before a rename says so. Read-only, as links share the file."""
    for path in files_of(folder):
        path.chmod(0o444)
        sync(path)
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        sync(path)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- links


def link_entry(entry: Entry, destination: Path, near: Path | None) -> bool:
    """Make `destination` hold exactly the files of `entry`; whether none of them had to be copied.

    A file that is there and right stays; another is replaced by a rename, never written into.

    near: see `link_file`
    """
    destination.mkdir(parents=True, exist_ok=True)
    for path in files_of(destination):
        mine = path.relative_to(destination).as_posix() in entry.files
        if not mine and (not writer(path.name) or is_left(path)):  # else another run is about to rename it
            path.unlink(missing_ok=True)
    shared = [
        link_file(entry.folder / name, destination / name, near)
        for name, description in entry.files.items()
        if not _is_right(destination / name, entry.folder / name, description)
    ]
    return all(shared)


def link_file(source: Path, target: Path, near: Path | None = None) -> bool:
    """`target` made a reflink of `source`, else a hard link, else a copy; whether it shares the blocks.

    near: a folder on the file system of `source`, for links that are not yet in their place; else beside `target`
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for way in (_reflink, os.link, shutil.copyfile):
        folder = target.parent if near is None or way is shutil.copyfile else near
        temporary = folder / unfinished(f".{target.name}")
        try:
            way(source, temporary)
            temporary.replace(target)
            return way is not shutil.copyfile
        except OSError:
            if way is shutil.copyfile:
                raise
        finally:
            temporary.unlink(missing_ok=True)
    raise AssertionError("a copy is made or raises")


def _reflink(source: Path, target: Path) -> None:
    with source.open("rb") as old, target.open("xb") as new:
        fcntl.ioctl(new.fileno(), FICLONE, old.fileno())


def _is_right(target: Path, source: Path, description: Mapping[str, Any]) -> bool:
    with suppress(FileNotFoundError):  # another run may just be replacing it
        return target.is_file() and (target.samefile(source) or described(target) == description)
    return False
