"""How a stage starts and ends: on how many processes, with which error line, and not without the one who started it."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import psutil

from frost.errors import InputError

DISTRIBUTED = ("prepare", "train_varnet", "cache_varnet", "train_rcan")  # the others take seconds


def spread_over_processes(stage: str) -> None:
    """Become torchrun on the same module where its own variables ask for more than one process; does not return then.

    `PET_NPROC_PER_NODE=8 dvc repro` trains on 8 devices, and with `PET_NNODES=2` and its companions the same line
    started on two machines on both, by command lines in dvc.yaml that know nothing of either: DVC sees no change.
    """
    several = any(os.environ.get(name, "1") not in ("", "1") for name in ("PET_NPROC_PER_NODE", "PET_NNODES"))
    if stage not in DISTRIBUTED or not several or "LOCAL_RANK" in os.environ:
        return
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    # torchrun tells of a failed rank in thirty lines; the rank itself has told it in one.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        main(["-m", f"stages.{stage}", *sys.argv[1:]])
    except ChildFailedError as error:
        killed = [failure for failure in error.failures.values() if failure.exitcode < 0]
        if killed and len(killed) == len(error.failures):  # no rank lived to say why
            name = signal.Signals(-killed[0].exitcode).name
            fail(f"rank {killed[0].local_rank} was killed by {name}; was there too little memory? "
                 "Run it again: what was finished is kept")  # fmt: skip
        sys.exit(1)
    sys.exit(0)


def run(main: Callable[[], None]) -> None:
    """Run the `main` of a stage: an InputError is one line on stderr and exit status 1, anything else a traceback.

    One line too where a process of a DataLoader raised it, or was killed: torch tells of either in many.
    """
    try:
        main()
    except InputError as error:
        fail(str(error).rstrip().splitlines()[-1].removeprefix("frost.errors.InputError: "))
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        text = str(error).strip().rstrip(".")
        fail(f"{text}; was there too little memory? Run it again: what was finished is kept")
    except KeyboardInterrupt:
        sys.exit(130)


def fail(message: str) -> NoReturn:
    """End with an error line in one piece. `sys.exit` writes its end apart, and ranks that fail together mix theirs."""
    sys.stderr.write(f"error: {message}\n")
    sys.exit(1)


def end_if_orphaned() -> None:
    """End this process, quietly, when the one that started it is gone: nobody waits for its work any more.

    `kill -9` of `dvc` leaves its stage running; without this the next `dvc repro` would meet it.
    """
    try:
        orphaned = any(psutil.Process(child).ppid() != parent for child, parent in _STARTED_BY)
    except psutil.NoSuchProcess:
        orphaned = True
    except psutil.AccessDenied:  # other people's processes are hidden on some clusters
        orphaned = False
    if orphaned:
        sys.exit("ended: the process that started this one is gone; what was finished is kept")


def _started_by() -> list[tuple[int, int]]:
    """Pairs of child and parent, from this process to the one that wants its work: past torchrun and `sh -c`."""
    pairs, process = [], psutil.Process()
    with suppress(psutil.Error):  # one that has just ended, or that this user may not look at
        while parent := process.parent():
            pairs.append((process.pid, parent.pid))
            command = parent.cmdline()
            if "-c" not in command[1:2] and not any(word.startswith("stages.") for word in command):
                break
            process = parent
    return pairs


_STARTED_BY = _started_by()


@contextmanager
def summary(stage: str) -> Iterator[dict[str, object]]:
    """Collects what a stage wants to say and prints it as one line at the end, on the main process alone."""
    facts: dict[str, object] = {}
    yield facts
    if os.environ.get("RANK", "0") == "0":
        text = ", ".join(f"{value} {name}" if name else str(value) for name, value in facts.items())
        sys.stdout.write(f"{stage}: {text}\n")
