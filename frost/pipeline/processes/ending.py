"""How a process ends before its work is done: with one line, and with all the processes that it started."""

import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from types import FrameType
from typing import NoReturn

import psutil

from frost.pipeline.processes.ranks import rank

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 5  # seconds that a process has to end by itself
KEPT = "what was finished is kept"

_kept = KEPT


def fail(message: str) -> NoReturn:
    """End with an error line in one piece. `sys.exit` writes its end apart, and ranks that fail together mix theirs."""
    sys.stderr.write(f"error: {message}\n")
    sys.exit(1)


def kept_so_far(what: str) -> None:
    """Set what the last line will say if this process is stopped from now on."""
    global _kept
    _kept = what


def end_on_signals(advice: str) -> None:
    """From now on Ctrl-C, SIGTERM and a closed terminal end this process and its children, with status 130, 143 or 129.

    advice: the end of the line that is then written

    At once, without unwinding: an exception would come up wherever the code is, where a library may print or swallow
    it. Nothing needs to be unwound, as all that Frost writes survives even `kill -9`. Python itself gives signals their
    default actions back just before it ends: a process whose work is done would be told as killed. So it ignores them
    from its last function on, and ends with the status that it has.
    """
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # forked, for a DataLoader: Ctrl-C is for the process that forked it
            if number != signal.SIGINT:
                os._exit(128 + number)
            return
        ignore_signals()
        end_children()
        if rank() == 0:
            start = "\n" if os.isatty(2) else ""  # after a progress bar, or the terminal's ^C
            with suppress(OSError):
                os.write(2, f"{start}stopped: {_kept}; {advice}\n".encode())
        os._exit(128 + number)

    for one in heeded_signals():
        signal.signal(one, end)
    atexit.register(ignore_signals)
    # Python's tracker of semaphores ends after this process, and would report those of a pool as forgotten.
    quiet, before = "ignore:resource_tracker", os.environ.get("PYTHONWARNINGS", "")
    if quiet not in before:
        os.environ["PYTHONWARNINGS"] = f"{before},{quiet}" if before else quiet


def heeded_signals() -> list[signal.Signals]:
    """Those that end a process, without what it was told to ignore, as `nohup` does."""
    return [one for one in SIGNALS if signal.getsignal(one) != signal.SIG_IGN]


def ignore_signals() -> None:
    """From now on this process ends as it would without them. Python leaves this as it is when it ends."""
    for one in SIGNALS:
        signal.signal(one, signal.SIG_IGN)


def end_children() -> None:
    """Parents first, so that none finds its own child dead. The tracker of semaphores ends last, by itself."""
    children = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "multiprocessing.resource_tracker" not in " ".join(child.cmdline()):
                child.terminate()
                children.append(child)
    for child in psutil.wait_procs(children, timeout=PATIENCE)[1]:
        with suppress(psutil.Error):
            child.kill()


@contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Processes that are started within never get Ctrl-C: the process that started them gets it, and ends them."""
    resource_tracker.ensure_running()  # which Python starts with the first process, and unblocks SIGINT here
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_if_orphaned() -> None:
    """End this process when the one that started it is gone: nobody waits for its work any more.

    `kill -9` of `dvc` leaves its stage running; without this the next `dvc repro` would meet it. Of the processes that
    find it out together the first writes a line.
    """
    try:
        orphaned = any(psutil.Process(child).ppid() != parent for child, parent in _STARTED_BY)
    except psutil.NoSuchProcess:
        orphaned = True
    except psutil.AccessDenied:  # other people's processes are hidden on some clusters
        orphaned = False
    if orphaned:
        first = rank() == 0 and multiprocessing.parent_process() is None
        sys.exit(f"ended: the process that started this one is gone; {KEPT}" if first else 1)


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
