"""Stages whose work is done in jobs of a real Slurm, whatever happens to the jobs and to who waits for them."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from frost.cluster.jobs import balanced
from frost.cluster.settings import ClusterParams, cluster_params
from frost.cluster.task import OUTS
from frost.errors import InputError
from tests.cluster.slurm import NODES, start, until
from tests.paths import ROOT
from tests.processes import contents
from tests.test_pipeline import STAGES, Repository, finished, new_repository, stages_run  # noqa: F401

GATE = ROOT / "tests" / "cluster" / "gate"
JOB = {
    "partition": None, "time": None, "gpus": 0, "cpus": 1, "memory": None, "volumes": 3, "parallel": None,
    "options": [],
}  # fmt: skip
LONG = 900  # seconds for what takes a few, on a machine that has more to do


def write_cluster(folder, **changes):
    with (folder / "cluster.yaml").open("w") as opened:
        YAML().dump({"job": JOB | changes}, opened)


def heed_signals():
    """As in a terminal: whatever started these tests may ignore some, and processes inherit that."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Workspace(Repository):
    """A workspace with an index of seven volumes, and a store of its own for each test."""

    def __init__(self, folder, store, slurm):
        super().__init__(folder)
        self.store, self.slurm, self.begun = store, slurm, []

    def environment(self):
        own = {"FROST_STORE": str(self.store), "FROST_EXECUTOR": "slurm"}
        return super().environment() | own | {"SLURM_CONF": self.slurm.environment["SLURM_CONF"]}

    def command(self, stage, out):
        """A stage as dvc.yaml has it, with its outs elsewhere."""
        words = YAML(typ="safe").load((self.folder / "dvc.yaml").read_text())["stages"][stage]["cmd"].split()
        outs = {"prepare": ["images"]}.get(stage, OUTS.get(stage))
        return [*words, *(word for name in outs for word in (f"--{name}", str(out / name)))]

    def stage(self, stage, out, status=0, **environment):
        return self.run(*self.command(stage, out), status=status, **environment)

    def begin(self, stage, out, **environment):
        process = subprocess.Popen(
            self.command(stage, out), cwd=self.folder, env=self.environment() | environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=heed_signals,
        )  # fmt: skip
        self.begun.append(process)
        return process

    def records(self):
        """Of all jobs that were submitted."""
        return [json.loads(file.read_text()) for file in self.store.glob("jobs/*/record.json")]


@pytest.fixture(scope="session")
def indexed(tmp_path_factory, write_fastmri_tree):
    """A repository whose index has seven volumes of two slices, and what its stages make without Slurm."""
    folder = tmp_path_factory.mktemp("indexed")
    source = write_fastmri_tree(folder / "scans", (3, 2, 2), prefix="", test_target=True)
    (folder / "repository").mkdir()
    repository = new_repository(folder / "repository")
    repository.params(simulate__subjects=0, index__source=str(source), train_varnet__fit__epochs=60)
    write_cluster(repository.folder)
    (repository.folder / "data" / "simulated").mkdir(parents=True)
    repository.run("python", "-m", "stages.index", "--simulated", "data/simulated",
                   "--source", "data/source", "--index", "data/index")  # fmt: skip
    alone = Workspace(repository.folder, folder / "store", None)
    for stage in ("prepare", "train_varnet"):
        words = alone.command(stage, folder / "outs")
        repository.run(*words, FROST_STORE=str(alone.store))
    return repository.folder, folder / "outs"


@pytest.fixture
def workspace(indexed, slurm, tmp_path):
    shutil.copytree(indexed[0], tmp_path / "repository", symlinks=True)
    workspace = Workspace(tmp_path / "repository", tmp_path / "store", slurm)
    yield workspace
    for process in workspace.begun:  # first, as it would submit again
        process.kill()
        process.wait()
        process.stdout.close()
    slurm.run("scancel", "--user=root")
    until(lambda: not slurm.jobs(), LONG)


@pytest.fixture
def gate(tmp_path):
    """A folder in which tasks wait: environment of the stage that submits them."""
    (tmp_path / "gate").mkdir()
    return tmp_path / "gate"


def closed(gate):
    return {"GATE": str(gate), "PYTHONPATH": str(GATE)}


def ends(process, status=0):
    said = process.communicate(timeout=LONG)[0]
    assert process.returncode == status, said
    return said


def test_all_stages_by_jobs_give_the_bytes_of_a_run_without(finished, slurm, tmp_path):  # noqa: F811
    (tmp_path / "repository").mkdir()
    folder = new_repository(tmp_path / "repository").folder
    write_cluster(folder, volumes=2)
    repository = Workspace(folder, tmp_path / "store", slurm)
    ran = stages_run(repository.run("dvc", "repro"))
    assert list(ran) == list(STAGES)
    outs = ("data/index", "data/simulated", "data/images.zarr", "data/varnet.zarr", "data/reconstructions", "models",
            "metrics")  # fmt: skip
    assert [repository.digest(out) for out in outs] == [Repository(finished[0]).digest(out) for out in outs]
    tasks = {record["stage"]: len(record["shares"]) for record in repository.records()}
    assert tasks == {"prepare": 2, "train_varnet": 1, "cache_varnet": 2, "train_rcan": 1}
    assert len((tmp_path / "passes").read_text().splitlines()) == finished[2]
    assert list(stages_run(repository.run("dvc", "repro"))) == ["index"]
    assert len(repository.records()) == 4


def test_no_array_is_longer_than_the_cluster_takes(indexed, workspace, tmp_path, tmp_path_factory):
    with start(tmp_path_factory.mktemp("five") / "slurm", max_array_size=5) as five:
        write_cluster(workspace.folder, volumes=1)
        workspace.stage("prepare", tmp_path / "outs", SLURM_CONF=five.environment["SLURM_CONF"])
        assert sorted(map(len, workspace.records()[0]["shares"])) == [1, 1, 1, 2, 2]
    assert contents(tmp_path / "outs" / "images") == contents(indexed[1] / "images")


def test_what_killed_and_requeued_tasks_lack_is_submitted_again(indexed, workspace, gate, tmp_path):
    run = workspace.begin("prepare", tmp_path / "outs", **closed(gate))
    jobs = workspace.slurm.jobs
    until(lambda: len(list(gate.iterdir())) == 3, LONG)
    first = {task.partition("_")[0] for task in jobs()}.pop()
    workspace.slurm.run("scancel", "--signal=KILL", f"{first}_0")
    workspace.slurm.run("scontrol", "requeue", f"{first}_1")
    until(lambda: jobs().get(f"{first}_1") == "PENDING", LONG)
    workspace.slurm.begin_now(f"{first}_1")
    (gate / "open").touch()
    assert "prepare: 14 slices computed, 7 volumes" in ends(run)
    assert contents(tmp_path / "outs" / "images") == contents(indexed[1] / "images")
    again = sorted(workspace.records(), key=lambda record: -len(record["shares"]))[1]
    assert 0 < sum(map(len, again["shares"])) <= 3


def test_the_tasks_of_a_dead_node_run_on_another(indexed, workspace, gate, tmp_path):
    write_cluster(workspace.folder, volumes=4, options=["--exclusive"])
    run = workspace.begin("prepare", tmp_path / "outs", **closed(gate))
    until(lambda: {file.name.rpartition(".")[0] for file in gate.iterdir()} == set(NODES), LONG)
    workspace.slurm.kill_node(NODES[1])
    for file in gate.glob(f"{NODES[1]}.*"):
        os.kill(int(file.suffix[1:]), signal.SIGKILL)
    until(lambda: workspace.slurm.nodes()[NODES[1]].startswith("down"), LONG)
    (gate / "open").touch()
    for task, state in workspace.slurm.jobs().items():
        if state == "PENDING":
            workspace.slurm.begin_now(task)
    assert "prepare: 14 slices computed, 7 volumes" in ends(run)
    assert contents(tmp_path / "outs" / "images") == contents(indexed[1] / "images")
    workspace.slurm.start_node(NODES[1])
    until(lambda: workspace.slurm.nodes()[NODES[1]] != "down", LONG)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_who_stops_waiting_leaves_the_jobs_and_the_next_run_joins_them(indexed, workspace, gate, tmp_path, number):
    run = workspace.begin("prepare", tmp_path / "outs", **closed(gate))
    until(lambda: len(list(gate.iterdir())) == 3, LONG)
    run.send_signal(number)
    last = ends(run, status=128 + number).splitlines()[-1]
    said = r"stopped: in the queue job (\d+) goes on, which the next run joins and `scancel \1` ends; run `dvc repro` "
    assert (job := re.fullmatch(f"{said}again", last)), last
    run = workspace.begin("prepare", tmp_path / "outs", **closed(gate))
    assert f"joins job {job[1]}, " in run.stdout.readline() + run.stdout.readline()
    (gate / "open").touch()
    ends(run)
    assert contents(tmp_path / "outs" / "images") == contents(indexed[1] / "images")
    assert len(workspace.records()) == 1


def test_an_error_of_a_task_is_told_after_three_jobs_and_the_rest_is_kept(indexed, workspace, tmp_path):
    index = json.loads((workspace.folder / "data" / "index" / "val.json").read_text())
    source = tmp_path / "scans"
    shutil.copytree(indexed[0].parent / "scans", source)
    (workspace.folder / "data" / "source").unlink()
    (workspace.folder / "data" / "source").symlink_to(source)
    damaged = sorted((source / "val").glob("*.h5"))[0]
    damaged.write_bytes(damaged.read_bytes()[:4096])
    assert index and damaged.stem in json.dumps(index)
    last = workspace.stage("prepare", tmp_path / "outs", status=1).splitlines()[-1]
    told = re.fullmatch(r"error: prepare: (\d) of 7 entries are missing after 3 jobs: (.*) \((.*/\d+\.log)\)", last)
    assert told and damaged.name in told[2], last
    assert f"error: {told[2]}" in Path(told[3]).read_text()
    assert len(workspace.records()) == 3 and len(list(workspace.store.glob("prepare/??/*"))) == 7 - int(told[1])
    assert not (tmp_path / "outs").exists()


def test_a_job_refuses_code_that_was_edited_after_its_submission(workspace, tmp_path):
    write_cluster(workspace.folder, options=["--hold"])
    run = workspace.begin("prepare", tmp_path / "outs")
    until(lambda: workspace.slurm.jobs(), LONG)
    code = workspace.folder / "frost" / "mri" / "grappa.py"
    code.write_text(code.read_text() + "\nMEANING = 1\n")
    for task in workspace.slurm.jobs():
        workspace.slurm.run("scontrol", "release", task)
    changed = "code, params or scans were changed after the job was submitted"
    assert ends(run, status=1).splitlines()[-1].startswith(f"error: prepare: {changed}: ")
    assert len(workspace.records()) == 1 and not list(workspace.store.glob("prepare/*"))


def test_a_training_whose_time_is_over_goes_on_to_the_same_bytes(indexed, workspace, tmp_path):
    run = workspace.begin("train_varnet", tmp_path / "outs")
    until(lambda: list(workspace.store.glob("training/*/state")), LONG)
    (job,) = workspace.slurm.jobs()
    workspace.slurm.run("scancel", "--batch", "--signal=TERM", job)  # what comes before the time limit
    until(lambda: workspace.slurm.jobs() == {job: "PENDING"}, LONG)
    workspace.slurm.begin_now(job)
    said = ends(run)
    assert "it goes on from its last epoch in the next turn" in said and "goes on after epoch" in said
    assert contents(tmp_path / "outs") == {
        path: text for path, text in contents(indexed[1]).items() if path.parts[0] != "images"
    }
    assert len(workspace.records()) == 1


def test_a_training_in_whose_time_no_epoch_fits_is_not_begun_for_ever(workspace, gate, tmp_path):
    run = workspace.begin("train_varnet", tmp_path / "outs", **closed(gate))
    for n_begun in (1, 2, 3):
        until(lambda: len(list(gate.iterdir())) == n_begun, LONG)  # noqa: B023  # at once
        (job,) = (job for job, state in workspace.slurm.jobs().items() if state == "RUNNING")
        workspace.slurm.run("scancel", "--batch", "--signal=TERM", job)
    last = ends(run, status=1).splitlines()[-1]
    assert "entries are missing after 3 jobs: train_varnet: the job's time was over before an epoch was; " in last


@pytest.mark.parametrize(
    ("changes", "environment", "line"),
    [
        ({}, {"PATH": str(Path(shutil.which("true")).parent / "none")}, "scontrol: no such program; a login node"),
        ({"partition": "none"}, {}, "sbatch: invalid partition specified: none; "),
        ({"options": ["--constraint=none"]}, {}, "sbatch: Batch job submission failed: Invalid feature specification"),
        ({"gpu": 1}, {}, "cluster.yaml: job.gpu: no such parameter; there are partition, time, gpus, "),
        ({"volumes": 0}, {}, "cluster.yaml: job.volumes: Input should be greater than or equal to 1, not 0"),
        ({}, {"FROST_EXECUTOR": "slrum"}, "FROST_EXECUTOR=slrum: there is slurm; unset, stages compute here"),
    ],
)
def test_what_cannot_be_submitted_is_one_line(workspace, tmp_path, changes, environment, line):
    write_cluster(workspace.folder, **changes)
    words = workspace.command("prepare", tmp_path / "outs")
    words[0] = str(Path(shutil.which(words[0], path=workspace.environment()["PATH"])))
    said = workspace.run(*words, status=1, **environment)
    errors = [words for words in said.splitlines() if "volumes to make" not in words]
    assert len(errors) == 1 and errors[0].startswith(f"error: {line}"), said
    assert not workspace.slurm.jobs()


def test_a_stage_that_keeps_nothing_in_the_store_ends_on_a_node_as_it_would_here(workspace):
    words = YAML(typ="safe").load((workspace.folder / "dvc.yaml").read_text())["stages"]["evaluate"]["cmd"].split()
    here, there = (workspace.run(*words, status=1, FROST_EXECUTOR=executor) for executor in ("", "slurm"))
    assert here.startswith("error: models/rcan") and here.count("\n") == 1
    assert [line for line in there.splitlines() if not line.startswith("srun: job ")] == here.splitlines()
    write_cluster(workspace.folder, partition="none")
    said = workspace.run(*words, status=1)
    assert said.startswith("error: srun: ") and "invalid partition specified: none" in said and said.count("\n") == 1


def test_shares_are_balanced_and_no_more_than_an_array_has():
    sizes = {f"{number:064x}": 1 + number % 40 for number in range(100_000)}
    shares = balanced(sizes, volumes=100, limit=1001)
    assert len(shares) == 1000 and sorted(key for keys in shares for key in keys) == sorted(sizes)
    slices = [sum(sizes[key] for key in keys) for keys in shares]
    assert max(slices) - min(slices) <= 1
    assert len(balanced(sizes, volumes=10, limit=1001)) == 1001
    assert balanced({"a": 3, "b": 2, "c": 2}, volumes=2, limit=9) == [["a"], ["b", "c"]]


def test_a_stage_has_the_settings_of_its_section_over_those_of_all(tmp_path):
    file = tmp_path / "cluster.yaml"
    YAML().dump({"job": JOB | {"gpus": 2}, "prepare": {"gpus": 0, "partition": "cpu"}}, file)
    assert cluster_params("prepare", file) == ClusterParams(**JOB | {"partition": "cpu"})
    assert cluster_params("train_rcan", file).requests() == [
        "--nodes=1", "--ntasks=1", "--cpus-per-task=1", "--gpus-per-node=2",
    ]  # fmt: skip
    YAML().dump({"job": JOB, "train": {}}, file)
    with pytest.raises(InputError, match=r"cluster\.yaml: train: no such section; there are job, simulate, "):
        cluster_params("prepare", file)
    assert cluster_params("prepare", ROOT / "cluster.yaml").gpus == 0


def test_a_job_writes_no_out_of_a_training():
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    for stage, names in OUTS.items():
        outs = [
            next(iter(out)) if isinstance(out, dict) else out for out in stages[stage]["outs"] + stages[stage]["plots"]
        ]
        assert [re.search(rf"--{name} (\S+)", stages[stage]["cmd"])[1] for name in names] == outs
