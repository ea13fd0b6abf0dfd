"""Names of unfinished files: they say which process of which host writes them, so that nobody removes what is alive.

A lock may hold on one host alone, or not at all. These names need none: a process of this host can be looked up by its
number and the time of its start. One of another host is alive while its file is touched, by the file server's clock.
"""

import functools
import hashlib
import os
import re
import socket
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

BEAT = 20.0  # seconds between two touches by a living process
SILENCE = 300.0  # seconds after which one of another host counts as dead. NFS shows a touch up to 60 s late


class Writer(NamedTuple):
    """A process: `host` as of `_host`, `start` as of `_start`."""

    host: str
    pid: int
    start: str

    def __str__(self) -> str:
        return f"process {self.pid} of {self.host.rpartition('-')[0]}"


def unfinished(name: str) -> str:
    """`name` with this process and a random number: no other process of any host has the same."""
    pid = os.getpid()
    return f"{name}.{_host()}.{pid}.{_start(pid)}.{uuid.uuid4().hex[:12]}"


def writer(name: str) -> Writer | None:
    """The process that made a name of `unfinished`; None for any other name."""
    found = re.fullmatch(r".*\.([\w-]+-[0-9a-f]{8})\.(\d+)\.(\d+)\.[0-9a-f]{12}", name, re.DOTALL)
    return Writer(found[1], int(found[2]), found[3]) if found else None


def is_left(path: Path) -> bool:
    """Whether nobody writes this file or folder any more: its process ended on this host, or was silent elsewhere."""
    made_by = writer(path.name)
    if made_by and made_by.host == _host():
        return not _runs(made_by)
    try:
        status = path.lstat()
        # A hard link has the mtime of its source, and a ctime of its own.
        # Not in the same folder: that of a claim must be empty before it can be taken.
        return server_time(path.parents[1]) - max(status.st_mtime, status.st_ctime) > SILENCE
    except OSError:  # it has gone, or this user may not look
        return False


def is_own(name: str) -> bool:
    """Whether this process made the name."""
    return writer(name) == Writer(_host(), os.getpid(), _start(os.getpid()))


def server_time(folder: Path) -> float:
    """The time now, in seconds since 1970, by the clock that dates the files in `folder`."""
    with tempfile.TemporaryFile(dir=folder) as fresh:
        return os.fstat(fresh.fileno()).st_mtime


@contextmanager
def beating(path: Path) -> Iterator[None]:
    """Touch `path` again and again meanwhile, so that other hosts know that this process is there."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT):
            with suppress(OSError):
                os.utime(path)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


@functools.cache
def _host() -> str:
    """Where process numbers count: a name for people, and a digest of this boot and of the container's numbers."""
    name = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname().partition(".")[0])[:32] or "host"
    facts = [socket.gethostname()]
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with suppress(OSError):
        facts.append(str(Path("/proc/self/ns/pid").readlink()))
    return f"{name}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:8]}"


@functools.lru_cache(maxsize=1)
def _start(pid: int) -> str:
    """When this process started, in ticks since the boot, which no correction of the clock moves."""
    return _status(pid)[1]


def _status(pid: int) -> tuple[str, str]:
    """State and start of a process. Raises OSError or psutil.Error where it is gone or hidden."""
    if Path("/proc/self/stat").exists():
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return state, fields[18]
    process = psutil.Process(pid)
    return ("Z" if process.status() == psutil.STATUS_ZOMBIE else "R"), str(int(process.create_time()))


def _runs(made_by: Writer) -> bool:
    """Whether a process of this host is there. Its number may be another's by now; a zombie writes no more."""
    try:
        os.kill(made_by.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    try:
        state, start = _status(made_by.pid)
    except (OSError, psutil.Error):  # hidden from this user, as some clusters do
        return True
    return state not in "ZX" and start == made_by.start
