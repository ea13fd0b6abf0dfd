"""A Slurm job that is longer than its time limit: it stops in time, and begins again where it was."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from frost.cluster import slurm
from frost.errors import InputError
from frost.pipeline.places import store_root

PATIENCE = 60.0  # seconds that a command has to end; a job should be told twice as many before its limit
AGAIN = 75  # EX_TEMPFAIL of sysexits.h: try again later
NO_PROGRESS = "nothing was finished in this time, so the job is not queued again; a longer --time would help"


def run_job(command: list[str]) -> int:
    """Run a command of a batch script, mostly `dvc repro`; at SIGTERM end its stage, and let the job begin again.

    The stage alone gets SIGTERM: what DVC then does by itself, with the locks of the workspace too, is in order.
    The job is not queued again where it is being cancelled, or where nothing was finished since it began, as it would
    then go on for ever. Returns the status of the command; `AGAIN` where it was stopped.
    """
    received: list[float] = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(time.monotonic()))
    before = finished(store_root())
    process = subprocess.Popen(command, start_new_session=True)  # Slurm may signal all of this one
    while process.poll() is None and not (received and time.monotonic() > received[0] + PATIENCE):
        for stage in _stages(process.pid) if received else ():
            with suppress(psutil.Error):
                stage.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.2)
    if process.returncode == 0 or not received:
        return process.returncode if process.returncode >= 0 else 128 - process.returncode
    sys.stderr.write(f"stopped by SIGTERM: {queue_again(finished(store_root()) != before)}\n")
    return AGAIN


def queue_again(progress: bool) -> str:
    """Queue this job again, which ends it. What is to be said."""
    job = slurm.this_job()
    if not job or not _runs(job):
        return "run it again"
    if not progress:
        return NO_PROGRESS
    try:
        slurm.requeue(job)
    except InputError as error:
        return f"submit it again ({error})"
    return f"job {job} is queued again"


def _runs(job: str) -> bool:
    """Whether it runs, and is not being cancelled."""
    with suppress(InputError):  # Slurm has forgotten it
        return bool(slurm.call("squeue", "--noheader", f"--jobs={job}", "--states=RUNNING", "--format=%i").strip())
    return False


def finished(store: Path) -> dict[Path, int]:
    """What changes when a volume, an epoch, a network or a stage is finished: times of change, ns."""
    places = [*store.glob("*/??"), *store.glob("training/*/state"), Path("dvc.lock")]
    return {place: place.stat().st_mtime_ns for place in places if place.exists()}


def _stages(pid: int) -> Iterator[psutil.Process]:
    """The stages below a process, or itself, without the processes that these have started."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        words = process.cmdline()
        if "-c" not in words[1:2] and any(word.startswith("stages.") for word in words):
            yield process
            return
        for child in process.children():
            yield from _stages(child.pid)
