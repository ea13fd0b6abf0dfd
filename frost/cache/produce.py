"""Volumes that the store does not have yet, made in many processes, and linked into the outs of a stage.

A volume is a `Task`, `produce_all` fills the folders of splits with them, and `stage_lock` keeps two runs of one
stage apart. No number comes from here: how many processes there are changes no byte.
"""

import hashlib
import multiprocessing
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from frost.cache.entries import entry_key
from frost.cache.slices import INDEX
from frost.cache.store import Store
from frost.errors import InputError
from frost.pipeline.costs import measured
from frost.pipeline.processes.ending import end_if_orphaned, without_ctrl_c
from frost.pipeline.processes.executor import executor, share
from frost.pipeline.processes.ranks import n_local_ranks, rank
from frost.pipeline.progress import Progress, tell

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

Compute = Callable[[Any, Path], None]


@contextmanager
def stage_lock(store: Store, stage: str) -> Iterator[None]:
    """Hold a stage of this workspace, so that an orphaned run of it and this one do not fill the same outs.

    A process that waits prints the number of the one that it waits for. Of several ranks the first holds it
    for all. Where the store can only be read nobody holds anything: all that a stage can do is link. Nor in a job,
    which fills no outs: the run that waits for it holds the stage.
    """
    if rank() != 0 or store.is_read_only() or share() is not None:
        yield
        return
    name = f"{stage}.{hashlib.sha256(os.fsencode(Path.cwd())).hexdigest()[:16]}"
    holder = store.root / "locks" / f"{name}.pid"
    with store.lock(name, wait=False) as held:
        if not held:
            pid = holder.read_text() if holder.exists() else "?"
            sys.stderr.write(f"{stage}: waiting for process {pid}, which runs this stage here\n")
        with store.lock(name):
            with store.named_faults():
                holder.write_text(str(os.getpid()))
                _remember_workspace(store)
            store.clean()
            yield


def _remember_workspace(store: Store) -> None:
    """Leave the path of this workspace in the store, whose entries it needs; not that of an experiment's own folder."""
    here = Path.cwd()
    if ".dvc" not in here.parts and (here / ".dvc").is_dir():
        file = store.root / "workspaces" / hashlib.sha256(os.fsencode(here)).hexdigest()[:16]
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            file.write_text(str(here))


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
    waits for another. In the end the first rank makes what others did not live to finish (torchrun ends them all
    when one dies; ranks that something else started go on), links, writes each split's index and the group above
    the splits. Returns how many slices were missing, whoever computed them. Raises the first InputError of
    any process.

    An executor makes them in jobs instead, where there is one (`frost.pipeline.processes.executor`). A process of
    such a job computes its share, and links nothing.
    """
    keys = {entry_key(stage, task.facts): task for tasks in splits.values() for task in tasks}
    if (mine := share()) is not None:
        keys = {key: task for key, task in keys.items() if key in mine}
    longest_first = sorted(keys, key=lambda key: (-keys[key].n_slices, key))
    first = rank() == 0
    missing = [key for key in longest_first if not store.has(stage, key)]
    n_slices = sum(keys[key].n_slices for key in missing)
    if missing and first:
        tell(f"{stage}: {len(missing)} of {len(keys)} volumes to make, {n_slices} slices")
    if missing and (elsewhere := executor()):
        elsewhere.make_volumes(store.root, stage, {key: keys[key].n_slices for key in missing})
        missing = []
    with Progress(stage, len(keys), len(keys) - len(missing), shown=first) as progress:
        while missing:
            try:
                deaths = _compute(store, stage, [keys[key] for key in missing], make, processes, progress)
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
    if first and mine is None:
        from frost.cache.shards import write_root  # here: stage `index` needs the lock of a stage, and no zarr

        for folder, tasks in splits.items():
            _fill(store, stage, folder, tasks)
        for root in {folder.parent for folder in splits}:
            write_root(root)
    return n_slices


def _fill(store: Store, stage: str, folder: Path, tasks: Sequence[Task]) -> None:
    """A split of exactly these volumes, each checked on the way from the store.

    With an executor by manifest and size alone: this is a login node then, the task that wrote an entry has read it
    back, and every slice has a checksum of its own for who reads it.
    """
    from frost.cache.shards import write_split

    every_byte = executor() is None
    folder.mkdir(parents=True, exist_ok=True)
    names = {task.name for task in tasks}
    for path in folder.iterdir():
        if path.is_symlink() or path.is_file():
            if path.name != INDEX:
                path.unlink(missing_ok=True)
        elif path.name not in names:
            while path.exists():
                with suppress(FileNotFoundError):  # another run removes it too
                    shutil.rmtree(path)
    for task in tasks:
        end_if_orphaned()
        store.link(store.take(stage, entry_key(stage, task.facts), every_byte), folder / task.name)
    write_split(folder)


def _compute(
    store: Store,
    stage: str,
    tasks: Sequence[Task],
    make: Callable[[], Compute],
    processes: int | None,
    progress: Progress,
) -> str:
    """Compute what nobody else is computing, here or in processes of one thread. Returns how any died."""
    if processes == 0:
        for name in _walk(store, stage, tasks, make):
            progress.update(name)
        return ""
    if processes is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        cores = min(cores, int(os.environ.get("SLURM_CPUS_PER_TASK", cores)))  # not all clusters bind a job to its own
        processes = max(1, cores // n_local_ranks())
    deaths: list[str] = []
    with _workers(min(processes, len(tasks)), partial(_worker, store, stage, tasks, make)) as workers:
        while workers:
            end_if_orphaned()
            for connection in wait_for_any(list(workers), timeout=1):
                assert isinstance(connection, Connection)
                try:
                    received = connection.recv()
                except EOFError:  # done, or killed: the others go on
                    process = workers.pop(connection)
                    process.join()
                    deaths += [f"exit code {process.exitcode}"] if process.exitcode else []
                    continue
                if isinstance(received, Exception):
                    raise received
                progress.update(received)
    return ", ".join(deaths)


def _walk(store: Store, stage: str, tasks: Sequence[Task], make: Callable[[], Compute]) -> Iterator[str]:
    """Compute those that no one else has or is computing; gives the name of each."""
    compute: Compute | None = None
    for task in tasks:
        end_if_orphaned()
        if not store.has(stage, entry_key(stage, task.facts)):
            compute = compute or make()
            if store.produce(stage, task.facts, partial(_measured, store, stage, compute, task.item), wait=False):
                yield task.name


def _measured(store: Store, stage: str, compute: Compute, item: Any, folder: Path) -> None:
    with measured(store.root, stage, folder):
        compute(item, folder)


def _worker(
    store: Store, stage: str, tasks: Sequence[Task], make: Callable[[], Compute], connection: Connection
) -> None:
    """A process of one thread. It tells the parent of each volume, or of the error that ended it."""
    with suppress(BrokenPipeError):
        try:
            for name in _walk(store, stage, tasks, make):
                connection.send(name)
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
            with without_ctrl_c():
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
