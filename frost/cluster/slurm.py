"""Slurm by its own programs: `sbatch`, `squeue`, `scontrol`. What one of them refuses is one line.

None of it needs accounting (`sacct`), which many clusters lack.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from threading import Thread
from typing import NamedTuple

from frost.errors import InputError
from frost.pipeline.processes.ending import end_if_orphaned

KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")  # where Slurm is; the rest tells of the job around this one
MISSING = "{}: no such program; a login node of a Slurm cluster has it"
PATIENCE = 300.0  # seconds that a busy controller has for an answer
NOTICE = "--signal=B:TERM@120"  # option of `sbatch`: SIGTERM two minutes before the time limit, to the script
TRIES = 3  # jobs, one after the other, for what those before did not finish
PAUSES = 1.0, 15.0  # seconds between two looks at the queue: at first, and in the end
LATE = 5, 2.0  # looks, and seconds between them, after the jobs are gone: NFS shows a name late


class Queued(NamedTuple):
    """A job in the queue, or several tasks of an array that wait together. `reason`: why it does not run."""

    id: str
    name: str
    state: str
    reason: str


def environment() -> dict[str, str]:
    """This process's own, without what tells of the job that it may run in, and would count for a new one."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name in KEPT}


def call(*command: str, stdin: str = "") -> str:
    """What a program of Slurm writes. Raises InputError where it is missing or refuses."""
    try:
        done = subprocess.run(command, input=stdin, env=environment(), capture_output=True, text=True, timeout=PATIENCE)
    except FileNotFoundError:
        raise InputError(MISSING.format(command[0])) from None
    except subprocess.TimeoutExpired:
        raise InputError(f"{command[0]}: Slurm's controller gave no answer in {PATIENCE:.0f} s") from None
    if done.returncode:
        words = [re.sub(r"^\w+: (error|fatal): ", "", line).strip() for line in done.stderr.splitlines()]
        raise InputError(f"{command[0]}: {'; '.join(filter(None, words)) or f'exit status {done.returncode}'}")
    return done.stdout


def run(command: Sequence[str], without: str) -> int:
    """`srun` with these options and the command behind them; gives its exit status. It ends with this process.

    Raises InputError where Slurm has ended it, or has not begun. Errors of the command itself are on stderr.

    without: a variable that the command is not to have
    """
    own = {name: value for name, value in environment().items() if name != without}
    words = ["srun", "--kill-on-bad-exit=1", "--input=none", *command]
    try:  # in a session of its own, so that Ctrl-C comes to it once, from here
        srun = subprocess.Popen(words, env=own, stderr=subprocess.PIPE, errors="replace", start_new_session=True)
    except FileNotFoundError:
        raise InputError(MISSING.format("srun")) from None
    told, of_slurm = list[str](), list[str]()
    reader = Thread(target=_relay, args=(srun.stderr, told, of_slurm), daemon=True)
    reader.start()
    try:
        while srun.poll() is None:
            end_if_orphaned()
            with suppress(subprocess.TimeoutExpired):
                srun.wait(timeout=1)
    finally:
        srun.terminate()
    reader.join()
    if srun.returncode and not any(line.startswith(("error: ", "stopped: ", "Traceback")) for line in told):
        raise InputError(f"srun: {'; '.join(of_slurm) or f'exit status {srun.returncode}'}")
    return srun.returncode if srun.returncode >= 0 else 128 - srun.returncode


def _relay(lines: Iterable[str], told: list[str], of_slurm: list[str]) -> None:
    """Write on what the command says, and that Slurm lets it wait. Slurm's errors follow from those of the command."""
    for line in lines:
        if found := re.match(r"(?:srun|slurmstepd\S*): error: (.*)", line):
            of_slurm.append(found[1].strip(" *"))
        elif not line.startswith("srun: ") or line.startswith("srun: job "):
            told.append(line)
            sys.stderr.write(line)


def submit(script: str, *options: str) -> str:
    """Submit a shell script with options of `sbatch`; gives the number of the job, which may begin again."""
    always = ("--parsable", "--open-mode=append", "--export=ALL", "--requeue")
    return call("sbatch", *always, *options, stdin=script).strip().partition(";")[0]


def array(n_tasks: int, parallel: int | None) -> str:
    """The option of `sbatch` for tasks 0 to n_tasks - 1, of which `parallel` run at a time."""
    return f"--array=0-{n_tasks - 1}" + (f"%{parallel}" if parallel else "")


def queued(names: Iterable[str]) -> list[Queued]:
    """What waits or runs under these names of jobs, of any user."""
    if not (given := ",".join(names)):
        return []
    lines = call("squeue", "--noheader", f"--name={given}", "--format=%i|%j|%T|%r").splitlines()
    return [Queued(*line.strip().split("|", 3)) for line in lines if line.count("|") >= 3]


def looks(names: Collection[str]) -> Iterator[list[Queued]]:
    """What is in the queue under these names, again and again until it has been empty for a while.

    Where Slurm gives no answer one entry is there, with that as its reason: its controller may be restarting.
    """
    pause, n_empty = PAUSES[0], 0
    while True:
        try:
            waiting = queued(names)
        except InputError as error:
            waiting = [Queued("", "", "PENDING", str(error))]
        yield waiting
        n_empty = 0 if waiting else n_empty + 1
        if n_empty == LATE[0]:
            return
        time.sleep(pause if waiting else LATE[1])
        pause = min(1.2 * pause, PAUSES[1])


def this_job() -> str:
    """The number of the job that this process runs in, with that of its task; empty outside of jobs.

    SLURM_JOB_ID alone may be the number of a whole array, all of whose tasks then begin again.
    """
    array, task = (os.environ.get(f"SLURM_ARRAY_{what}_ID") for what in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def requeue(job: str) -> None:
    """Let a job begin again, with the number that it has."""
    call("scontrol", "requeue", job)


def max_array_size() -> int:
    """How many tasks an array may have: MaxArraySize of slurm.conf, as indexes begin at 0."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", call("scontrol", "show", "config"), re.MULTILINE)
    if not found:
        raise InputError("scontrol show config: has no MaxArraySize")
    return max(1, int(found[1]))
