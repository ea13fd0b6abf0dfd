"""`frost sweep` as a job array of a real Slurm."""

import json
import re
import shutil
import signal
import subprocess

import pytest

from tests.cluster.slurm import until
from tests.sweeps import toy
from tests.test_pipeline import Repository, finished, repository  # noqa: F401  # fixtures

CLUSTER = """
job: {partition: null, time: 60, gpus: 0, cpus: 1, memory: null, volumes: 100, parallel: 2, options: []}
"""
LINE = ("-S", "train.fit.seed=0,1", "-S", "train.network.features=4,0")


@pytest.fixture
def project(slurm, tmp_path):
    made = toy(tmp_path / "toy", FROST_EXECUTOR="slurm", SLURM_CONF=slurm.environment["SLURM_CONF"])
    (made.folder / "cluster.yaml").write_text(CLUSTER)
    return made


@pytest.fixture
def gate(tmp_path):
    (tmp_path / "gate").mkdir()
    return tmp_path / "gate"


def wait(project, *line, **environment):
    """A line that waits for its jobs."""
    return subprocess.Popen(
        ["python", "-m", "frost", "sweep", *line], cwd=project.folder, stderr=subprocess.PIPE, text=True,
        env=project.env() | project.environment | environment,
    )  # fmt: skip


def scores(project):
    shown = json.loads(project.run("dvc", "exp", "show", "--json"))[1]["experiments"] or []
    return {one["name"]: one["revs"][0]["data"]["metrics"]["score.json"]["data"]["score"] for one in shown}


def test_a_line_is_one_array_that_survives_who_waits_and_a_task_that_is_killed(slurm, project):
    waits = wait(project, *LINE)
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


def test_of_two_tasks_the_one_whose_time_is_over_begins_again_and_goes_on(slurm, project, gate):
    """The last task has the number of the whole array, which must not begin again with it."""
    waits = wait(project, "-S", "train.fit.seed=0,1", GATE=str(gate), EPOCHS="1")
    until(lambda: len(list(gate.iterdir())) == 2, seconds=300)
    last = max(slurm.jobs())
    assert last.endswith("_1")
    slurm.run("scancel", "--batch", "--signal=TERM", last)  # what comes before the time limit
    until(lambda: slurm.jobs().get(last) == "PENDING", seconds=120)
    assert slurm.jobs() == {last: "PENDING", last.replace("_1", "_0"): "RUNNING"}
    slurm.begin_now(last)
    until(lambda: len(list(gate.iterdir())) == 3, seconds=300)
    (gate / "open").touch()
    said = waits.communicate(timeout=300)[1]
    assert waits.returncode == 0 and len(re.findall(r"^2 experiments are job", said, re.MULTILINE)) == 1, said
    assert scores(project) == {"seed=0": 40, "seed=1": 41}


def test_an_experiment_that_gets_nothing_done_in_its_time_fails_and_does_not_begin_for_ever(slurm, project, gate):
    waits = wait(project, "-S", "train.fit.seed=1", GATE=str(gate))
    until(lambda: len(list(gate.iterdir())) == 1, seconds=300)
    (job,) = slurm.jobs()
    slurm.run("scancel", "--batch", "--signal=TERM", job)
    said = waits.communicate(timeout=300)[1]
    assert waits.returncode == 1 and "error: seed=1: nothing was finished in this time, so the job is not " in said
    until(lambda: not slurm.jobs(), seconds=120)
    assert len(list(gate.iterdir())) == 1


def locks(repository):  # noqa: F811
    """Name of an experiment -> its dvc.lock, which has the digest of every out."""
    refs = repository.git("for-each-ref", "--format=%(refname)", "refs/exps/*/*/*").split()
    return {ref.rpartition("/")[2]: repository.git("show", f"{ref}:dvc.lock") for ref in refs}


def test_four_experiments_of_the_real_pipeline_have_the_outs_of_a_run_without_slurm(slurm, repository, tmp_path):  # noqa: F811
    (repository.folder / "cluster.yaml").write_text(CLUSTER)
    repository.commit()
    shutil.copytree(repository.folder, tmp_path / "here" / "repository", symlinks=True)
    here = Repository(tmp_path / "here" / "repository")
    line = ("python", "-m", "frost", "sweep", "-S", "train_rcan.fit.seed=1,2", "-S", "train_rcan.network.features=4,8")
    here.run(*line, "-j", "2")
    said = repository.run(*line, FROST_EXECUTOR="slurm", SLURM_CONF=slurm.environment["SLURM_CONF"])
    assert "4 experiments are job" in said and repository.passes() == here.passes() == 0
    found = locks(repository)
    assert len(set(found.values())) == 4 and found == locks(here)
