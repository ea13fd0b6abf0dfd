"""How stages start and end: one error line, several processes, and nobody left behind."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from frost.errors import InputError
from frost.pipeline.launch import LONGEST, run, spread_over_processes, summary, use_short_sockets
from frost.pipeline.processes.ending import SIGNALS
from frost.pipeline.processes.ranks import LAUNCHER
from tests.paths import ROOT
from tests.processes import alive, children, until


def test_an_input_error_is_one_line_and_a_bug_a_traceback(monkeypatch):
    pieces = []
    monkeypatch.setattr("sys.stderr", SimpleNamespace(write=pieces.append))

    def fail(error):
        raise error

    with pytest.raises(SystemExit) as ended:
        run(lambda: fail(InputError("scan.h5: is damaged")))
    assert ended.value.code == 1 and pieces == ["error: scan.h5: is damaged\n"], "in one piece, as ranks fail together"
    with pytest.raises(RuntimeError, match="a bug"):
        run(lambda: fail(RuntimeError("a bug")))


def test_a_summary_is_one_line_of_the_first_process(capsys, monkeypatch):
    with summary("prepare") as outcome:
        outcome |= {"volumes": 3, "": "nothing new"}
    monkeypatch.setenv("RANK", "1")
    with summary("prepare") as outcome:
        outcome["volumes"] = 3
    assert capsys.readouterr().out == "prepare: 3 volumes, nothing new\n"


WORK = """
import time
from frost.pipeline.processes.ending import end_if_orphaned
print("at work", flush=True)
while True:
    end_if_orphaned()
    time.sleep(0.05)
"""


def test_a_stage_ends_when_the_one_behind_its_shell_and_launcher_is_killed(tmp_path):
    """dvc -> sh -c -> a launcher of stages -> the stage: kill -9 of the first ends the last."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "__init__.py").touch()
    (tmp_path / "stages" / "work.py").write_text(WORK)
    launcher = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-m', 'stages.work']))"
    (tmp_path / "stages" / "launcher.py").write_text(launcher)
    like_dvc = tmp_path / "like_dvc.py"
    like_dvc.write_text(f"import subprocess; subprocess.call('{sys.executable} -m stages.launcher; true', shell=True)")
    process = subprocess.Popen(
        [sys.executable, like_dvc], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"at work\n"
    started = children(process)
    assert len(started) == 3
    process.kill()
    process.wait()
    process.stdout.close()
    until(lambda: not alive(started))


@pytest.mark.parametrize("code", [-signal.SIGKILL, 128 + signal.SIGKILL])
def test_a_rank_that_was_killed_is_told_by_the_launcher(monkeypatch, capsys, code):
    """Nobody else can: it had no time to print a line, and torchrun ends the others. No signal disturbs it then."""
    handlers = {}

    def launch(words):
        failed = ProcessFailure(local_rank=1, pid=7, exitcode=code, error_file="none")
        raise ChildFailedError("stage", {1: failed})

    monkeypatch.setattr("torch.distributed.run.run", launch)
    monkeypatch.setattr("signal.signal", handlers.__setitem__)
    monkeypatch.setenv(LAUNCHER, "")
    monkeypatch.setenv("PET_NPROC_PER_NODE", "2")
    with pytest.raises(SystemExit) as ended:
        spread_over_processes("prepare")
    assert ended.value.code == 1 and handlers == dict.fromkeys(SIGNALS, signal.SIG_IGN)
    assert capsys.readouterr().err.startswith("error: rank 1 was killed by SIGKILL; was there too little memory?")


def test_params_of_torchrun_start_ranks_whose_error_is_told_once_each(tmp_path):
    """Two ranks of a stage without params.yaml: its own line, not torchrun's thirty.

    The first may be that slow that torchrun stops it, as the second has failed.
    """
    command = [sys.executable, "-m", "stages.prepare", "--index", "i", "--source", "s", "--images", "o"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PET_NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    lines = set(done.stderr.splitlines()) - {"stopped: what was finished is kept; run `dvc repro` again"}
    assert lines == {"error: params.yaml: no such file; run from the folder that holds it"}


@pytest.mark.parametrize(
    "name, value",
    [
        ("PET_NPROC_PER_NODE", "two"),
        ("PET_NPROC_PER_NODE", "0"),
        ("PET_NPROC_PER_NODE", "-1"),
        ("PET_NPROC_PER_NODE", "xpu"),  # there is none
        ("PET_NNODES", "two"),
        ("PET_NNODES", "3:2"),
        ("PET_NODE_RANK", "first"),
        ("PET_MASTER_PORT", "http"),
        ("PET_RDZV_CONF", "timeout"),
        ("PET_RDZV_BACKEND", "none"),
    ],
)
def test_a_variable_of_torchrun_that_is_wrong_is_one_line_that_names_it(monkeypatch, capsys, name, value):
    for variable in (variable for variable in os.environ if variable.startswith("PET_")):
        monkeypatch.delenv(variable)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    monkeypatch.setenv(LAUNCHER, "")
    monkeypatch.setenv("PET_NNODES", "2")
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        spread_over_processes("prepare")
    said = capsys.readouterr().err
    assert ended.value.code == 1 and said.startswith("error: PET_") and said.count("\n") == 1, said
    assert f"{name}={value}" in said


def test_only_a_folder_too_long_for_sockets_is_replaced(monkeypatch, tmp_path):
    for folder, used in ((tmp_path / ("x" * LONGEST), "/tmp"), (Path("/var/tmp"), "/var/tmp")):
        folder.mkdir(exist_ok=True)
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr(tempfile, "tempdir", None)
        use_short_sockets()
        assert os.environ["TMPDIR"] == tempfile.gettempdir() == used


def failing(error):
    def main():
        raise error

    return main


def test_a_reader_killed_while_it_sent_a_batch_ends_in_one_line(capsys):
    """A pipe that somebody closed, as of `dvc repro | head`, is no such process."""
    with pytest.raises(SystemExit, match="1"):
        run(failing(ConnectionResetError()))
    assert capsys.readouterr().err.startswith("error: DataLoader worker killed")
    with pytest.raises(BrokenPipeError):
        run(failing(BrokenPipeError()))
