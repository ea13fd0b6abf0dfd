"""A real Slurm on this machine: munged, slurmctld and two slurmd of its own, beside any other that runs here.

No accounting, no cgroups, and both nodes are this machine. The nodes are named by two addresses of the loopback, so
that what one node names another by can be reached.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests import processes

NODES = ("127.0.0.1", "127.0.0.2")
PROGRAMS = ("munged", "slurmctld", "slurmd")
PATIENCE = 60  # seconds for a daemon to start or to end

until = partial(processes.until, pause=0.2)  # as each look at the queue is a process

CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldLogFile={folder}/slurmctld.log
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
MaxArraySize={max_array_size}
SchedulerParameters=sched_interval=2,batch_sched_delay=0,sched_min_interval=100000
KillWait=5
SlurmdTimeout=15
NodeName=127.0.0.1 NodeHostName=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4
NodeName=127.0.0.2 NodeHostName=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4
PartitionName=all Nodes=127.0.0.[1-2] Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Why no Slurm can be started here; empty if one can."""
    if os.getuid() != 0:
        return "only root can start slurmd"
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    return f"Debian's slurm-wlm and munge are not installed: no {', '.join(missing)}" if missing else ""


@dataclass(frozen=True)
class Cluster:
    """One that runs. Programs that are to find it need `environment`."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """This process's own, without what a job would have set, and with where the configuration lies."""
        of_jobs = ("SLURM", "SBATCH", "SALLOC")
        others = {name: value for name, value in os.environ.items() if not name.startswith(of_jobs)}
        return others | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *command: str | Path, **options: object) -> str:
        """What a command such as `squeue` writes. Raises CalledProcessError, with its stderr, where it fails."""
        options = {"env": self.environment, "check": True, "text": True, "capture_output": True} | options
        return subprocess.run([str(word) for word in command], **options).stdout

    def nodes(self) -> dict[str, str]:
        """Name -> state, such as "idle", of each node."""
        return dict(line.split() for line in self.run("sinfo", "-hN", "-o", "%N %t").splitlines())

    def jobs(self) -> dict[str, str]:
        """Number -> state, such as "RUNNING", of each job that is in the queue; tasks of arrays each for itself."""
        return dict(line.split() for line in self.run("squeue", "-har", "-o", "%i %T").splitlines())

    def begin_now(self, job: str) -> None:
        """Let a job that is queued again begin at once, not in two minutes.

        Not in the second in which it ended: a node takes what was submitted before for what it was told to end.
        """
        time.sleep(2)
        self.run("scontrol", "update", f"jobid={job}", "starttime=now", check=False)  # it may have begun

    def start_node(self, name: str) -> None:
        """Start the slurmd of a node; it forks once it can be reached."""
        self.run("slurmd", "-N", name)

    def kill_node(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill the slurmd of a node. Its tasks live on until it is started again, or their job ends."""
        _end(self.folder / f"slurmd-{name}.pid", number)


@contextmanager
def start(folder: Path, max_array_size: int = 1001) -> Iterator[Cluster]:
    """A Slurm of two idle nodes, named `NODES`, with four processors each; it lives as long as the context.

    folder: an empty one for its configuration, state and logs. Its path must be short enough for a socket.
    """
    cluster = Cluster(folder)
    (folder / "state").mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    settings = CONFIGURATION.format(folder=folder, ports=_free_ports(3), max_array_size=max_array_size)
    (folder / "slurm.conf").write_text(settings)
    with ExitStack() as stack:
        stack.callback(_end, folder / "munged.pid")
        files = {
            "socket": "munge.socket",
            "pid-file": "munged.pid",
            "log-file": "munged.log",
            "seed-file": "munge.seed",
        }
        cluster.run(
            "munged", "--force", f"--key-file={key}", *(f"--{what}={folder / file}" for what, file in files.items())
        )
        stack.callback(_end, folder / "slurmctld.pid")
        cluster.run("slurmctld", "-c")
        for node in NODES:
            stack.callback(cluster.kill_node, node, signal.SIGTERM)
            cluster.start_node(node)
        end = time.monotonic() + PATIENCE
        while not _idle(cluster):
            if time.monotonic() > end:
                raise TimeoutError(f"no two idle nodes; the logs are in {folder}")
            time.sleep(0.2)
        stack.callback(_end_jobs, cluster)
        yield cluster


def _idle(cluster: Cluster) -> bool:
    try:
        return list(cluster.nodes().values()) == ["idle"] * len(NODES)
    except subprocess.CalledProcessError:  # slurmctld does not answer yet
        return False


def _end_jobs(cluster: Cluster) -> None:
    """No task may outlive its slurmd, which alone would end it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and (jobs := cluster.jobs()):
        cluster.run("scancel", *jobs, check=False)
        time.sleep(0.5)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _end(pid_file: Path, number: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal to the daemon that wrote this file, and wait for its end."""
    with suppress(FileNotFoundError, ProcessLookupError):
        pid = int(pid_file.read_text())
        os.kill(pid, number)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            time.sleep(0.05)
            os.kill(pid, 0)
        os.kill(pid, signal.SIGKILL)
