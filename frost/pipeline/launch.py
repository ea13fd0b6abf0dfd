"""How a stage starts, on how many processes, and with which line it ends."""

import io
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr

from frost.errors import InputError
from frost.pipeline.processes.allocation import LOST, name_this_node, spread_over_nodes
from frost.pipeline.processes.ending import KEPT, PATIENCE, end_on_signals, fail, heeded_signals, ignore_signals
from frost.pipeline.processes.executor import EXECUTOR, executor
from frost.pipeline.processes.ranks import LAUNCHER, forget_other_launchers, is_rank, rank

DISTRIBUTED = ("prepare", "train_varnet", "cache_varnet", "train_rcan", "evaluate")  # the others take seconds
HEAVY = ("simulate", "evaluate")  # too much for a login node, and nothing of it is in the store
BEREFT = 76  # the status of a process of a group that has lost another
AGAIN = "run `dvc repro` again"
LONGEST = 70  # bytes of a folder, in which processes then have sockets with 32 more; a socket's path may have 103


def begin(stage: str) -> None:
    """What `python -m stages.<stage>` does before it loads any library; in a launcher of ranks it does not return."""
    end_on_signals(AGAIN)
    world = forget_other_launchers()
    use_short_sockets()
    if stage in {*DISTRIBUTED, *HEAVY} and work_elsewhere(stage):
        return
    if stage in DISTRIBUTED and not is_rank():
        spread_over_nodes(stage)
        if any(os.environ.get(name, "1") not in ("", "1") for name in ("PET_NPROC_PER_NODE", "PET_NNODES")):
            spread_over_processes(stage)
        if world > 1:
            sys.stderr.write(
                f"{stage}: WORLD_SIZE={world} was set by another program and is ignored; "
                f"PET_NPROC_PER_NODE={world} would start {world} processes\n"
            )


def work_elsewhere(stage: str) -> bool:
    """Whether an executor does this stage's work, so that it is one process here; does not return where it does all."""
    try:
        elsewhere = executor()
    except InputError as error:
        fail(str(error))
    if elsewhere is None:
        return False
    if stage in HEAVY:
        elsewhere.run_stage(stage)
    if given := [name for name in os.environ if name.startswith("PET_")]:
        sys.stderr.write(
            f"{stage}: {', '.join(given)} is ignored with {EXECUTOR}: a job has a process for each of its gpus\n"
        )
    return True


def use_short_sockets() -> None:
    """Let temporary files go to /tmp where the path of a socket in their folder would be too long for the system."""
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST and os.access("/tmp", os.W_OK | os.X_OK):
        os.environ["TMPDIR"] = tempfile.tempdir = "/tmp"


def spread_over_processes(stage: str) -> None:
    """Become torchrun on the same module, as its own variables ask for; does not return.

    `PET_NPROC_PER_NODE=8 dvc repro` trains on 8 devices, and with `PET_NNODES=2` and its companions the same line
    started on two machines on both, by command lines in dvc.yaml that know nothing of either: DVC sees no change.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError

    given = ", ".join(f"{name}={value}" for name, value in os.environ.items() if name.startswith("PET_"))
    logging.disable()  # torchrun tells of a failed rank in thirty lines; the rank itself has told it in one
    signals = heeded_signals()
    name_this_node()
    options = [f"--signals-to-handle={','.join(one.name for one in signals)}", f"--shutdown-timeout={2 * PATIENCE}"]
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            words = torchrun.parse_args([*options, "-m", f"stages.{stage}", *sys.argv[1:]])
            if torchrun.config_from_args(words)[0].nproc_per_node < 1:
                raise ValueError("one process at least is needed")
    except (SystemExit, ValueError, AssertionError, RuntimeError) as error:
        text = told.getvalue() if isinstance(error, SystemExit) else str(error)
        what = text.strip().rstrip(".").splitlines()[-1]
        fail(f"{given}: {what}; PET_NPROC_PER_NODE is a number of processes, cpu, gpu or auto, "
             "and `torchrun --help` lists the others")  # fmt: skip
    os.environ[LAUNCHER] = str(os.getpid())
    for one in signals:  # until torchrun has ranks to pass them on to; no handler runs in its wait for other nodes
        signal.signal(one, signal.SIG_DFL)
    try:
        try:
            torchrun.run(words)
        finally:
            ignore_signals()  # for torchrun's handlers raise, and the ranks have ended
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        codes = {failure.local_rank: failure.exitcode for failure in error.failures.values()}
        if set(codes.values()) == {BEREFT}:
            fail(f"{LOST[0]}. Run it again: {KEPT}")
        codes = {number: code for number, code in codes.items() if code != BEREFT}
        killed = {number: -code if code < 0 else code - 128 for number, code in codes.items() if not 0 <= code <= 128}
        if killed and len(killed) == len(codes):  # no rank lived to say why
            number, by = next(iter(killed.items()))
            place = f" of {node}" if (node := os.environ.get("PET_LOCAL_ADDR")) else ""
            fail(f"rank {number}{place} was killed by {signal.Signals(by).name}; was there too little memory? "
                 "Run it again: what was finished is kept")  # fmt: skip
        sys.exit(1)
    except (RendezvousError, RuntimeError, ValueError, OSError) as error:
        fail(f"{given}: {str(error).strip().splitlines()[0]}")
    sys.exit(0)


def run(main: Callable[[], None]) -> None:
    """Run the `main` of a stage: an InputError is one line on stderr and exit status 1, anything else a traceback.

    One line too where a process of a DataLoader raised it, or was killed: torch tells of either in many.
    """
    try:
        main()
        if "torch" in sys.modules:
            from frost.pipeline.processes.sharing import leave_group

            leave_group()
    except InputError as error:
        fail(str(error).rstrip().splitlines()[-1].removeprefix("frost.errors.InputError: "))
    except RuntimeError as error:
        if "gloo/transport" in str(error) or type(error).__name__ in ("DistBackendError", "DistNetworkError"):
            sys.exit(BEREFT)  # of another process, which has said why it ended, or whose launcher does
        if not str(error).startswith("DataLoader worker"):
            raise
        text = str(error).strip().rstrip(".")
        fail(f"{text}; was there too little memory? Run it again: {KEPT}")
    except (ConnectionResetError, ConnectionRefusedError):  # of a process that was killed while it sent a batch
        fail(f"DataLoader worker killed while it sent a batch; was there too little memory? Run it again: {KEPT}")


@contextmanager
def summary(stage: str) -> Iterator[dict[str, object]]:
    """Collects what a stage wants to say and prints it as one line at the end, on the main process alone."""
    facts: dict[str, object] = {}
    yield facts
    if rank() == 0:
        text = ", ".join(f"{value} {name}" if name else str(value) for name, value in facts.items())
        sys.stdout.write(f"{stage}: {text}\n")
