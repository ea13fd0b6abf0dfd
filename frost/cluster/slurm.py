"""Slurm by its own programs: `sbatch`, `squeue`, `scontrol`. What one of them refuses is one line.

None of it needs accounting (`sacct`), which many clusters lack.
"""

import os
import re
import subprocess
from collections.abc import Iterable
from typing import NamedTuple

from frost.errors import InputError

KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")  # where Slurm is; the rest tells of the job around this one
MISSING = "{}: no such program; a login node of a Slurm cluster has it"
PATIENCE = 300.0  # seconds that a busy controller has for an answer


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


def submit(script: str, *options: str) -> str:
    """Submit a shell script with options of `sbatch`; gives the number of the job."""
    return call("sbatch", "--parsable", *options, stdin=script).strip().partition(";")[0]


def array(n_tasks: int, parallel: int | None) -> str:
    """The option of `sbatch` for tasks 0 to n_tasks - 1, of which `parallel` run at a time."""
    return f"--array=0-{n_tasks - 1}" + (f"%{parallel}" if parallel else "")


def queued(names: Iterable[str]) -> list[Queued]:
    """What waits or runs under these names of jobs, of any user."""
    if not (given := ",".join(names)):
        return []
    lines = call("squeue", "--noheader", f"--name={given}", "--format=%i|%j|%T|%r").splitlines()
    return [Queued(*line.strip().split("|", 3)) for line in lines if line.count("|") >= 3]


def requeue(job: str) -> None:
    """Let a job begin again, with the number that it has."""
    call("scontrol", "requeue", job)


def max_array_size() -> int:
    """How many tasks an array may have: MaxArraySize of slurm.conf, as indexes begin at 0."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", call("scontrol", "show", "config"), re.MULTILINE)
    if not found:
        raise InputError("scontrol show config: has no MaxArraySize")
    return max(1, int(found[1]))
