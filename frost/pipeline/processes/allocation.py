"""Several nodes of a Slurm job: a stage that begins on one of them begins on all.

Slurm places one task on each node (`srun`), torchrun joins them, and nothing here schedules anything. DVC sees one
command that takes a while: neither dvc.yaml nor a key knows of nodes. It counts alone that Slurm has a running job of
several nodes under SLURM_JOB_ID, and that this process is not itself a step of that job: shells inherit such variables.
"""

import ctypes
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import NoReturn

from frost.pipeline.processes.ending import KEPT, end_if_orphaned, fail, heeded_signals

STEPS = 0xFFFFFFF0  # numbers of steps from here on are Slurm's own: the shell of `salloc`, or of a batch script
PORTS = range(20000, 32000)  # below those that systems give to connections
LOST = ("the connection to another process was lost", "The connection to the C10d store has failed")
DEATH = re.compile("[Kk]illed|CANCELLED|Terminated|[Ff]ail|Abort|fault|Memory|revoked")
ALONE = "PET_NNODES=1 runs it on this node alone"
PATIENCE = 5.0  # seconds
PR_SET_PDEATHSIG = 1


def spread_over_nodes(stage: str) -> None:
    """Run this stage on all nodes of the job that this process leads, and end as it ends; returns if there is none.

    PET_NPROC_PER_NODE is the number of processes of each node, and any other variable of torchrun may be given too.
    """
    nodes = _nodes(stage)
    if len(nodes) < 2:
        return
    processes = os.environ.setdefault("PET_NPROC_PER_NODE", "1")
    step = f"{stage}.{uuid.uuid4().hex[:8]}"
    os.environ |= {"PET_NNODES": str(len(nodes)), "PET_RDZV_ID": step}
    os.environ.setdefault("PET_RDZV_BACKEND", "c10d")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # or each lost connection is told with torch's C++ frames
    os.environ.setdefault("PET_RDZV_ENDPOINT", f"{nodes[0]}:{random.choice(PORTS)}")
    sys.stderr.write(f"{stage}: on {len(nodes)} nodes, PET_NPROC_PER_NODE={processes}\n")
    command = [
        "srun", f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}", "--ntasks-per-node=1", "--kill-on-bad-exit=1",
        "--export=ALL", "--mpi=none", "--cpu-bind=none", "--input=none", f"--job-name={step}",
        sys.executable, "-m", f"stages.{stage}", *sys.argv[1:],
    ]  # fmt: skip
    _end_as(stage, step, command)


def name_this_node() -> None:
    """Let torchrun give other nodes the name by which Slurm knows this one; its own name for it may be unknown there.

    By these names nodes are also numbered, so that the first process is on the first node, beside DVC.
    """
    if (name := os.environ.get("SLURMD_NODENAME")) and os.environ.get("PET_NNODES", "1") != "1":
        os.environ.setdefault("PET_LOCAL_ADDR", name)


def _nodes(stage: str) -> list[str]:
    """The names of the nodes of this job, if it is for this process to use them: it is its script, or its shell."""
    job, n_nodes = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_JOB_NUM_NODES", "1")
    if not job or n_nodes == "1" or "PET_NNODES" in os.environ:
        return []
    if not shutil.which("srun"):
        sys.stderr.write(f"{stage}: SLURM_JOB_ID={job} is ignored: there is no srun here\n")
        return []
    running = call("squeue", "--noheader", f"--jobs={job}", "--states=RUNNING", "--format=%N")
    if not running:
        sys.stderr.write(f"{stage}: SLURM_JOB_ID={job} is ignored: no such job runs\n")
        return []
    if (step := os.environ.get("SLURM_STEP_ID")) and int(step) < STEPS:
        steps = call("squeue", "--noheader", "--steps", f"--jobs={job}", "--format=%i").split()
        if any(one.endswith(f".{step}") for one in steps):  # else of the step that this job was submitted from
            sys.stderr.write(
                f"{stage}: in a step of job {job}, so on this node alone; its script would use {n_nodes}\n"
            )
            return []
    return call("scontrol", "show", "hostnames", running).split()


def call(*command: str) -> str:
    """What a program of Slurm writes; nothing where it does not know the job."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "Invalid job id" not in done.stderr:
        fail(f"{' '.join(command)}: {done.stderr.strip()}; {ALONE}")
    return done.stdout.strip()


def _end_as(stage: str, step: str, command: list[str]) -> NoReturn:
    """Run `srun`, and end with its status. A signal goes to its tasks, whose first process then writes the line."""
    owner, received, told = os.getpid(), list[int](), list[str]()

    def prepare() -> None:  # in the child: nobody is left behind where this process is killed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != owner:
            os._exit(1)

    # In a session of its own: Ctrl-C and SIGTERM would make it kill its tasks.
    srun = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True, preexec_fn=prepare
    )
    for one in heeded_signals():
        signal.signal(one, lambda number, frame: received.append(number))
    assert srun.stderr
    reader = Thread(target=_pass_on, args=(srun.stderr, told), daemon=True)
    reader.start()
    try:
        while srun.poll() is None and not received:
            end_if_orphaned()
            with suppress(subprocess.TimeoutExpired):
                srun.wait(timeout=1)
    finally:
        if srun.poll() is None:
            _stop(srun, step)
    reader.join(PATIENCE)
    for word in sys.argv[1:]:  # NFS may go on saying that a name is not there until its folder is listed
        with suppress(OSError):
            next(Path(word).parent.iterdir(), None)
    if received:
        sys.exit(128 + received[0])
    if any(line.startswith("stopped: ") for line in told) or not srun.returncode:
        sys.exit(srun.returncode)
    if not any(line.startswith(("error: ", "ended: ")) for line in told):
        fail(f"{stage}: {told[0] if told else f'srun ended with {srun.returncode}'}. Run it again: {KEPT}")
    sys.exit(1)


def _stop(srun: "subprocess.Popen[str]", step: str) -> None:
    """End the tasks of a step by SIGTERM, and by force where that takes too long."""
    steps = call("squeue", "--noheader", "--steps", f"--jobs={os.environ['SLURM_JOB_ID']}", "--format=%i %j")
    for number, _, name in (line.strip().partition(" ") for line in steps.splitlines()):
        if name == step:
            call("scancel", "--signal=TERM", number)
            with suppress(subprocess.TimeoutExpired):
                srun.wait(timeout=6 * PATIENCE)
    srun.terminate()
    srun.wait()


def _pass_on(lines: Iterable[str], told: list[str]) -> None:
    """Write on what the stage says, each error once; `told` gets the lines of its end, or Slurm's where it has none."""
    lost, of_slurm = [], []
    for line in lines:
        if found := re.match(r"(?:srun|slurmstepd\S*): (?:error: )?(.*)", line):
            of_slurm.append(found[1].strip(" *."))
        elif line.startswith("error: ") and any(words in line for words in LOST):
            lost.append(line)
        elif line not in told:
            sys.stderr.write(line)
            if line.startswith(("error: ", "stopped: ", "ended: ")):
                told.append(line)
    deaths = [line for line in of_slurm if DEATH.search(line)]  # of tasks that had no time for a line
    if not told and not deaths:
        sys.stderr.writelines(lost[:1])
    told += [] if told else deaths or lost or of_slurm
