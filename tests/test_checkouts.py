"""Checkouts other than a plain clone in a plain folder: experiments, DVC's cache and the store are found in each."""

import json
import os

import pytest

from tests.sweeps import Toy, toy
from tests.test_pipeline import Repository, finished, repository, stages_run  # noqa: F401  # fixtures


def worktree(folder):
    toy(folder / "toy").git("worktree", "add", "--quiet", "--detach", "../tree")
    return Toy(folder / "tree")


def submodule(folder):
    toy(folder / "toy")
    outer = Toy(folder / "outer")
    outer.folder.mkdir()
    outer.git("init", "--quiet")
    outer.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(folder / "toy"), "inner")
    return named(Toy(outer.folder / "inner"))


def shallow(folder):
    made = toy(folder / "toy")
    (made.folder / "data.txt").write_text("more numbers")
    made.commit()
    made.run("git", "clone", "--quiet", "--depth", "1", made.folder.as_uri(), folder / "clone")
    return named(Toy(folder / "clone"))


def of_a_larger_repository(folder):
    """A project in a folder of a git repository that has others."""
    outer = toy(folder / "toy")
    outer.git("rm", "-r", "--quiet", "--cached", ".dvc", ".dvcignore")
    inner = Toy(outer.folder / "inner", DVC_SITE_CACHE_DIR=str(folder / "site"))
    inner.folder.mkdir()
    for name in ("params.yaml", "dvc.yaml", "train.py", "data.txt", ".gitignore"):
        (outer.folder / name).rename(inner.folder / name)
    inner.run("dvc", "init", "--quiet", "--subdir")
    inner.commit()
    return inner


def odd_path(folder):
    return toy(folder / "with spaces, ä" / "頭 #1's" / "toy", LANG="C", LC_ALL="C")


def no_home(folder):
    return toy(folder / "toy", HOME=None, XDG_CONFIG_HOME=None, XDG_CACHE_HOME=None)


def cache_of_the_system(folder):
    return configured(folder, "SYSTEM")


def cache_of_the_user(folder):
    return configured(folder, "GLOBAL")


def configured(folder, level):
    made = toy(folder / "toy")
    (folder / level).mkdir()
    (folder / level / "config").write_text(f"[cache]\n    dir = {folder / 'lab' / 'cache'}\n")
    return made


def named(project):
    for key in ("name", "email"):
        project.git("config", f"user.{key}", "someone")
    return project


CHECKOUTS = (
    worktree, submodule, shallow, of_a_larger_repository, odd_path, no_home, cache_of_the_system, cache_of_the_user,
)  # fmt: skip


@pytest.mark.parametrize("make", CHECKOUTS, ids=lambda make: make.__name__)
def test_a_sweep_leaves_its_experiment_and_outs_in(make, tmp_path):
    project = make(tmp_path)
    code = "from frost.pipeline.places import store_root; print(store_root())"
    store = project.run("python", "-c", code).rstrip("\n")
    cache = project.run("dvc", "cache", "dir").strip()
    assert store == os.path.join(os.path.dirname(cache), "frost-store")  # noqa: PTH118, PTH120
    project.sweep("-S", "train.fit.seed=7")
    (shown,) = json.loads(project.run("dvc", "exp", "show", "--json"))[1]["experiments"]
    assert shown["name"] == "seed=7" and shown["revs"][0]["data"]["metrics"]
    project.run("dvc", "exp", "apply", "seed=7")
    assert "'seed': 7" in (project.folder / "model" / "weights").read_text()


@pytest.mark.pipeline
def test_real_stages_where_the_path_is_odd_and_there_is_no_home(repository, tmp_path):  # noqa: F811
    there = tmp_path / "with spaces, ä" / "頭 #1's"
    there.parent.mkdir()
    moved = Repository(repository.folder.rename(there))
    moved.params(train_rcan__fit__seed=3)
    plain = {"LANG": "C", "LC_ALL": "C", "HOME": "", "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": ""}
    ran = stages_run(moved.run("dvc", "repro", **plain))
    assert list(ran) == ["index", "train_rcan", "evaluate"] and moved.passes() == 0
    assert "every byte is what was written" in moved.run("python", "-m", "frost", "verify", **plain)
