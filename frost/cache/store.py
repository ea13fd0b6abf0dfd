"""The store: finished volumes and networks, kept once, checked always.

One finished piece of work of one stage, mostly a volume, is one entry, found by the key of everything that it
depends on. It lies outside the workspace, so neither `dvc` deleting a stage's outs nor an experiment in a
temporary folder makes anyone compute it again; stages link entries into their outs.

    <root>/<stage>/<2 of key>/<key>/   an entry: read-only files and manifest.json, its mtime the last use
    <root>/training/<key>/             checkpoints of a training whose network will be the entry of that key
    <root>/tmp/<key>.<unique>/         what the holder of that key's lock is writing
    <root>/locks/                      a file per key, and per stage and workspace

Key: see `entry_key`. One writer: `Store.produce` computes under the key's lock, into tmp/, then a rename
makes the entry; so a process that is killed leaves a whole entry or none. Never trusted: `Store.take` reads
every byte. Many volumes, made in many processes: `frost.cache.produce`. Where the root is: `frost.pipeline.places`.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from frost.cache.slices import REPAIR
from frost.errors import InputError
from frost.pipeline.ending import end_if_orphaned

SCHEMA = 1  # in every key: raise it when the manifest changes its form. A stage's own files: its sources are in its key
MANIFEST = "manifest.json"
FICLONE = 0x40049409  # Linux ioctl: share the blocks of another file until one of them is written
# Faults of the machine that the user can do something about.
FULL_OR_CLOSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


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


# ---- entries


@dataclass(frozen=True)
class Entry:
    """A finished piece of work, just checked: `files` are paths relative to `folder`, with sha256, size."""

    stage: str
    key: str
    folder: Path
    facts: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Record:
    """A line of `Store.ls`. `used` is the time of the last use, in seconds since 1970."""

    stage: str
    key: str
    n_bytes: int
    used: float


class Store:
    """The store at `root`. Nothing is created before something is written."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, stage: str, key: str) -> Path:
        """Where an entry lies, or would."""
        return self.root / stage / key[:2] / key

    def training(self, key: str) -> Path:
        """The folder for checkpoints of the training that makes entry `key`; removed when it is done."""
        return self.root / "training" / key

    def is_read_only(self) -> bool:
        """Whether it is there and this process may only read it."""
        return self.root.is_dir() and not os.access(self.root, os.W_OK, effective_ids=True)

    def has(self, stage: str, key: str) -> bool:
        """Whether there is an entry. Whether it is sound says `take`."""
        return self.folder(stage, key).is_dir()

    def take(self, stage: str, key: str) -> Entry:
        """An entry, after reading all of it. Raises InputError naming it where a byte is wrong or missing."""
        folder = self.folder(stage, key)
        with suppress(OSError):  # a store that can only be read serves as well
            os.utime(folder / MANIFEST)
        return _verified(folder, stage, key)

    def produce(
        self, stage: str, facts: Mapping[str, Any], compute: Callable[[Path], None], wait: bool = True
    ) -> Entry | None:
        """The entry of these facts: taken if it is there, else made by `compute`, which gets an empty folder.

        Of several processes one computes, the others wait for it; without `wait` they get None at once.
        """
        key = entry_key(stage, facts)
        if self.has(stage, key):
            return self.take(stage, key)
        with self.lock(key, wait) as held:
            if not held:
                return None
            return self.take(stage, key) if self.has(stage, key) else self._write(stage, key, facts, compute)

    def _write(self, stage: str, key: str, facts: Mapping[str, Any], compute: Callable[[Path], None]) -> Entry:
        """The lock is held: write, make durable, read back, rename."""
        self._sweep(key)
        temporary, final = self.root / "tmp" / f"{key}.{uuid.uuid4().hex}", self.folder(stage, key)
        with self.named_faults():
            try:
                temporary.mkdir(parents=True)
                compute(temporary)
                _write_manifest(temporary, stage, key, facts)
                _make_durable(temporary)
                entry = _verified(temporary, stage, key)
                final.parent.mkdir(parents=True, exist_ok=True)
                temporary.rename(final)
                _sync(final.parent)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        shutil.rmtree(self.training(key), ignore_errors=True)
        return replace(entry, folder=final)

    @contextmanager
    def lock(self, name: str, wait: bool = True) -> Iterator[bool]:
        """Hold the lock `name`, mostly a key: gives True; without `wait`, False where another process has it.

        Within one process it can be taken again. The system frees it when its process ends, however it ends.
        """
        with self.named_faults():
            locks = self.root / "locks"
            if not locks.is_dir():
                locks.mkdir(parents=True, exist_ok=True)
                (self.root / ".gitignore").write_text("*\n")  # it may lie in a working tree
            lock = FileLock(locks / f"{name}.lock", is_singleton=True)
            while True:
                try:
                    lock.acquire(timeout=1 if wait else 0)
                    break
                except Timeout:
                    if not wait:
                        break
                    end_if_orphaned()
        held = lock.is_locked
        try:
            yield held
        finally:
            if held:
                lock.release()

    @contextmanager
    def named_faults(self) -> Iterator[None]:
        """A full disk or a closed door, as one line."""
        try:
            yield
        except OSError as error:
            if error.errno not in FULL_OR_CLOSED:
                raise
            where = error.filename or self.root
            raise InputError(
                f"{where}: {error.strerror} (the store is {self.root}; FROST_STORE names another)"
            ) from None

    def link(self, entry: Entry, destination: Path) -> None:
        """Make `destination` hold exactly the files of `entry`, sharing their blocks if the file system can.

        A file that is there and right stays; another is replaced by a rename, never written into.
        """
        with self.named_faults():
            destination.mkdir(parents=True, exist_ok=True)
            for path in _files(destination):
                if path.relative_to(destination).as_posix() not in entry.files:
                    path.unlink()
            for name, described in entry.files.items():
                source, target = entry.folder / name, destination / name
                if not (target.is_file() and (target.samefile(source) or _described(target) == described)):
                    link_file(source, target)

    # ---- housekeeping

    def clean(self) -> None:
        """Remove what killed processes left in tmp/. Whose lock can be had, nobody is writing."""
        for key in {path.name.split(".")[0] for path in self.root.glob("tmp/*")}:
            with self.lock(key, wait=False) as held:
                if held:
                    self._sweep(key)

    def _sweep(self, key: str) -> None:
        for left in self.root.glob(f"tmp/{key}.*"):
            shutil.rmtree(left, ignore_errors=True)

    def drop(self, stage: str, key: str) -> bool:
        """Remove an entry; False where someone holds its lock. What is made in its place is a new file.

        So a damaged byte in a file that the store shares with an out or DVC's cache is never patched under
        their feet.
        """
        with self.lock(key, wait=False) as held:
            if held:
                trash = self.root / "tmp" / f"{key}.{uuid.uuid4().hex}"
                with self.named_faults(), suppress(FileNotFoundError):
                    trash.parent.mkdir(exist_ok=True)
                    self.folder(stage, key).rename(trash)
                self._sweep(key)
        return held

    def ls(self) -> list[Record]:
        """All entries, and all trainings that wait to go on (stage `training`), by stage and key."""
        pairs = [(path.parent.parent.name, path) for path in self.root.glob("*/??/*") if len(path.name) == 64]
        pairs += [("training", path) for path in self.root.glob("training/*")]
        records = []
        for stage, path in sorted(pairs):
            with suppress(FileNotFoundError):  # another process may just have removed it
                stats = [file.stat() for file in _files(path)]
                manifest = path / MANIFEST
                newest = max((stat.st_mtime for stat in stats), default=path.stat().st_mtime)
                used = manifest.stat().st_mtime if manifest.exists() else newest
                records.append(Record(stage, path.name, sum(stat.st_size for stat in stats), used))
        return records

    def du(self) -> dict[str, int]:
        """Bytes of all entries, by stage."""
        totals: dict[str, int] = {}
        for record in self.ls():
            totals[record.stage] = totals.get(record.stage, 0) + record.n_bytes
        return totals

    def gc(self, older_than: int | float) -> list[Record]:
        """Remove what was not used for `older_than` seconds and is not being worked on. Returns what went."""
        removed = []
        for record in self.ls():
            if record.used < time.time() - older_than:
                if record.stage == "training":
                    with self.lock(record.key, wait=False) as gone:
                        if gone:
                            shutil.rmtree(self.training(record.key), ignore_errors=True)
                else:
                    gone = self.drop(record.stage, record.key)
                removed += [record] if gone else []
        return removed

    def damaged(self) -> list[tuple[Record, str]]:
        """Read the whole store: entries that are not what was written, each with what is wrong."""
        faults = []
        for record in self.ls():
            if record.stage != "training":
                try:
                    _verified(self.folder(record.stage, record.key), record.stage, record.key)
                except InputError as error:
                    faults.append((record, str(error)))
        return faults

    def damaged_files(self, stage: str, key: str) -> list[Path]:
        """The files of an entry that its manifest describes otherwise; none where that is damaged itself."""
        folder = self.folder(stage, key)
        try:
            described = parse(folder / MANIFEST)["files"].items()
        except (InputError, OSError, KeyError, TypeError, AttributeError):
            return []
        files = [(folder / name, one) for name, one in described]
        return [file for file, one in files if file.is_file() and _described(file) != one]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def _described(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return {"sha256": digest, "size": opened.tell()}


def _write_manifest(folder: Path, stage: str, key: str, facts: Mapping[str, Any]) -> None:
    files = {path.relative_to(folder).as_posix(): _described(path) for path in _files(folder)}
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "stage": stage,
        "key": key,
        "facts": dict(facts),
        "files": files,
    }
    manifest["digest"] = hashlib.sha256(canonical(manifest)).hexdigest()
    (folder / MANIFEST).write_bytes(canonical(manifest))


def _verified(folder: Path, stage: str, key: str) -> Entry:
    """The entry in `folder`, of which every byte was read."""

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
    there = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    del there[MANIFEST]
    for name in sorted(there.keys() ^ manifest["files"].keys()):
        raise wrong(f"{name} {'does not belong here' if name in there else 'is missing'}")
    for name, described in manifest["files"].items():
        if there[name].is_symlink() or there[name].stat().st_size != described["size"]:
            raise wrong(f"{name} does not have its {described['size']} bytes")
        if _described(there[name]) != described:
            raise wrong(f"{name} is damaged")
    return Entry(stage, key, folder, manifest["facts"], manifest["files"])


def _make_durable(folder: Path) -> None:
    """On the disk, not only in memory, before a rename says so. Read-only, as links share the file."""
    for path in _files(folder):
        path.chmod(0o444)
        _sync(path)
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_file(source: Path, target: Path) -> None:
    """`target` made a reflink of `source`, else a hard link, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        for way in (_reflink, os.link, shutil.copyfile):
            try:
                way(source, temporary)
                break
            except OSError:
                temporary.unlink(missing_ok=True)
                if way is shutil.copyfile:
                    raise
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _reflink(source: Path, target: Path) -> None:
    with source.open("rb") as old, target.open("xb") as new:
        fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
