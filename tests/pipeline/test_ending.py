"""Ctrl-C and SIGTERM in real stages: one line, no traceback, nobody left, and the next run goes on."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from ruamel.yaml import YAML

from frost.pipeline.processes import ending
from tests.paths import ROOT
from tests.processes import PATIENCE, alive, children, is_worker, until
from tests.soak import VOLUMES, Workspace

STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
STOPPED = "stopped: what was finished is kept; run `dvc repro` again\n"
PAGE = os.sysconf("SC_PAGESIZE")


def beside_progress(stage, said):
    """What a stage wrote on stderr beside the lines of its progress."""
    return "".join(line for line in said.splitlines(keepends=True) if not line.startswith(f"{stage}: "))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("stage", ["simulate", "train_rcan"])
def test_a_stage_is_stopped_while_it_loads_its_libraries(tmp_path, stage, number):
    """Python itself names each module that it has loaded; the first of Frost's are there after some milliseconds.

    A pipe of one page: it cannot load much more than what was read of it.
    """
    run = subprocess.Popen(
        [sys.executable, "-X", "importtime", *STAGES[stage]["cmd"].split()[1:]], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True, pipesize=PAGE,
    )  # fmt: skip
    for line in run.stderr:
        if line.endswith(" stages\n"):
            break
    n_more = random.randrange(300)
    for _ in range(n_more):
        run.stderr.readline()
    run.send_signal(number)
    said = "".join(line for line in run.stderr if not line.startswith("import time:"))
    assert run.wait(PATIENCE) == 128 + number and said == STOPPED, f"after {n_more} modules: {said}"
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
        until(lambda: run.poll() is not None or any(map(is_worker, children(run))))  # noqa: B023
        time.sleep(random.uniform(0, 3))
        started = children(run)
        with suppress(ProcessLookupError):
            os.killpg(run.pid, number)
        _, said = run.communicate(timeout=PATIENCE)
        assert run.returncode in (128 + number, 0), said  # 0: its work was done
        assert beside_progress(stage, said) in ("", STOPPED), said
        until(lambda: not alive(started))  # noqa: B023
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0 and not beside_progress(stage, done.stderr), done.stderr
    assert re.search(r"(\d+) slices computed", done.stdout) and work.finished(stage) == sum(VOLUMES)
    assert not list(work.store.root.glob("tmp/*"))


LAST_MOMENT = """
import os, sys
from frost.pipeline.processes.ending import end_on_signals

class Last:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=int(sys.argv[1])):
        kill(pid, number)

end_on_signals("run it again")
last = Last()
print("done")
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize("status", [0, 1])
@pytest.mark.parametrize("number", ending.SIGNALS)
def test_a_signal_while_python_takes_itself_apart_changes_nothing(number, status):
    """It removes its modules, and with them this object, when it has given signals their default actions back."""
    command = [sys.executable, "-c", LAST_MOMENT, str(int(number)), str(status)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (status, "done\n", "")


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
