"""A job is queued again where it was stopped, has done something, and may go on."""

import os
import signal
import subprocess
import sys

import pytest

from frost.cluster.requeue import AGAIN
from tests.paths import ROOT
from tests.processes import PATIENCE

STAGE = """
import os, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda number, frame: os._exit(143))
if "progress" in sys.argv:
    Path(os.environ["FROST_STORE"], "prepare", "ab").mkdir(parents=True)
print("at work", flush=True)
time.sleep(float(sys.argv[-1]))
"""
#: like DVC: it starts a stage by a shell, notes how that ended, and would die of SIGTERM without a word
LIKE_DVC = (
    "import subprocess, sys; n = subprocess.call(sys.argv[1] + '; exit $?', shell=True); print(n); sys.exit(n != 0)"
)


@pytest.fixture
def job(tmp_path):
    """Starts a `frost job` where `squeue` and `scontrol` write what they are told to."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "__init__.py").touch()
    (tmp_path / "stages" / "work.py").write_text(STAGE)

    def start(work, squeue="echo 5", scontrol="true", seconds=600):
        for name, does in (("squeue", squeue), ("scontrol", f'echo "$@" >> {tmp_path}/asked; {scontrol}')):
            (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
            (tmp_path / name).chmod(0o755)
        command = [sys.executable, "-c", LIKE_DVC, f"{sys.executable} -m stages.work {work} {seconds}"]
        own = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "FROST_STORE": str(tmp_path / "store")}
        own |= {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "SLURM_JOB_ID": "5"}
        return subprocess.Popen(
            [sys.executable, "-m", "frost", "job", *command], cwd=tmp_path, env=os.environ | own,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    return start


@pytest.mark.parametrize(
    "work, squeue, scontrol, asked, said",
    [
        ("progress", "echo 5", "true", "requeue 5\n", "job 5 is queued again"),
        ("none", "echo 5", "true", "", "nothing was finished in this time, so the job is not queued again; "),
        ("progress", "true", "true", "", "run it again"),  # being cancelled: it runs no more
        ("progress", "echo 5", "echo Job may not >&2; exit 1", "requeue 5\n", "submit it again (scontrol: Job may"),
    ],
)
def test_a_stopped_job_asks_to_begin_again(job, tmp_path, work, squeue, scontrol, asked, said):
    """Its stage alone gets the signal: what started the stage lives to see it end."""
    process = job(work, squeue, scontrol)
    assert process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == AGAIN and out == "143\n" and err.startswith(f"stopped by SIGTERM: {said}"), err
    assert err.count("\n") == 1
    assert (tmp_path / "asked").exists() == bool(asked) and (not asked or (tmp_path / "asked").read_text() == asked)


@pytest.mark.parametrize("seconds, status", [("0", 0), ("x", 1)])
def test_a_job_that_ends_by_itself_ends_as_its_command(job, tmp_path, seconds, status):
    process = job("progress", seconds=seconds)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == status and not (tmp_path / "asked").exists()
