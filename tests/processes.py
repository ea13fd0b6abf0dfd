"""Processes of their own, and what they leave behind."""

import random
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests.paths import ROOT

PATIENCE = 900  # seconds for what takes a moment on an idle machine: a limit is for what would never end


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def leftovers(store):
    return list((store.root / "tmp").glob("*"))


def until(condition, seconds=PATIENCE, pause=0.05):
    """Wait until it gives something true, and give that."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "never came true"
        time.sleep(pause)
    return result


def alive(processes):
    """Those that run: not those that have ended and that nobody has waited for."""
    return [one for one in processes if status_of(one) not in (None, psutil.STATUS_ZOMBIE)]


def status_of(process):
    with suppress(psutil.NoSuchProcess):  # it may end at any moment
        return process.status()


def command_of(process):
    """Its words; none where it has ended."""
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def children(process):
    """All that it has started; none where it has ended."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def is_worker(process):
    """Whether multiprocessing started it to work, not to count semaphores."""
    return "spawn_main" in " ".join(command_of(process))


def folder_for_all(prefix):
    """A new one that other users may enter: TMPDIR may be this user's alone."""
    places = map(Path, (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"))
    place = next(one for one in places if all(path.stat().st_mode & 0o001 for path in (one, *one.parents)))
    return Path(tempfile.mkdtemp(prefix=prefix, dir=place))


def free_port():
    """Below those that systems give to connections, so that nobody gets it before it is used."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def run(module, code, *args, **options):
    """A process of its own that runs `code` with what that module of tests has, and `sys`, `time` and `Path`."""
    script = f"import sys, time\nfrom pathlib import Path\nfrom {module} import *\n" + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", script, *map(str, args)], cwd=ROOT, **options)
