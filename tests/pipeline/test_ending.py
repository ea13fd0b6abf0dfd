"""Ctrl-C and SIGTERM in real stages: one line, no traceback, nobody left, and the next run goes on."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
from ruamel.yaml import YAML

from frost.pipeline.processes import ending
from tests.paths import ROOT
from tests.processes import until
from tests.soak import VOLUMES, Workspace

STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
STOPPED = "stopped: what was finished is kept; run `dvc repro` again\n"


def alive(processes):
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def is_worker(process):
    return "spawn_main" in " ".join(command_of(process))


def beside_progress(stage, said):
    """What a stage wrote on stderr beside the lines of its progress."""
    return "".join(line for line in said.splitlines(keepends=True) if not line.startswith(f"{stage}: "))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("stage", ["simulate", "train_rcan"])
def test_a_stage_is_stopped_while_it_loads_its_libraries(tmp_path, stage, number):
    """Python itself names each module that it has loaded; the first of Frost's are there after some milliseconds."""
    run = subprocess.Popen(
        [sys.executable, "-X", "importtime", *STAGES[stage]["cmd"].split()[1:]], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in run.stderr:
        if line.endswith(" stages\n"):
            break
    for _ in range(random.randrange(300)):
        run.stderr.readline()
    run.send_signal(number)
    said = "".join(line for line in run.stderr if not line.startswith("import time:"))
    assert run.wait(60) == 128 + number and said == STOPPED, said
    run.stderr.close()


@pytest.mark.faults
@pytest.mark.parametrize("ranks", ["1", "2"])
@pytest.mark.parametrize("stage", ["prepare", "cache_varnet"])
def test_a_stage_is_stopped_at_work_with_all_its_processes(tmp_path, stage, ranks):
    """Ctrl-C and SIGTERM to the whole group, as a terminal and a scheduler send them, one after the other."""
    work = Workspace(tmp_path)
    work.furnish()
    command = [sys.executable, "-m", f"stages.{stage}", *work.arguments[stage]]
    options = {"cwd": tmp_path, "env": os.environ | work.environment | {"PET_NPROC_PER_NODE": ranks}}
    for number in (signal.SIGINT, signal.SIGTERM):
        run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, **options)
        # Or it has ended: with most volumes kept by the run before it needs no process.
        until(lambda: run.poll() is not None or any(map(is_worker, children(run))), 120)  # noqa: B023
        time.sleep(random.uniform(0, 3))
        started = children(run)
        with suppress(ProcessLookupError):
            os.killpg(run.pid, number)
        _, said = run.communicate(timeout=60)
        if run.returncode:  # else it was quicker
            assert run.returncode == 128 + number and beside_progress(stage, said) in ("", STOPPED), said
        until(lambda: not alive(started))  # noqa: B023
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0 and not beside_progress(stage, done.stderr), done.stderr
    assert re.search(r"(\d+) slices computed", done.stdout) and work.finished(stage) == sum(VOLUMES)
    assert not list(work.store.root.glob("tmp/*"))


def children(run):
    try:
        return psutil.Process(run.pid).children(recursive=True)
    except psutil.NoSuchProcess:  # it has ended
        return []


def command_of(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_what_was_to_be_ignored_stays_ignored():
    """As `nohup` wants it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in ending.heeded_signals() and signal.SIGTERM in ending.heeded_signals()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_processes_that_are_started_without_ctrl_c_have_it_blocked():
    code = "import signal, os; os.kill(os.getpid(), signal.SIGINT); print('alive')"
    for guarded, said in ((True, "alive\n"), (False, "")):
        command = [sys.executable, "-c", code]
        if guarded:
            with ending.without_ctrl_c():
                done = subprocess.run(command, capture_output=True, text=True)
        else:
            done = subprocess.run(command, capture_output=True, text=True)
        assert done.stdout == said
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
