"""The store: what the frozen stage said, kept once, checked always.

One finished piece of work of one stage, mostly a volume, is one entry, found by the key of everything that it
depends on. It lies outside the workspace, so neither `dvc` deleting a stage's outs nor an experiment in a
temporary folder makes anyone compute it again; stages link entries into their outs.

    <root>/<stage>/<2 of key>/<key>/   an entry: read-only files and manifest.json, its mtime the last use
    <root>/training/<key>/             checkpoints of a training whose network will be the entry of that key
    <root>/tmp/<key>.<unique>/         what the holder of that key's lock is writing
    <root>/locks/                      a file per key, and per stage and workspace

Key: see `entry_key`. One writer: `Store.produce` computes under the key's lock, into tmp/, then a rename
makes the entry; so a process that is killed leaves a whole entry or none. Never trusted: `Store.take` reads
every byte. Stages that make many volumes, in many processes: `produce_all`.
"""

import configparser
import errno
import fcntl
import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from frost.errors import InputError
from frost.launch import end_if_orphaned
from frost.shards import INDEX, REPAIR, canonical, parse, write_split

SCHEMA = 1  # in every key: raise it when what an entry holds changes its form
MANIFEST = "manifest.json"
FICLONE = 0x40049409  # Linux ioctl: share the blocks of another file until one of them is written
# Faults of the machine that the user can do something about.
FULL_OR_CLOSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

Compute = Callable[[Any, Path], None]


# ---- what an entry depends on


def entry_key(stage: str, facts: Mapping[str, Any]) -> str:
    """The key of what `stage` makes from `facts`, which must hold everything that can change a byte of it.

    That is: digests of weights and sources, the volume's identity and mask record, the params that matter,
    and whatever is written into the entry. Nothing else: neither times nor places.
    """
    return hashlib.sha256(canonical({"schema": SCHEMA, "stage": stage, "facts": facts})).hexdigest()


# ---- where the store is


def store_root() -> Path:
    """`FROST_STORE`, else `frost-store` beside DVC's cache, which temporary workspaces of experiments share.

    There the links that stages make cost nothing. Raises InputError outside a DVC repository.
    """
    if given := os.environ.get("FROST_STORE"):
        return Path(given).expanduser().absolute()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".dvc").is_dir():
            return dvc_cache(folder / ".dvc").parent / "frost-store"
    raise InputError(f"{here}: not in a DVC repository; set FROST_STORE to the folder of the store")


def dvc_cache(dvc: Path) -> Path:
    """Where DVC has its cache, from its config, without the seconds that importing DVC takes."""
    user = os.environ.get("DVC_GLOBAL_CONFIG_DIR") or Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config") / "dvc"
    cache = dvc / "cache"
    for file in (Path(user).expanduser() / "config", dvc / "config", dvc / "config.local"):
        config = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
        try:
            config.read(file)
        except (configparser.Error, UnicodeDecodeError):
            raise InputError(f"{file}: not a config of DVC") from None
        if given := config.get("cache", "dir", fallback=None):
            cache = file.parent / Path(given.strip("\"'")).expanduser()
    return Path(os.path.abspath(cache))  # noqa: PTH100  # "a/../b" made "b", symbolic links left as they are


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

    def is_closed(self) -> bool:
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
        with self._faults():
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
        with self._faults():
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
    def _faults(self) -> Iterator[None]:
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
        with self._faults():
            destination.mkdir(parents=True, exist_ok=True)
            for path in _files(destination):
                if path.relative_to(destination).as_posix() not in entry.files:
                    path.unlink()
            for name, said in entry.files.items():
                source, target = entry.folder / name, destination / name
                if not (target.is_file() and (target.samefile(source) or _described(target) == said)):
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
                grave = self.root / "tmp" / f"{key}.{uuid.uuid4().hex}"
                with self._faults(), suppress(FileNotFoundError):
                    grave.parent.mkdir(exist_ok=True)
                    self.folder(stage, key).rename(grave)
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
            said = parse(folder / MANIFEST)["files"].items()
        except (InputError, OSError, KeyError, TypeError, AttributeError):
            return []
        return [folder / name for name, one in said if (folder / name).is_file() and _described(folder / name) != one]


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
    for name, said in manifest["files"].items():
        if there[name].is_symlink() or there[name].stat().st_size != said["size"]:
            raise wrong(f"{name} does not have its {said['size']} bytes")
        if _described(there[name]) != said:
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


# ---- stages


@contextmanager
def stage_lock(store: Store, stage: str) -> Iterator[None]:
    """Hold a stage of this workspace, so that an orphaned run of it and this one do not fill the same outs.

    Who waits says so, with the number of the process that is waited for. Of several ranks the first holds it
    for all. Where the store can only be read nobody holds anything: all that a stage can do is link.
    """
    if os.environ.get("RANK", "0") != "0" or store.is_closed():
        yield
        return
    name = f"{stage}.{hashlib.sha256(os.fsencode(Path.cwd())).hexdigest()[:16]}"
    holder = store.root / "locks" / f"{name}.pid"
    with store.lock(name, wait=False) as held:
        if not held:
            pid = holder.read_text() if holder.exists() else "?"
            sys.stderr.write(f"{stage}: waiting for process {pid}, which runs this stage here\n")
        with store.lock(name):
            with store._faults():
                holder.write_text(str(os.getpid()))
            store.clean()
            yield


@dataclass(frozen=True)
class Task:
    """One volume to be made: its folder's name, its slices, what it depends on, what `compute` is given."""

    name: str
    n_slices: int
    facts: Mapping[str, Any]
    item: Any


def produce_all(
    store: Store,
    stage: str,
    splits: Mapping[Path, Sequence[Task]],
    make: Callable[[], Compute],
    processes: int | None = None,
) -> int:
    """Fill the folders of `splits` with the volumes of their tasks, computing what the store does not have.

    make:      called once in each process that computes, to which it must be possible to send it; gives
               compute(item, folder)
    processes: that compute, each with one thread, so that their number changes no byte; None is one per core,
               and 0 computes in this process, on its GPU

    Processes, and ranks under torchrun, agree by the locks of keys alone, longest volume first, and none
    waits for another. In the end the first rank makes what others did not live to finish, links, and writes
    each split's index. Returns how many slices were missing, whoever computed them. Raises the first InputError of
    any process.
    """
    keys = {entry_key(stage, task.facts): task for tasks in splits.values() for task in tasks}
    longest_first = sorted(keys, key=lambda key: (-keys[key].n_slices, key))
    first = os.environ.get("RANK", "0") == "0"
    missing = [key for key in longest_first if not store.has(stage, key)]
    n_slices = sum(keys[key].n_slices for key in missing)
    total = sum(task.n_slices for task in keys.values())
    with tqdm(total=total, initial=total - n_slices, desc=stage, unit="slice", disable=None if first else True) as bar:
        while missing:
            try:
                deaths = _compute(store, stage, [keys[key] for key in missing], make, processes, bar)
            finally:
                store.clean()  # after processes that were ended at work
            if not first:
                return n_slices
            for key in missing:
                with store.lock(key):  # another rank, or another run, may be about to finish it
                    pass
            left = [key for key in missing if not store.has(stage, key)]
            if deaths and len(left) == len(missing):  # without deaths another run held them all, and ended
                name = keys[left[0]].name
                raise InputError(f"{stage}: {name}: its process died ({deaths}); was there too little memory?")
            missing = left
    if first:
        for folder, tasks in splits.items():
            _fill(store, stage, folder, tasks)
    return n_slices


def _fill(store: Store, stage: str, folder: Path, tasks: Sequence[Task]) -> None:
    """A split of exactly these volumes, each checked on the way from the store."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {task.name for task in tasks}
    for path in folder.iterdir():
        if path.is_symlink() or path.is_file():
            if path.name != INDEX:
                path.unlink()
        elif path.name not in names:
            shutil.rmtree(path)
    for task in tasks:
        end_if_orphaned()
        store.link(store.take(stage, entry_key(stage, task.facts)), folder / task.name)
    write_split(folder)


def _compute(
    store: Store,
    stage: str,
    tasks: Sequence[Task],
    make: Callable[[], Compute],
    processes: int | None,
    bar: "tqdm[Any]",
) -> str:
    """Compute what nobody else is computing, here or in processes of one thread. Returns how any died."""
    if processes == 0:
        for n_slices in _walk(store, stage, tasks, make):
            bar.update(n_slices)
        return ""
    if processes is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        processes = max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    deaths: list[str] = []
    with _workers(min(processes, len(tasks)), partial(_worker, store, stage, tasks, make)) as workers:
        while workers:
            end_if_orphaned()
            for connection in wait_for_any(list(workers), timeout=1):
                assert isinstance(connection, Connection)
                try:
                    said = connection.recv()
                except EOFError:  # done, or killed: the others go on
                    process = workers.pop(connection)
                    process.join()
                    deaths += [f"exit code {process.exitcode}"] if process.exitcode else []
                    continue
                if isinstance(said, Exception):
                    raise said
                bar.update(said)
    return ", ".join(deaths)


def _walk(store: Store, stage: str, tasks: Sequence[Task], make: Callable[[], Compute]) -> Iterator[int]:
    """Compute those that no one else has or is computing; gives the number of slices of each."""
    compute: Compute | None = None
    for task in tasks:
        end_if_orphaned()
        if not store.has(stage, entry_key(stage, task.facts)):
            compute = compute or make()
            if store.produce(stage, task.facts, partial(compute, task.item), wait=False):
                yield task.n_slices


def _worker(
    store: Store, stage: str, tasks: Sequence[Task], make: Callable[[], Compute], connection: Connection
) -> None:
    """A process of one thread. It tells the parent of each volume, or of the error that ended it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, who ends us
    with suppress(BrokenPipeError):
        try:
            for n_slices in _walk(store, stage, tasks, make):
                connection.send(n_slices)
        except InputError as error:
            connection.send(error)
        except Exception:
            connection.send(RuntimeError(f"in a process of {stage}:\n{traceback.format_exc()}"))


@contextmanager
def _workers(n: int, target: Callable[[Connection], None]) -> Iterator[dict[Connection, SpawnProcess]]:
    """`n` fresh processes by what they send through: a pipe each, so none can take a lock into its grave.

    Those that are still there in the end are ended.
    """
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, SpawnProcess] = {}
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    try:
        os.environ.update(ONE_THREAD)  # read by numeric libraries when they are loaded
        for _ in range(n):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=target, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            workers[ours] = process
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    try:
        yield workers
    finally:
        for process in workers.values():
            process.terminate()
            process.join()
