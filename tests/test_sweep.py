"""`frost sweep` without Slurm: which experiments a line stands for, what clones would lack, and real runs by DVC."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from frost.cluster.choices import expanded, named, plan
from frost.errors import InputError
from tests.processes import until
from tests.sweeps import toy
from tests.test_pipeline import finished, repository  # noqa: F401  # fixtures


def names(*words, prefix=""):
    return list(named([[word for some in one.values() for word in some] for one in expanded(words)], prefix))


def test_choices_and_ranges_are_those_of_dvc_and_names_are_made_of_them():
    assert names("train_rcan.fit.seed=0,1", "train_rcan.network.features=32,64") == [
        "seed=0,features=32", "seed=0,features=64", "seed=1,features=32", "seed=1,features=64",
    ]  # fmt: skip
    assert names("a.seed=range(1,4)", prefix="night") == ["night,seed=1", "night,seed=2", "night,seed=3"]
    assert names("a.fit.seed=0", "b.fit.seed=1,2") == ["a.fit.seed=0,b.fit.seed=1", "a.fit.seed=0,b.fit.seed=2"]
    assert names("a.rate=1e-4,1e-3") == ["rate=0.0001", "rate=0.001"]
    assert names("a.inputs=[varnet,grappa],[varnet]", "+a.new=null") == [
        "inputs=varnet-grappa,new=null", "inputs=varnet,new=null",
    ]  # fmt: skip
    assert names("a=1,1") == ["a=1"]


def test_names_that_would_be_equal_are_told_apart_and_all_are_names_of_git_refs():
    same = names("a='x y','x:y','x~y'")
    assert len(set(same)) == 3 and all(re.fullmatch(r"a=x-y-[0-9a-f]{8}", name) for name in same)
    assert same == names("a='x y','x:y','x~y'")
    assert names("a='..','x.lock'") == ["a=-", "a=x-lock"]
    (long,) = names(f"a={'x' * 400}")
    assert len(long) < 160


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("a", "Error parsing override 'a'"),
        ("a=glob(*)", "is not supported"),
        ("a=interval(0,1)", "does not support"),
    ],
)
def test_words_that_dvc_does_not_take(word, why):
    with pytest.raises(InputError, match=re.escape(why)) as raised:
        expanded([word])
    assert "\n" not in str(raised.value)


@pytest.fixture
def project(tmp_path, monkeypatch):
    made = toy(tmp_path / "toy")
    monkeypatch.chdir(made.folder)
    for name in ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG"):
        monkeypatch.setenv(f"DVC_{name}_DIR", str(tmp_path / name))
    monkeypatch.delenv("FROST_STORE", raising=False)
    return made


def refused(*words):
    with pytest.raises(InputError) as raised:
        plan(words)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_what_an_experiment_would_lack_is_an_error(project):
    seed, file = "train.fit.seed=1", project.folder / "train.py"
    assert plan([seed])[1] == []

    assert "Could not override 'train.fit.sead'" in refused("train.fit.sead=0,1")
    (project.folder / "ignored").mkdir()
    said = refused("train.source=data.txt,ignored")
    assert said.startswith("params.yaml: train.source: ignored is in this folder alone")
    (project.folder.parent / "scans").mkdir()
    assert "../scans is in this folder alone" in refused("train.source=../scans")
    assert plan([f"train.source={project.folder.parent / 'scans'}"])[1] == []
    assert plan(["train.source=rcan"])[1] == []

    (project.folder / "notes.txt").write_text("of nobody's business")
    assert plan([seed])[1] == []
    project.git("rm", "--quiet", "--cached", "train.py")
    project.git("commit", "--quiet", "--message", "forgotten")
    assert refused(seed).startswith("train.py: not in git")
    project.git("add", "train.py")
    project.git("commit", "--quiet", "--message", "there")
    file.write_text("# another\n")
    assert refused(seed).startswith("train.py: changed since the last commit")


def test_outside_of_a_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "DVC" in refused("a=1")


def test_experiments_run_side_by_side_and_the_same_line_goes_on(project):
    line = ("-S", "train.fit.seed=0,1", "-S", "train.network.features=4,0")
    assert project.sweep(*line, "--dry-run").splitlines() == [
        f"seed={seed},features={features}: -S train.fit.seed={seed} -S train.network.features={features}"
        for seed in (0, 1) for features in (4, 0)
    ]  # fmt: skip
    said = project.sweep(*line, "-j", "2", status=1)
    assert "error: seed=0,features=0: params.yaml: train.network.features: 0 is too few\n" in said
    assert "error: 2 of 4 experiments failed: logs in " in said and "Traceback" not in said
    shown = json.loads(project.run("dvc", "exp", "show", "--json"))[1]["experiments"]
    scores = {one["name"]: one["revs"][0]["data"]["metrics"]["score.json"]["data"]["score"] for one in shown}
    assert scores == {"seed=0,features=4": 40, "seed=1,features=4": 41}
    assert project.git("status", "--porcelain") == ""

    project.run("dvc", "exp", "apply", "seed=1,features=4")  # its outs are in the cache of this checkout
    assert "'seed': 1" in (project.folder / "model" / "weights").read_text()
    project.git("reset", "--quiet", "--hard")
    said = project.sweep("-S", "train.fit.seed=0,1", "-S", "train.network.features=4")
    assert said.startswith("2 of 2 experiments are there already")

    ref = project.git("for-each-ref", "--format=%(refname)", "refs/exps/**/seed=1*").strip()
    project.git("update-ref", ref, "HEAD")  # as if it were of other params
    assert refused("train.fit.seed=0,1", "train.network.features=4").endswith("-n NAME")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_stopped_is_a_line_and_leaves_no_process_and_no_clone(project, tmp_path, number):
    """Ctrl-C as a terminal sends it, to the whole group; while it ends what runs, nothing else begins."""
    gate, clones = tmp_path / "gate", tmp_path / "clones"
    gate.mkdir()
    clones.mkdir()
    line = ("-S", "train.fit.seed=0,1,2,3", "-j", "2")
    sweep = subprocess.Popen(
        ["python", "-m", "frost", "sweep", *line], cwd=project.folder, stderr=subprocess.PIPE, text=True,
        env=project.env() | {"GATE": str(gate), "TMPDIR": str(clones)}, start_new_session=True,
    )  # fmt: skip
    until(lambda: len(list(gate.iterdir())) == 2, seconds=120)
    started = psutil.Process(sweep.pid).children(recursive=True)
    os.killpg(sweep.pid, number)
    first, *said = sweep.communicate(timeout=60)[1].splitlines()
    assert sweep.returncode == 128 + number and first.startswith("4 experiments, 2 at a time; logs in ")
    assert said == ["stopped: what was finished is kept; run it again"]
    assert len(started) > 4 and not [one for one in started if one.is_running()]
    assert len(list(gate.iterdir())) == 2 and not list(clones.iterdir())
    (gate / "open").touch()
    assert project.sweep(*line, GATE=str(gate), TMPDIR=str(clones)).startswith("4 experiments, 2 at a time")
    assert len(list(gate.iterdir())) == 7 and not list(clones.iterdir())


@pytest.mark.pipeline
def test_a_sweep_of_the_real_pipeline_asks_stage_1_nothing_and_is_compared(repository, monkeypatch):  # noqa: F811
    """On another disk, where the system has one: the clone then has symbolic links into the cache."""
    memory = Path("/dev/shm")
    if memory.is_dir() and memory.stat().st_dev != repository.folder.stat().st_dev:
        monkeypatch.setenv("TMPDIR", str(memory))
    said = repository.frost("sweep", "-S", "train_rcan.fit.seed=1", "-S", "train_rcan.network.features=8,0", status=1)
    assert "error: seed=1,features=0: params.yaml: train_rcan.network" in said
    assert repository.passes() == 0 and not list(memory.glob("frost-sweep-*"))
    compared = json.loads(repository.frost("compare", "HEAD", "seed=1,features=8", "--json"))
    assert compared
