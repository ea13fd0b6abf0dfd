"""Several nodes of a Slurm job: a stage that begins on one of them begins on all.

Slurm places one task on each node (`srun`), torchrun joins them, and nothing here schedules anything. DVC sees one
command that takes a while: neither dvc.yaml nor a key knows of nodes. It counts alone that Slurm has a running job of
several nodes under SLURM_JOB_ID, and that this process is not itself a step of that job: shells inherit such variables.
"""

import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import IO

from frost.pipeline.ending import KEPT, end_if_orphaned, fail, heeded_signals

STEPS = 0xFFFFFFF0  # numbers of steps from here on are Slurm's own: the shell of `salloc`, or of a batch script
PORTS = range(20000, 32000)  # below those that systems give to connections
ALONE = "PET_NNODES=1 runs it on this node alone"
PR_SET_PDEATHSIG = 1


def spread_over_nodes(stage: str) -> None:
    """Run this stage on all nodes of the job that this process leads, and end as it ends; returns if there is none.

    PET_NPROC_PER_NODE is the number of processes of each node, and any other variable of torchrun may be given too.
    """
    nodes = _nodes(stage)
    if len(nodes) < 2:
        return
    processes = os.environ.setdefault("PET_NPROC_PER_NODE", "1")
    os.environ |= {"PET_NNODES": str(len(nodes)), "PET_RDZV_ID": uuid.uuid4().hex}
    os.environ.setdefault("PET_RDZV_BACKEND", "c10d")
    os.environ.setdefault("PET_RDZV_ENDPOINT", f"{nodes[0]}:{random.choice(PORTS)}")
    sys.stderr.write(f"{stage}: on {len(nodes)} nodes, PET_NPROC_PER_NODE={processes}\n")
    command = [
        "srun", f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}", "--ntasks-per-node=1", "--kill-on-bad-exit=1",
        "--export=ALL", "--mpi=none", "--cpu-bind=none", "--input=none", f"--job-name={stage}",
        sys.executable, "-m", f"stages.{stage}", *sys.argv[1:],
    ]  # fmt: skip
    _end_as(stage, command)


def name_this_node() -> None:
    """Let torchrun give other nodes the name by which Slurm knows this one; its own name for it may be unknown there.

    By these names nodes are also numbered, so that the first process is on the first node, beside DVC.
    """
    if name := os.environ.get("SLURMD_NODENAME"):
        os.environ.setdefault("PET_LOCAL_ADDR", name)


def _nodes(stage: str) -> list[str]:
    """The names of the nodes of this job, if it is for this process to use them: it is its script, or its shell."""
    job, n_nodes = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_JOB_NUM_NODES", "1")
    if not job or n_nodes == "1" or "PET_NNODES" in os.environ:
        return []
    if int(os.environ.get("SLURM_STEP_ID", STEPS)) < STEPS:
        sys.stderr.write(f"{stage}: in a step of job {job}, so on this node alone; its script would use {n_nodes}\n")
        return []
    if not shutil.which("srun"):
        sys.stderr.write(f"{stage}: SLURM_JOB_ID={job} is ignored: there is no srun here\n")
        return []
    running = _call("squeue", "--noheader", f"--jobs={job}", "--states=RUNNING", "--format=%N")
    if not running:
        sys.stderr.write(f"{stage}: SLURM_JOB_ID={job} is ignored: no such job runs\n")
        return []
    return _call("scontrol", "show", "hostnames", running).split()


def _call(*command: str) -> str:
    """What a program of Slurm writes; nothing where it does not know the job."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "Invalid job id" not in done.stderr:
        fail(f"{' '.join(command)}: {done.stderr.strip()}; {ALONE}")
    return done.stdout.strip()


def _end_as(stage: str, command: list[str]) -> None:
    """Run `srun`, and end with its status. It ends with this process, which ends with the one that wants its work."""
    owner, stopped_by, ended_with = os.getpid(), 0, []

    def prepare() -> None:  # in the child: nobody is left behind where this process is killed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != owner:
            os._exit(1)

    def stop(number: int, frame: object) -> None:
        nonlocal stopped_by
        stopped_by = number
        srun.terminate()  # which it passes on to its tasks; their first process writes the line

    # In a session of its own, so that Ctrl-C comes once, from here.
    srun = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True, preexec_fn=prepare
    )
    assert srun.stderr
    for one in heeded_signals():
        signal.signal(one, stop)
    reader = Thread(target=lambda lines: ended_with.extend(_pass_on(lines)), args=(srun.stderr,), daemon=True)
    reader.start()
    try:
        while srun.poll() is None:
            end_if_orphaned()
            with suppress(subprocess.TimeoutExpired):
                srun.wait(timeout=1)
    finally:
        srun.terminate()
    reader.join(timeout=5)
    for word in sys.argv[1:]:  # NFS may go on saying that a name is not there until its folder is listed
        with suppress(OSError):
            next(Path(word).parent.iterdir(), None)
    if stopped_by:
        sys.exit(128 + stopped_by)
    if srun.returncode and ended_with:
        fail(f"{stage}: {ended_with[-1]}. Run it again: {KEPT}")
    sys.exit(srun.returncode if srun.returncode >= 0 else 1)


def _pass_on(lines: IO[str]) -> list[str]:
    """Write on what the stage says. Gives what Slurm says of its end, if the stage has not said it itself."""
    errors, of_slurm = set(), []
    for line in lines:
        if line.startswith(("srun: ", "slurmstepd: ")):
            of_slurm.append(line.removeprefix("srun: ").removeprefix("slurmstepd: ").removeprefix("error: ").strip())
        elif line not in errors:  # each process says what is wrong with params.yaml
            sys.stderr.write(line)
        if line.startswith(("error: ", "stopped: ", "ended: ")):
            errors.add(line)
    return [] if errors else of_slurm
