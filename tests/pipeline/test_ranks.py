"""Variables of a launcher count where that launcher is the parent, and nowhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from frost.pipeline.processes.ranks import LAUNCHER, OTHERS, OURS, forget_other_launchers, is_rank
from tests.paths import ROOT

A_RANK = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
A_RANK |= {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none"}
STRANGERS = {"ACCELERATE_MIXED_PRECISION": "fp16", "ACCELERATE_USE_FSDP": "true", "PMI_SIZE": "4", "PMI_RANK": "3"}
STRANGERS |= {"OMPI_COMM_WORLD_SIZE": "4", "MV2_COMM_WORLD_SIZE": "4", "FORK_LAUNCHED": "1"}


@pytest.fixture
def environment(monkeypatch):
    """One of a process that was started by a rank, or by `accelerate launch`."""
    names = A_RANK | STRANGERS
    for name in [name for name in os.environ if name.startswith((*OURS, *OTHERS))]:
        monkeypatch.delenv(name)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    return lambda: {name: os.environ[name] for name in names if name in os.environ}


def test_what_a_shell_has_inherited_is_removed(environment, monkeypatch):
    monkeypatch.setenv(LAUNCHER, "1")  # of a launcher that is not the parent
    assert forget_other_launchers() == 2 and environment() == {}
    assert forget_other_launchers() == 1


def test_a_rank_keeps_what_is_its_own(environment, monkeypatch):
    monkeypatch.setenv(LAUNCHER, str(os.getppid()))
    assert is_rank() and forget_other_launchers() == 1 and environment() == A_RANK


WORK = """
import os
from frost.pipeline.processes.ranks import forget_other_launchers, is_rank
forget_other_launchers()
os.write(1, f"{is_rank()} {os.environ.get('RANK')}\\n".encode())
"""


@pytest.mark.parametrize(
    "command, said",
    [
        (("-m", "torch.distributed.run", "--nproc-per-node=2", "work.py"), {"True 0", "True 1"}),
        ((str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node=2", "work.py"), {"True 0", "True 1"}),
        (("work.py",), {"False None"}),
    ],
)
def test_a_torchrun_by_hand_makes_ranks(tmp_path, command, said):
    (tmp_path / "work.py").write_text(WORK)
    inherited = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RANK": "7", "TORCHELASTIC_RUN_ID": "none"}
    run = subprocess.run([sys.executable, *command], cwd=tmp_path, env=os.environ | inherited, stdout=subprocess.PIPE)
    assert run.returncode == 0 and set(run.stdout.decode().splitlines()) == said


def test_no_other_module_reads_what_a_launcher_sets():
    own = ROOT / "frost" / "pipeline" / "processes" / "ranks.py"
    for file in [file for folder in ("frost", "stages") for file in (ROOT / folder).rglob("*.py") if file != own]:
        for name in ('"RANK"', '"LOCAL_RANK"', '"WORLD_SIZE"', '"LOCAL_WORLD_SIZE"'):
            assert name not in file.read_text(), file
