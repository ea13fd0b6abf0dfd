"""How a process ends before its work is done: with one line, and with all the processes that it started."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from types import FrameType
from typing import NoReturn

import psutil

from frost.pipeline.ranks import rank

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 5  # seconds that a process has to end by itself
KEPT = "what was finished is kept"

_kept: str | None = KEPT


def fail(message: str) -> NoReturn:
    """End with an error line in one piece. `sys.exit` writes its end apart, and ranks that fail together mix theirs."""
    sys.stderr.write(f"error: {message}\n")
    sys.exit(1)


def kept_so_far(what: str | None) -> None:
    """Set what the last line will say if this process is stopped from now on; None for no line."""
    global _kept
    _kept = what


def end_on_signals(advice: str) -> None:
    """From now on Ctrl-C, SIGTERM and a closed terminal end this process and its children, with status 130, 143 or 129.

    advice: the end of the line that is then written

    At once, without unwinding: an exception would come up wherever the code is, where a library may print or swallow
    it. Nothing needs to be unwound, as all that Frost writes survives even `kill -9`. What was ignored stays ignored,
    as `nohup` wants it. A thread helps where the main one is in a long call of a library, as in a wait for other ranks.
    """
    caught = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    ended_by: dict[str, int] = {}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def end(number: int, frame: FrameType | None = None) -> None:
        me = threading.get_ident()
        if ended_by.get("thread") == me:  # a second signal
            return
        while ended_by.setdefault("thread", me) != me:
            time.sleep(1)
        _end_children()
        if _kept is not None and rank() == 0:
            start = "\n" if os.isatty(2) else ""  # after a progress bar, or the terminal's ^C
            with suppress(OSError):
                os.write(2, f"{start}stopped: {_kept}; {advice}\n".encode())
        os._exit(128 + number)

    def watch() -> None:
        while (number := os.read(reader, 1)[0]) not in caught:
            pass
        end(number)

    def as_forked() -> None:  # a process of a DataLoader: Ctrl-C is for the one that forked it
        signal.set_wakeup_fd(-1)
        for number in caught:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)

    for number in caught:
        signal.signal(number, end)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=as_forked)
    threading.Thread(target=watch, daemon=True).start()
    # Python's tracker of semaphores ends after this process, and would report those of a pool as forgotten.
    quiet = "ignore:resource_tracker"
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), quiet)))


def _end_children() -> None:
    """Parents first, so that none finds its own child dead. The tracker of semaphores ends last, by itself."""
    children = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "resource_tracker" not in " ".join(child.cmdline()):
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
