"""What a job runs: `python -m frost.cluster.task FOLDER`, the stage itself, for the keys of this task alone.

The stage finds them by FROST_SHARE (`frost.pipeline.processes.executor`). It writes to the store and to no out of the
workspace: the run that waits links those, and another may have begun there meanwhile.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from frost.cache.store import Store
from frost.cluster import slurm
from frost.cluster.jobs import CHANGED
from frost.cluster.records import Job, read
from frost.errors import InputError
from frost.pipeline.processes.ending import fail
from frost.pipeline.processes.executor import EXECUTOR, SHARE

OUTS = {"train_varnet": ("network", "curves"), "train_rcan": ("network", "curves")}  # that a stage writes as it goes


def main(argv: Sequence[str] | None = None) -> None:
    """Run the task of the job whose record lies in the folder that is given."""
    (folder,) = sys.argv[1:] if argv is None else argv
    job = read(Path(folder), os.environ.get("SLURM_JOB_ID", ""))
    number = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    store, keys = Store(job.folder.parents[1]), job.shares[number]
    before = _states(store, keys)
    with tempfile.TemporaryDirectory() as scratch:
        code, stopped = _run(job, store, keys, Path(scratch))
    missing = [key for key in keys if not store.has(job.stage, key)]
    if not missing:
        sys.stderr.write(f"all {len(keys)} entries of this task of {job.stage} are in the store\n")
    elif stopped and job.stage in OUTS:
        _go_on(job, _states(store, keys) != before)
    elif code == 0:
        fail(f"{job.stage}: {CHANGED}: {len(missing)} of {len(keys)} keys are others now; run `dvc repro` again")
    sys.exit(1 if missing else 0)


def _run(job: Job, store: Store, keys: Sequence[str], scratch: Path) -> tuple[int, bool]:
    """The stage as a process of its own: its exit status, and whether SIGTERM came, which is passed on to it."""
    share = scratch / "keys"
    share.write_text("\n".join(keys))
    own = {name: value for name, value in os.environ.items() if name != EXECUTOR and not name.startswith("PET_")}
    own |= {SHARE: str(share), "FROST_STORE": str(store.root)}
    own |= {"PET_NPROC_PER_NODE": str(job.processes)} if job.processes > 1 else {}
    outs = [
        word for out in OUTS.get(job.stage, ()) for word in (f"--{out}", str(scratch / out))
    ]  # the last word counts
    command = [sys.executable, "-m", f"stages.{job.stage}", *job.arguments, *outs]
    started: list[subprocess.Popen[bytes]] = []
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        for process in started:
            process.terminate()

    signal.signal(signal.SIGTERM, stop)
    # The log is its stderr. What it writes on stdout is the summary of a whole stage.
    started.append(subprocess.Popen(command, env=own, stdout=subprocess.DEVNULL))
    return started[0].wait(), bool(stopped)


def _states(store: Store, keys: Sequence[str]) -> list[int]:
    """When the state of each training was written."""
    files = [store.training(key) / "state" for key in keys]
    return [file.stat().st_mtime_ns if file.exists() else 0 for file in files]


def _go_on(job: Job, went_on: bool) -> None:
    """Ask for the next turn of a training whose time is over. Not where it was cancelled, or no epoch fits in."""
    if not went_on:
        fail(f"{job.stage}: the job's time was over before an epoch was; cluster.yaml: {job.stage}.time is too short")
    if any(one.state == "RUNNING" for one in slurm.queued([job.folder.name])):
        sys.stderr.write(f"{job.stage}: the job's time is over; it goes on from its last epoch in the next turn\n")
        sys.stderr.flush()
        slurm.requeue(job.id)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        fail(str(error))
