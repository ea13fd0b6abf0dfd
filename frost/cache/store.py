"""The store: finished volumes and networks, kept once, checked always.

One finished piece of work of one stage, mostly a volume, is one entry (`frost.cache.entries`), found by the key of
everything that it depends on. It lies outside the workspace, so neither `dvc` deleting a stage's outs nor an experiment
in a temporary folder makes anyone compute it again; stages link entries into their outs.

    <root>/<stage>/<2 of key>/<key>/   an entry: read-only files and manifest.json, its mtime the last use
    <root>/training/<key>/             a training whose network will be the entry of that key: state and claim
    <root>/tmp/<key>.<writer>/         what that process is writing
    <root>/costs/                      how long each took, and where: `frost.pipeline.costs`
    <root>/workspaces/                 a file per workspace that has used the store, with its path
    <root>/locks/                      a file per key, and per stage and workspace

`Store.produce` computes into tmp/, then a rename makes the entry: a process that is killed leaves a whole entry or
none, and of two that made the same the second takes what the first has put there. So locks only save work: of several
hosts they may hold within each alone, or not at all. What is in tmp/ belongs to the process in its name, and is removed
when that is dead; a training belongs to who has claimed it (`unfinished`, `claims` of `frost.pipeline.processes`).
Never trusted: `Store.take` reads every byte. Many volumes, made in many processes: `frost.cache.produce`.
"""

import errno
import functools
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from frost.cache.entries import (
    MANIFEST,
    Entry,
    described,
    entry_key,
    files_of,
    link_entry,
    make_durable,
    parse,
    sync,
    verified,
    write_manifest,
)
from frost.errors import InputError
from frost.pipeline.processes.claims import claimed
from frost.pipeline.processes.ending import end_if_orphaned
from frost.pipeline.processes.executor import executor, share
from frost.pipeline.processes.unfinished import beating, is_left, server_time, unfinished

# Faults of the machine that the user can do something about.
FULL_OR_CLOSED = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
}
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
THERE = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}  # ENOENT: NFS sent a rename twice


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
        with self.named_faults():
            return self.folder(stage, key).is_dir()

    def keys(self, stage: str) -> set[str]:
        """The keys of all entries of a stage, by listing folders: NFS may hide a name until its folder is listed."""
        with self.named_faults():
            return {path.name for path in (self.root / stage).glob("??/*")}

    def take(self, stage: str, key: str, every_byte: bool = True) -> Entry:
        """An entry, after reading all of it. Raises InputError naming it where a byte is wrong or missing.

        every_byte: see `frost.cache.entries.verified`
        """
        folder = self.folder(stage, key)
        with suppress(OSError):  # a store that can only be read serves as well
            os.utime(folder / MANIFEST)
        with self.named_faults(), _gone(stage, key):
            return verified(folder, stage, key, every_byte)

    def produce(
        self, stage: str, facts: Mapping[str, Any], compute: Callable[[Path], None], wait: bool = True,
        claim: bool = False,
    ) -> Entry | None:  # fmt: skip
        """The entry of these facts: taken if it is there, else made by `compute`, which gets an empty folder.

        Of several processes one computes, the others wait for it; without `wait` they get None at once. Where locks do
        not hold, several compute the same, and all get the one that was first in its place; with `claim` one alone
        does, and may keep its state in the folder `training`, which is removed in the end. Such work is left to an
        executor where there is one; in its job, entries of other jobs are None.
        """
        if claim and (elsewhere := executor()):
            return self.take(stage, elsewhere.make_network(self.root, stage, facts))
        key = entry_key(stage, facts)
        if self.has(stage, key):
            return self.take(stage, key)
        if claim and (mine := share()) is not None and key not in mine:
            return None
        with self.lock(key, wait) as held:
            if not held:
                return None
            if not claim:
                return self.take(stage, key) if self.has(stage, key) else self._write(stage, key, facts, compute)
            return self._train(stage, key, facts, compute, wait)

    def _train(
        self, stage: str, key: str, facts: Mapping[str, Any], compute: Callable[[Path], None], wait: bool
    ) -> Entry | None:
        def is_made() -> bool:
            for above in (self.root, self.root / stage, self.folder(stage, key).parent):
                with suppress(OSError):  # NFS may go on saying that a name is not there until its folder is listed
                    next(above.iterdir(), None)
            return self.has(stage, key)

        with self.named_faults(), claimed(self.training(key), lambda: is_made() or not wait) as held:
            if is_made():
                entry = self.take(stage, key)
            elif held:
                entry = self._write(stage, key, facts, compute)
            else:
                return None
            if held:
                shutil.rmtree(self.training(key), ignore_errors=True)
            return entry

    def _write(self, stage: str, key: str, facts: Mapping[str, Any], compute: Callable[[Path], None]) -> Entry:
        """Write, make durable, read back, rename; of two that do the second takes the entry of the first."""
        self._sweep(key)
        temporary, final = self.root / "tmp" / unfinished(key), self.folder(stage, key)
        with self.named_faults():
            try:
                temporary.mkdir(parents=True)
                with beating(temporary):
                    compute(temporary)
                    write_manifest(temporary, stage, key, facts)
                    make_durable(temporary)
                    entry = verified(temporary, stage, key)
                    final.parent.mkdir(parents=True, exist_ok=True)
                    temporary.rename(final)
                sync(final.parent)
            except OSError as error:
                if error.errno in THERE and self.has(stage, key):
                    return self.take(stage, key)
                if error.errno == errno.ENOENT and not temporary.exists():
                    raise InputError(
                        f"{temporary}: was removed, as this process stood still for too long; run it again"
                    ) from None
                raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return replace(entry, folder=final)

    @contextmanager
    def lock(self, name: str, wait: bool = True) -> Iterator[bool]:
        """Hold the lock `name`, mostly a key: gives True; without `wait`, False where another process has it.

        Within one process it can be taken again. The system frees it when its process ends, however it ends. Where the
        file system has no locks it counts as held: nothing is wrong without them.
        """
        with self.named_faults():
            locks = self.root / "locks"
            if not locks.is_dir():
                locks.mkdir(parents=True, exist_ok=True)
                (self.root / ".gitignore").write_text("*\n")  # it may lie in a working tree
            lock = FileLock(locks / f"{name}.lock", is_singleton=True, fallback_to_soft=False)
            held = self._acquire(lock, wait)
        try:
            yield held
        finally:
            if lock.is_locked:
                lock.release()

    def _acquire(self, lock: FileLock, wait: bool) -> bool:
        while True:
            try:
                lock.acquire(timeout=1 if wait else 0)
            except Timeout:
                if not wait:
                    return lock.is_locked
                end_if_orphaned()
            except OSError as error:
                if error.errno in NO_LOCKS:
                    _say_once(
                        f"{self.root}: no locks ({error.strerror}): runs at the same time may compute a volume twice"
                    )
                elif not (error.errno == errno.EACCES and Path(lock.lock_file).exists()):  # not of another user
                    raise
                return True
            else:
                return True

    @contextmanager
    def named_faults(self) -> Iterator[None]:
        """A full disk or a closed door, as one line."""
        try:
            yield
        except OSError as error:
            if error.errno not in FULL_OR_CLOSED:
                raise
            shared = "; whose users need one group and umask 002" if error.errno == errno.EACCES else ""
            where = error.filename or self.root
            raise InputError(
                f"{where}: {error.strerror} (the store is {self.root}{shared}; FROST_STORE names another)"
            ) from None

    def link(self, entry: Entry, destination: Path) -> None:
        """Make `destination` hold exactly the files of `entry`, sharing their blocks if the file system can.

        See `frost.cache.entries.link_entry`. Where files have to be copied, a line on stderr says so, once.
        """
        with self.named_faults(), _gone(entry.stage, entry.key):
            near = self.root / "tmp"
            writable = os.access(near, os.W_OK, effective_ids=True)
            if not link_entry(entry, destination, near if writable else None):
                place = "on another file system, another user's, or cannot link"
                _say_once(f"copies instead of links: the store {self.root} is {place}")

    # ---- housekeeping

    def clean(self) -> None:
        """Remove what ended processes left in tmp/: of this host, or silent for long. Nothing that is alive."""
        self._sweep("*")

    def _sweep(self, key: str) -> None:
        for path in self.root.glob(f"tmp/{key}.*"):
            if is_left(path):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def drop(self, stage: str, key: str, if_unused_since: float | None = None) -> bool:
        """Remove an entry; False where someone holds its lock, or has used it since that time.

        What is made in its place is a new file, so a damaged byte in a file that the store shares with an out or DVC's
        cache is never patched under their feet.
        """
        with self.lock(key, wait=False) as held:
            if not held or (if_unused_since is not None and self._used(self.folder(stage, key)) > if_unused_since):
                return False
            trash = self.root / "tmp" / unfinished(key)
            with self.named_faults():
                trash.parent.mkdir(exist_ok=True)
                with suppress(FileNotFoundError):
                    self.folder(stage, key).rename(trash)
            shutil.rmtree(trash, ignore_errors=True)
            self._sweep(key)
            return True

    def ls(self) -> list[Record]:
        """All entries, and all trainings that wait to go on (stage `training`), by stage and key."""
        pairs = [(path.parent.parent.name, path) for path in self.root.glob("*/??/*") if len(path.name) == 64]
        pairs += [("training", path) for path in self.root.glob("training/*")]
        records = []
        for stage, path in sorted(pairs):
            with suppress(FileNotFoundError), self.named_faults():  # another process may just have removed it
                n_bytes = sum(file.stat().st_size for file in files_of(path))
                records.append(Record(stage, path.name, n_bytes, self._used(path)))
        return records

    @staticmethod
    def _used(path: Path) -> float:
        """The time of the last use: of an entry the mtime of its manifest, of a training that of its newest file."""
        manifest = path / MANIFEST
        if manifest.exists():
            return manifest.stat().st_mtime
        return max((file.stat().st_mtime for file in files_of(path)), default=path.stat().st_mtime)

    def du(self) -> dict[str, int]:
        """Bytes of all entries, by stage."""
        totals: dict[str, int] = {}
        for record in self.ls():
            totals[record.stage] = totals.get(record.stage, 0) + record.n_bytes
        return totals

    def unused(self, seconds: int | float) -> list[Record]:
        """What was not used for so long."""
        records = self.ls()
        if not records:
            return []
        with self.named_faults():
            limit = server_time(self.root) - seconds
        return [record for record in records if record.used < limit]

    def remove(self, records: Sequence[Record]) -> list[Record]:
        """Remove entries and trainings that nobody works on or has used since they were listed. Returns what went."""
        with self.named_faults():
            return [record for record in records if self._remove(record, record.used)]

    def _remove(self, record: Record, limit: float) -> bool:
        if record.stage != "training":
            return self.drop(record.stage, record.key, if_unused_since=limit)
        with self.lock(record.key, wait=False) as held:
            if not held:
                return False
            with claimed(self.training(record.key), lambda: True) as gone:
                if gone:
                    shutil.rmtree(self.training(record.key), ignore_errors=True)
                return gone

    def damaged(self) -> list[tuple[Record, str]]:
        """Read the whole store: entries that are not what was written, each with what is wrong."""
        faults = []
        for record in self.ls():
            if record.stage != "training":
                try:
                    verified(self.folder(record.stage, record.key), record.stage, record.key)
                except InputError as error:
                    faults.append((record, str(error)))
        return faults

    def damaged_files(self, stage: str, key: str) -> list[Path]:
        """The files of an entry that its manifest describes otherwise; none where that is damaged itself."""
        folder = self.folder(stage, key)
        try:
            descriptions = parse(folder / MANIFEST)["files"].items()
        except (InputError, OSError, KeyError, TypeError, AttributeError):
            return []
        files = [(folder / name, one) for name, one in descriptions]
        return [file for file, one in files if file.is_file() and described(file) != one]


@contextmanager
def _gone(stage: str, key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"store entry {stage}/{key}: {error.filename}: was removed meanwhile; run it again") from None


@functools.cache
def _say_once(line: str) -> None:
    if multiprocessing.parent_process() is None:
        sys.stderr.write(f"{line}\n")
