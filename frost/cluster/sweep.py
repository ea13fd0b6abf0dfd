"""Many experiments by one line, run here or as one job array (`FROST_EXECUTOR=slurm`).

Each runs as `frost.cluster.experiment`. It is done when its git ref is in the checkout, so that the same line again
runs what is missing. `frost.cluster.choices` has which they are.
"""

import hashlib
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from frost.cluster import slurm
from frost.cluster.choices import plan
from frost.cluster.experiment import FAILED, Sweep, job_name, log_of, there
from frost.cluster.settings import cluster_params
from frost.errors import InputError
from frost.pipeline.processes.ending import KEPT, kept_so_far
from frost.pipeline.processes.executor import executor
from frost.pipeline.progress import tell

FILE = "sweep.json"
PAUSE = 0.2  # seconds between two looks at the experiments that run here


def sweep(words: Sequence[str], prefix: str, jobs: int | None) -> None:
    """Run every experiment that is not there yet, `jobs` at a time. Raises InputError if one fails."""
    planned, ready = plan(words, prefix)
    names = [one.name for one in planned.experiments]
    waiting = [name for name in names if name not in ready]
    if ready:
        tell(f"{len(ready)} of {len(names)} experiments are there already")
    run = run_in_jobs if executor() else run_here
    failed = run(planned, waiting, jobs) if waiting else {}
    for name, why in failed.items():
        sys.stderr.write(f"error: {name}: {why}\n")
    if failed:
        what = f"{len(failed)} of {len(names)} experiments failed"
        raise InputError(f"{what}: logs in {folder_of(planned)}; the same line runs them again")
    tell(f"{len(names)} experiments: `dvc exp show` lists them, `frost compare {' '.join(names[:2])}` compares")


def run_here(planned: Sweep, names: Sequence[str], jobs: int | None) -> dict[str, str]:
    """Run the experiments of these names on this machine, `jobs` at a time; those that failed, and why.

    One thread starts them all: while a signal ends them, none is started.
    """
    file, numbers = _written(planned, names)
    tell(f"{len(names)} experiments, {jobs or 1} at a time; logs in {file.parent}")
    waiting, failed, count = list(numbers), dict[str, str](), 0
    running: dict[str, subprocess.Popen[bytes]] = {}
    while waiting or running:
        while waiting and len(running) < (jobs or 1):
            name = waiting.pop(0)
            # In a session of its own: Ctrl-C is for this process, which ends it.
            running[name] = subprocess.Popen(
                [sys.executable, "-m", "frost.cluster.experiment", str(file), str(numbers[name])],
                cwd=Path(planned.checkout) / planned.project, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        time.sleep(PAUSE)
        for name in [name for name, process in running.items() if process.poll() is not None]:
            count += 1
            if running.pop(name).returncode:
                failed[name] = last_line(log_of(file, numbers[name]))
            tell(f"{count} of {len(names)}: {name}: {failed.get(name, 'done')}")
    return failed


def run_in_jobs(planned: Sweep, names: Sequence[str], parallel: int | None) -> dict[str, str]:
    """Run them as a job array, and wait; those that failed, and why. A job of the same line in the queue is joined.

    An experiment is done when its ref is there, and has failed when its log says so. Where the jobs are gone and
    neither is so, a node died or the like: what is left is submitted again, at most `slurm.TRIES` times.
    """
    failed, left, tries = dict[str, str](), list(names), 0
    file, numbers = folder_of(planned) / FILE, {one.name: at for at, one in enumerate(planned.experiments)}
    name = job_name(file)
    while left:
        if waiting := slurm.queued([name]):
            ids = " ".join(sorted({one.id.partition("_")[0] for one in waiting}))
            tell(f"joins job {ids}, which runs this sweep; logs in {file.parent}")
        elif tries < slurm.TRIES:
            tries += 1
            ids = _submit(planned, name, left, parallel)
        else:
            gone = f"its job ended without a word, {tries} times"
            return failed | {one: f"{gone}: {last_line(log_of(file, numbers[one]))}" for one in left}
        kept_so_far(f"job {ids} goes on in the queue: the same line joins it, `scancel {ids}` ends it")
        for _ in slurm.looks([name]):
            done = there(planned)
            for one in [one for one in left if one in done or _has_failed(log_of(file, numbers[one]))]:
                left.remove(one)
                if one not in done:
                    failed[one] = last_line(log_of(file, numbers[one]))
                tell(f"{len(names) - len(left)} of {len(names)}: {one}: {failed.get(one, 'done')}")
            if not left:
                break
    kept_so_far(KEPT)
    return failed


def _submit(planned: Sweep, name: str, names: Sequence[str], parallel: int | None) -> str:
    """Submit an array of one task an experiment, or of more where MaxArraySize asks for it; the job's number."""
    params = cluster_params("sweep")
    file, numbers = _written(planned, names)
    n_tasks = min(len(names), slurm.max_array_size())
    shares = [" ".join(map(str, list(numbers.values())[task::n_tasks])) for task in range(n_tasks)]
    tasks = file.with_name(f"tasks-{uuid.uuid4().hex[:12]}")
    tasks.write_text("\n".join(shares) + "\n")
    lines = f'$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(tasks))})'
    command = f"{shlex.quote(sys.executable)} -m frost.cluster.experiment {shlex.quote(str(file))} {lines}"
    many = f"export PET_NPROC_PER_NODE={params.gpus}\n" if params.gpus > 1 else ""  # a process a GPU
    where = Path(planned.checkout) / planned.project
    job = slurm.submit(
        f"#!/bin/sh\n{many}exec {command}\n", f"--job-name={name}", f"--chdir={where}",
        f"--output={str(file.parent).replace('%', '%%')}/task-%A_%a.log", slurm.NOTICE, *params.requests(),
        slurm.array(n_tasks, parallel or params.parallel),
    )  # fmt: skip
    tell(f"{len(names)} experiments are job {job}, an array of {n_tasks} tasks; logs in {file.parent}")
    return job


def folder_of(planned: Sweep) -> Path:
    """The folder of a sweep: `sweep.json`, and a log for each experiment. The same line has the same."""
    words = repr((planned.checkout, planned.commit, [(one.name, list(one.words)) for one in planned.experiments]))
    digest = hashlib.sha256(words.encode()).hexdigest()[:12]
    return Path(planned.checkout) / planned.project / ".dvc" / "tmp" / f"sweep-{digest}"


def last_line(log: Path) -> str:
    """Why an experiment failed, by its log."""
    return _end_of(log).removeprefix(FAILED) or f"{log}: not there, or empty"


def _has_failed(log: Path) -> bool:
    return _end_of(log).startswith(FAILED)


def _end_of(log: Path) -> str:
    """The last line of a log, which may be long; empty where there is none."""
    try:
        with log.open("rb") as opened:
            opened.seek(max(0, log.stat().st_size - 4096))
            lines = opened.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _written(planned: Sweep, names: Sequence[str]) -> tuple[Path, dict[str, int]]:
    """The file of a sweep, written, and the numbers of the experiments of these names, whose old logs are removed."""
    file = folder_of(planned) / FILE
    planned.write(file)
    numbers = {one.name: number for number, one in enumerate(planned.experiments) if one.name in names}
    for number in numbers.values():
        log_of(file, number).unlink(missing_ok=True)
    return file, numbers
