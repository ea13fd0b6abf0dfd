"""What happens to real stages: killed at random moments, out of disk, from a store that can only be read, together."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.soak import CACHES, ROOT, SLICES, VOLUMES, Workspace

pytestmark = pytest.mark.faults
N_SLICES = SLICES * sum(VOLUMES)


@pytest.fixture
def work():
    folder = Path(tempfile.mkdtemp(prefix="frost-faults-"))  # whose parents anyone may enter
    made = Workspace(folder)
    made.furnish()
    yield made
    shutil.rmtree(folder)


def start(work, stage, place="", **options):
    """The stage as a process, in a workspace of that store."""
    return subprocess.Popen(
        [sys.executable, "-m", f"stages.{stage}", *work.arguments[stage]],
        cwd=work.at(place), env=os.environ | work.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, **options,
    )  # fmt: skip


def computed(said):
    return int(re.findall(r"(\d+) slices computed", said)[-1])


def test_ten_kills_at_random_moments():
    """`make soak` is the long form. The seed is in the output of a failure."""
    command = [sys.executable, "-m", "tests.soak", "--kills", "8", "--commands", "2"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["kills"] >= 10 and said["runs that ended as undisturbed"] >= 10


def test_a_full_disk_and_two_runs_at_once(work):
    """One line says what is wrong; when there is room again, two runs in two workspaces share what is left to do."""
    limited = start(work, "prepare", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)))
    said, _ = limited.communicate(timeout=120)
    assert limited.returncode == 1 and said.count("\n") == 1 and "File too large" in said, said
    assert not list(work.store.root.glob("tmp/*")) and not work.finished("prepare")

    runs = [start(work, "prepare", place) for place in ("", "b")]
    said = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert work.digest("prepare") == work.digest("prepare", "b") and work.finished("prepare") == sum(VOLUMES)
    assert not work.store.damaged() and not list(work.store.root.glob("tmp/*"))


# The superuser may write everywhere, and nobody else may read where Python lies: all is loaded first.
AS_NOBODY = """
import os, sys
from stages import prepare
if os.geteuid() == 0:
    os.seteuid(65534)
prepare.main(sys.argv[1:])
"""


def test_a_store_that_can_only_be_read_is_enough(work):
    first = start(work, "prepare")
    assert computed(first.communicate(timeout=120)[0]) == N_SLICES
    want = work.digest("prepare")
    shutil.rmtree(work.folder / CACHES["prepare"])
    for path in (work.store.root, *work.store.root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.geteuid() == 0:
        for path in (work.folder, work.folder / "data"):
            os.chown(path, 65534, -1)
    again = subprocess.Popen(
        [sys.executable, "-c", AS_NOBODY, *work.arguments["prepare"]], cwd=work.folder,
        env=os.environ | work.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said, _ = again.communicate(timeout=120)
    assert again.returncode == 0 and computed(said) == 0, said
    assert work.digest("prepare") == want
    for path in (work.store.root, *work.store.root.rglob("*")):
        path.chmod(0o755)
