"""`frost sweep` as a job array of a real Slurm."""

import json
import re
import signal
import subprocess

import pytest

from tests.processes import until
from tests.sweeps import toy

CLUSTER = """
job: {partition: null, time: 60, gpus: 0, cpus: 1, memory: null, volumes: 100, parallel: 2, options: []}
"""
LINE = ("-S", "train.fit.seed=0,1", "-S", "train.network.features=4,0")


@pytest.fixture
def project(slurm, tmp_path):
    made = toy(tmp_path / "toy", FROST_EXECUTOR="slurm", SLURM_CONF=slurm.environment["SLURM_CONF"])
    (made.folder / "cluster.yaml").write_text(CLUSTER)
    return made


def scores(project):
    shown = json.loads(project.run("dvc", "exp", "show", "--json"))[1]["experiments"] or []
    return {one["name"]: one["revs"][0]["data"]["metrics"]["score.json"]["data"]["score"] for one in shown}


def test_a_line_is_one_array_that_survives_who_waits_and_a_task_that_is_killed(slurm, project):
    waits = subprocess.Popen(
        ["python", "-m", "frost", "sweep", *LINE], cwd=project.folder, env=project.env() | project.environment,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: "RUNNING" in slurm.jobs().values(), seconds=300)
    waits.send_signal(signal.SIGINT)
    said = waits.communicate(timeout=120)[1]
    (job,) = re.findall(r"^4 experiments are job (\d+), an array of 4 tasks; logs in ", said, re.MULTILINE)
    assert f"stopped: job {job} goes on in the queue: the same line joins it" in said and waits.returncode == 130
    running = next(number for number, state in slurm.jobs().items() if state == "RUNNING")
    assert running.startswith(f"{job}_")
    slurm.run("scancel", "--full", "-s", "KILL", running)

    said = project.sweep(*LINE, status=1)
    assert f"joins job {job}, which runs this sweep" in said
    assert re.search(r"^1 experiments are job \d+, an array of 1 tasks", said, re.MULTILINE)  # the one that was killed
    for seed in (0, 1):
        assert f"error: seed={seed},features=0: params.yaml: train.network.features: 0 is too few\n" in said
    assert "error: 2 of 4 experiments failed" in said
    assert scores(project) == {"seed=0,features=4": 40, "seed=1,features=4": 41}
    assert project.git("status", "--porcelain") == "?? cluster.yaml\n"
