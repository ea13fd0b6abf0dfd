"""Processes of their own, and what they leave behind."""

import subprocess
import sys
import textwrap
import time

from tests.paths import ROOT


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def leftovers(store):
    return list((store.root / "tmp").glob("*"))


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.02)


def run(module, code, *args, **options):
    """A process of its own that runs `code` with what that module of tests has, and `sys`, `time` and `Path`."""
    script = f"import sys, time\nfrom pathlib import Path\nfrom {module} import *\n" + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", script, *map(str, args)], cwd=ROOT, **options)
