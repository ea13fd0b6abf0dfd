"""`dvc repro` in a job of two nodes: the bytes of a run without Slurm, whatever dies, and however often time ends."""

import os
import re
import shlex
import shutil
import subprocess
from contextlib import suppress

import psutil
import pytest
from ruamel.yaml import YAML

from frost.pipeline.processes.allocation import spread_over_nodes
from tests.cluster.slurm import NODES, until
from tests.paths import ROOT
from tests.test_pipeline import BIN, Repository, new_repository

SPREAD = ("prepare", "train_varnet", "cache_varnet", "train_rcan")
OUTS = ("data/images.zarr", "data/varnet.zarr", "data/reconstructions", "models", "metrics/curves", "metrics/tables")
LONG = 1200  # seconds that a loaded machine may take for a pipeline
EPOCHS = 200


class Job:
    """A batch script of a workspace, its log, and Slurm's commands about it."""

    def __init__(self, slurm, repository, command, nodes=2):
        self.slurm, self.log = slurm, repository.folder.parent / "job.log"
        script = repository.folder.parent / "job.sh"
        script.write_text(f"#!/bin/sh\nexec python -m frost job {command}\n")
        environment = repository.environment() | {"SLURM_CONF": slurm.environment["SLURM_CONF"]}
        options = (f"--nodes={nodes}", "--ntasks-per-node=1", "--requeue", "--open-mode=append", f"--output={self.log}")
        words = ("sbatch", "--parsable", "--exclusive", *options, f"--chdir={repository.folder}", script)
        self.number = slurm.run(*words, env=environment).strip()

    def fact(self, name):
        said = self.slurm.run("scontrol", "--oneliner", "show", "job", self.number)
        return next(word.partition("=")[2] for word in said.split() if word.startswith(f"{name}="))

    def end(self):
        """Wait for it; its exit status, and what it wrote."""
        until(lambda: self.fact("JobState") in ("COMPLETED", "FAILED", "CANCELLED"), LONG)
        return int(self.fact("ExitCode").partition(":")[0]), self.said()

    def said(self):
        return self.log.read_text() if self.log.exists() else ""

    def stop(self):
        """What Slurm does before a time limit, by `--signal=B:TERM@120`; then wait until it runs again."""
        restarts = int(self.fact("Restarts"))
        self.slurm.run("scancel", "--batch", "--signal=TERM", self.number)
        until(
            lambda: self.runs() and (int(self.fact("Restarts")) > restarts or self.fact("JobState") != "RUNNING"), LONG
        )

    def runs(self):
        """Whether it runs, or has ended. Slurm lets a job that is queued again wait for two minutes; not here."""
        if (state := self.fact("JobState")) == "PENDING":
            self.slurm.begin_now(self.number)
        return state not in ("PENDING", "COMPLETING")

    def step(self):
        """The number of the step that runs now."""
        found = self.slurm.run("squeue", "--noheader", "--steps", f"--jobs={self.number}", "--format=%i %j")
        return next((line.split()[0] for line in found.splitlines() if line.split()[1].startswith(SPREAD)), None)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The pipeline without Slurm, by two processes: its training of stage 2 is long enough to be stopped."""
    folder = tmp_path_factory.mktemp("alone") / "repository"
    folder.mkdir()
    repository = new_repository(folder)
    repository.params(train_rcan__fit__epochs=EPOCHS)
    repository.commit()
    repository.run("dvc", "repro", PET_NPROC_PER_NODE="2")
    return repository


@pytest.fixture
def fresh(alone, tmp_path):
    """A clone of its files, with nothing computed."""
    alone.git("clone", "--quiet", alone.folder, tmp_path / "repository")
    return Repository(tmp_path / "repository")


def states(repository):
    """The saved states of trainings, each with the time of its last epoch."""
    store = repository.folder / ".dvc" / "frost-store"
    return {file: file.stat().st_mtime_ns for file in store.glob("training/*/state")}


def processes_of_node(name):
    """The processes of its tasks. They know it by a variable."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("SLURMD_NODENAME") == name and "SLURM_STEP_ID" in process.environ():
                yield process


NO_PARAMS = "error: params.yaml: no such file; run from the folder that holds it"
STAGE = ("python", "-m", "stages.prepare", "--index", "i", "--source", "s", "--images", "o")


@pytest.mark.parametrize(
    "launcher, variables, told",
    [
        (("salloc", "-QN2"), {}, "on 2 nodes, PET_NPROC_PER_NODE=1"),
        (("salloc", "-QN2"), {"PET_NPROC_PER_NODE": "2"}, "on 2 nodes, PET_NPROC_PER_NODE=2"),
        (("salloc", "-QN2"), {"SLURM_STEP_ID": str(0xFFFFFFFA)}, "on 2 nodes, PET_NPROC_PER_NODE=1"),  # its own shell
        (("salloc", "-QN2"), {"SLURM_STEP_ID": "0"}, "on 2 nodes, PET_NPROC_PER_NODE=1"),  # submitted from a step
        (("salloc", "-QN2"), {"PET_NNODES": "1"}, ""),
        (("salloc", "-QN1"), {}, ""),
        (("srun", "-QN2", "-n2"), {}, "in a step of job .*, so on this node alone; its script would use 2"),
        ((), {"SLURM_JOB_ID": "99999", "SLURM_JOB_NUM_NODES": "2"}, "SLURM_JOB_ID=99999 is ignored: no such job runs"),
    ],
)
def test_the_script_and_the_shell_of_a_job_of_several_nodes_use_them_all_and_nothing_else_does(
    slurm, tmp_path, launcher, variables, told
):
    """A stage without params.yaml: each process that came so far says so."""
    environment = slurm.environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    given = [f"{name}={value}" for name, value in variables.items()]
    command = [*launcher, "env", "-C", tmp_path, *given, *STAGE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("srun: ")]
    assert done.returncode == 1, lines
    assert set(lines) == {NO_PARAMS, *(line for line in lines if told and re.fullmatch(f"prepare: {told}", line))}
    assert any(line.startswith("prepare: ") for line in lines) == bool(told)
    assert lines.count(NO_PARAMS) == (1 if launcher[0:1] != ("srun",) else 2)


def test_no_slurm_here_is_a_line_and_a_controller_that_is_silent_an_error(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.delenv("PET_NNODES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    spread_over_nodes("prepare")
    assert capsys.readouterr().err == "prepare: SLURM_JOB_ID=5 is ignored: there is no srun here\n"
    for name in ("srun", "squeue"):
        (tmp_path / name).write_text(
            "#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"
        )
        (tmp_path / name).chmod(0o755)
    with pytest.raises(SystemExit) as ended:
        spread_over_nodes("prepare")
    error = capsys.readouterr().err
    assert (
        ended.value.code == 1
        and error.count("\n") == 1
        and error.endswith("; PET_NNODES=1 runs it on this node alone\n")
    )


def test_a_batch_script_spreads_over_both_nodes_to_the_same_bytes(slurm, alone, fresh):
    status, said = Job(slurm, fresh, "dvc repro").end()
    assert status == 0, said
    for stage in SPREAD:
        assert f"\n{stage}: on 2 nodes, PET_NPROC_PER_NODE=1\n" in said
    for out in OUTS:
        assert fresh.digest(out) == alone.digest(out), out
    for file in ("metrics/evaluate.json", "dvc.yaml"):
        assert (fresh.folder / file).read_bytes() == (alone.folder / file).read_bytes()
    assert "slurm" not in (fresh.folder / "dvc.lock").read_text().lower()


def test_a_time_limit_a_killed_step_and_a_dead_node_lose_nothing(slurm, alone, fresh):
    """In the training of stage 2, one after the other; a run that is stopped leaves no lock of DVC behind."""
    job = Job(slurm, fresh, "dvc repro")
    until(lambda: len(states(fresh)) == 1 and "train_rcan: " in job.said(), LONG)
    job.stop()
    said = job.said()
    assert "\nstopped: the state of epoch " in said and f"stopped by SIGTERM: job {job.number} is queued again" in said
    assert not any(word in (fresh.folder / ".dvc/tmp/rwlock").read_text() for word in ("pid", "cmd"))

    before = states(fresh)
    until(lambda: states(fresh) != before, LONG)
    slurm.run("scancel", "--signal=KILL", job.step())
    status, said = job.end()
    assert status == 255 and len([line for line in said.splitlines() if line.startswith("error: ")]) == 1, said
    assert "\nerror: train_rcan: " in said and "Run it again: what was finished is kept\n" in said

    before = states(fresh)
    job = Job(slurm, fresh, "dvc repro")
    until(lambda: states(fresh) != before, LONG)
    slurm.kill_node(NODES[1])
    for process in processes_of_node(NODES[1]):
        process.kill()
    until(lambda: slurm.nodes()[NODES[1]].startswith("down") or job.fact("JobState") == "FAILED", LONG)
    slurm.start_node(NODES[1])
    until(lambda: not any(state.startswith("down") for state in slurm.nodes().values()) and job.runs(), LONG)
    if job.end()[0]:  # the stage ended before Slurm knew that the node is dead
        job = Job(slurm, fresh, "dvc repro")
    status, said = job.end()
    assert status == 0, said
    assert all(fresh.digest(out) == alone.digest(out) for out in OUTS)


WORK = """
import os, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
done = Path(os.environ["FROST_STORE"], "prepare", "ab")
if not done.exists():
    done.mkdir(parents=True)
    time.sleep(600)
print("was there already")
"""


def test_at_a_real_time_limit_a_job_is_queued_again(slurm, tmp_path):
    """Slurm's own clock sends the notice, up to a minute early. In the other tests `scancel` does."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "__init__.py").touch()
    (tmp_path / "stages" / "work.py").write_text(WORK)
    (tmp_path / "job.sh").write_text("#!/bin/sh\nexec python -m frost job python -m stages.work\n")
    path = f"{BIN}{os.pathsep}{slurm.environment['PATH']}"
    own = {"PATH": path, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "FROST_STORE": str(tmp_path / "store")}
    log, options = tmp_path / "log", ("--time=2", "--signal=B:TERM@30", "--requeue", "--open-mode=append")
    words = ("sbatch", "--parsable", *options, f"--output={log}", f"--chdir={tmp_path}", tmp_path / "job.sh")
    job = slurm.run(*words, env=slurm.environment | own).strip()
    until(lambda: slurm.jobs() == {job: "PENDING"} and log.exists(), LONG)
    slurm.begin_now(job)
    until(lambda: not slurm.jobs(), LONG)
    said = [line for line in log.read_text().splitlines() if not line.startswith("slurmstepd-")]
    assert said == [f"stopped by SIGTERM: job {job} is queued again", "was there already"]


def test_a_training_survives_ten_time_limits(slurm, alone, tmp_path):
    """With the weights of an undisturbed one. One process and the stage alone, as these take the least time."""
    shutil.copytree(alone.folder, tmp_path / "repository", symlinks=True)
    repository = Repository(tmp_path / "repository")
    stage = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]["train_rcan"]
    repository.params(train_rcan__fit__epochs=800)
    job = Job(slurm, repository, stage["cmd"], nodes=1)
    for _ in range(10):
        before = states(repository)
        until(lambda: states(repository) != before, LONG)  # noqa: B023
        job.stop()
    assert job.fact("Restarts") == "10" and job.said().count("\nstopped: the state of epoch ") == 10
    repository.params(train_rcan__fit__epochs=800)
    status, said = job.end()
    assert status == 0, said
    disturbed = repository.digest("models/rcan", "metrics/curves")
    shutil.rmtree(repository.folder / ".dvc" / "frost-store" / "train_rcan")
    repository.run(*shlex.split(stage["cmd"]))
    assert repository.digest("models/rcan", "metrics/curves") == disturbed
