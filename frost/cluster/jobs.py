"""Entries of the store made in jobs of Slurm while a stage waits on a login node: FROST_EXECUTOR=slurm.

Submit what the store lacks and no job is making; wait until the store has it; where the jobs are gone and it has not,
submit the rest. Completion is what the store says: neither exit codes nor accounting count. Whoever waits can be killed
at any time, as the jobs are found again by their records.
"""

import heapq
import math
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from frost.cache.entries import entry_key
from frost.cache.store import Store
from frost.cluster import slurm
from frost.cluster.records import Job, living, written
from frost.cluster.settings import ClusterParams, cluster_params
from frost.errors import InputError
from frost.pipeline.processes.ending import KEPT, end_if_orphaned, fail, kept_so_far
from frost.pipeline.processes.executor import EXECUTOR
from frost.pipeline.progress import Progress, tell

CHANGED = "code, params or scans were changed after the job was submitted"


def make_volumes(root: Path, stage: str, sizes: Mapping[str, int]) -> None:
    """Have the volumes of these keys made by arrays. sizes: the slices of each, by which tasks are balanced.

    Raises InputError with the last line of a task's log where volumes are missing after `slurm.TRIES` arrays.
    """
    params, store = cluster_params(stage), Store(root)

    def submit(missing: set[str]) -> Job:
        shares = balanced({key: sizes[key] for key in missing}, params.volumes, slurm.max_array_size())
        what = f"{len(shares)} tasks of up to {max(map(len, shares))} volumes"
        options = [*params.requests(), slurm.array(len(shares), params.parallel)]
        # Without a network there is nothing to do on a GPU, and one process of a task starts others for its cores.
        job = written(store, stage, sys.argv[1:], shares, 1 if stage == "prepare" else processes(params))
        return _submitted(job, options, "%a.log", what)

    _have_made(store, stage, set(sizes), submit)


def make_network(root: Path, stage: str, facts: Mapping[str, Any]) -> str:
    """Have the training of these facts done by one job; gives the key of its entry.

    A job trains in as many processes as it has GPUs, and their number is a part of the key (`frost.training.trained`).
    A job whose time is over goes on in the next from its last epoch: the task asks for that (`frost.cluster.task`).
    """
    params, store = cluster_params(stage), Store(root)
    key = entry_key(stage, {**facts, "processes": processes(params)})

    def submit(missing: set[str]) -> Job:
        job = written(store, stage, sys.argv[1:], [[key]], processes(params))
        return _submitted(job, [*params.requests(), slurm.NOTICE], "0.log", "a training")

    _have_made(store, stage, {key}, submit)
    return key


def run_stage(stage: str) -> NoReturn:
    """Run a stage that keeps nothing in the store on a node, by `srun`, and end as it ends.

    It ends with this process. The next run begins it anew, as it would here.
    """
    try:
        params = cluster_params(stage)
        words = [f"--job-name=frost-{stage}", *params.requests()]
        sys.exit(slurm.run([*words, sys.executable, "-m", f"stages.{stage}", *sys.argv[1:]], without=EXECUTOR))
    except InputError as error:
        fail(str(error))


def processes(params: ClusterParams) -> int:
    """How many processes a training is, or the pass of a frozen network in one task."""
    return max(1, params.gpus)


def is_training(stage: str) -> bool:
    """Whether a stage makes one entry in hours, and tells of its epochs meanwhile."""
    return stage.startswith("train_")


def balanced(sizes: Mapping[str, int], volumes: int, limit: int) -> list[list[str]]:
    """Shares of about as many slices each: of `volumes` keys in the mean, or of more where `limit` shares do not do.

    The longest first, each to the share that has least.
    """
    shares: list[list[str]] = [[] for _ in range(min(math.ceil(len(sizes) / volumes), limit))]
    least = [(0, number) for number in range(len(shares))]
    for key in sorted(sizes, key=lambda key: (-sizes[key], key)):
        n_slices, number = heapq.heappop(least)
        shares[number].append(key)
        heapq.heappush(least, (n_slices + sizes[key], number))
    return shares


def _submitted(job: Job, options: Sequence[str], log: str, what: str) -> Job:
    """Submit a job that runs `frost.cluster.task` with this process's own Python, folder and environment."""
    script = f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -m frost.cluster.task {shlex.quote(str(job.folder))}\n"
    output = str(job.folder).replace("%", "%%")
    id = slurm.submit(
        script, f"--job-name={job.folder.name}", f"--chdir={Path.cwd()}", f"--output={output}/{log}", *options
    )
    tell(f"{job.stage}: job {id}, {what}; logs in {job.folder}")
    return replace(job, id=id)


def _have_made(store: Store, stage: str, keys: set[str], submit: Callable[[set[str]], Job]) -> None:
    """Return once the store has these entries. Jobs that make some of them are joined, for the rest some submitted."""
    missing, mine = keys - store.keys(stage), list[Job]()
    with Progress(stage, len(keys), len(keys) - len(missing), shown=not is_training(stage)) as progress:
        while missing:
            with store.lock(f"jobs-{stage}"):  # so that two runs at one time do not submit the same
                jobs = [job for job in living(store, stage) if job.keys & missing]
                for job in jobs:
                    tell(f"{stage}: joins job {job.id}, which is making what is missing; logs in {job.folder}")
                if left := missing.difference(*(job.keys for job in jobs)):
                    if mine:
                        _end_if_hopeless(stage, len(keys), left, mine)
                    mine.append(submit(left))
                    jobs.append(mine[-1])
            ids = " ".join(job.id for job in jobs)
            kept_so_far(f"in the queue job {ids} goes on, which the next run joins and `scancel {ids}` ends")
            missing = _wait(store, stage, missing, jobs, progress)
            kept_so_far(KEPT)


def _wait(store: Store, stage: str, missing: set[str], jobs: Sequence[Job], progress: Progress) -> set[str]:
    """Wait until the store has what is missing, or these jobs are gone; gives what it lacks then."""
    lines = [_Lines(stage, job.log(0)) for job in jobs if is_training(stage)]
    reason = ""
    for waiting in slurm.looks([job.folder.name for job in jobs]):
        found = missing & store.keys(stage)
        for _ in found:
            progress.update()
        missing = missing - found
        for log in lines:
            log.relay()
        if not missing:
            break
        if (told := _reason(waiting)) not in ("", reason):
            reason = told
            tell(f"{stage}: waits in the queue: {reason}")
        end_if_orphaned()
    return missing


def _reason(waiting: Sequence[slurm.Queued]) -> str:
    """Why nothing of it runs."""
    if any(one.state != "PENDING" for one in waiting):
        return ""
    return next((one.reason for one in waiting if one.reason != "None"), "")


class _Lines:
    """What a training tells of its course from now on, on the terminal of whoever waits for it."""

    def __init__(self, stage: str, log: Path) -> None:
        self.stage, self.log = stage, log
        self.read = log.stat().st_size if log.exists() else 0

    def relay(self) -> None:
        """Write what is new. Not its last line: who waits says how it ended."""
        if not self.log.exists():
            return
        with self.log.open("rb") as opened:
            opened.seek(self.read)
            text, end, _ = opened.read().rpartition(b"\n")
        self.read += len(text) + len(end)
        for line in text.decode(errors="replace").splitlines():
            if line.startswith(self.stage):
                tell(line)


def _end_if_hopeless(stage: str, n_keys: int, missing: set[str], jobs: Sequence[Job]) -> None:
    """Raise InputError with what the last of these jobs wrote, where another would not help."""
    last = jobs[-1]
    number = next((number for number, keys in enumerate(last.shares) if missing & set(keys)), 0)
    log = last.log(number)
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    line = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
    if CHANGED in line:
        raise InputError(line.removeprefix("error: "))
    if len(jobs) == slurm.TRIES:
        what = f"{len(missing)} of {n_keys} entries are missing after {len(jobs)} jobs"
        raise InputError(f"{stage}: {what}: {line.removeprefix('error: ')} ({log})")
