"""Who uses an entry: found in git and DVC's cache as DVC itself leaves them, by real commits and experiments."""

import os
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from frost.cache.entries import MANIFEST
from frost.cache.store import Store
from frost.cli import app
from frost.errors import InputError
from frost.pipeline.revisions import commit_of, locks_of, outs_of
from frost.upkeep.usage import few, note_on, unneeded, users

PIPELINE = """
stages:
  cache_varnet:
    cmd: cp -r made data/varnet.zarr
    deps: [made]
    outs: [data/varnet.zarr]
"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git and DVC repository whose one stage puts the folder `made` into an out."""
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "a")
        monkeypatch.setenv(f"{name}_EMAIL", "a@b.c")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.delenv("FROST_STORE", raising=False)
    repo = tmp_path / "repo"
    (repo / "data").mkdir(parents=True)
    (repo / "dvc.yaml").write_text(PIPELINE)
    (repo / ".gitignore").write_text("made\n")
    run(repo, "git", "init", "-q", "-b", "main")
    run(repo, sys.executable, "-m", "dvc", "init", "-q")
    monkeypatch.chdir(repo)
    return repo


def run(repo, *command):
    subprocess.run(command, cwd=repo, check=True, capture_output=True)


def volume(folder, n):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zarr.json").write_text(f'{{"attributes": {n}}}')


def reproduce(repo, n):
    """What stage and commit leave of an entry: its head in the out, in DVC's cache and in a dvc.lock of git."""
    volume(repo / "made" / "train" / "scan", n)
    run(repo, sys.executable, "-m", "dvc", "repro", "-q")
    run(repo, "git", "add", "--all")
    run(repo, "git", "commit", "-qm", f"{n}")


def entry(store, n):
    facts = {"volume": {"name": f"scan{n}"}, "n": n}
    made = store.produce("cache_varnet", facts, lambda folder: volume(folder, n))
    then = time.time() - 10 * 86400
    os.utime(made.folder / MANIFEST, (then, then))
    return made


def test_an_entry_is_used_by_the_commits_branches_and_experiments_that_have_its_bytes(repository):
    store = Store(repository / ".dvc" / "frost-store")
    made = [entry(store, n) for n in range(5)]
    reproduce(repository, 0)
    first = commit_of(repository, "main")
    run(repository, "git", "tag", "v1")
    reproduce(repository, 1)
    middle = commit_of(repository, "HEAD")[:9]
    run(repository, "git", "checkout", "-q", "-b", "side")
    reproduce(repository, 2)
    experiment = f"refs/exps/{first[:2]}/{first[2:]}/odd-name"
    run(repository, "git", "update-ref", experiment, "HEAD")
    run(repository, "git", "checkout", "-q", "main")
    reproduce(repository, 3)

    uses = users(store, repository)
    found = [uses.of(one.folder) for one in made]
    assert found[3] == ["workspace", "main"] and not uses.unknown and not note_on(uses)
    assert found[0] == ["v1"] and found[1] == [middle] and set(found[2]) == {"side", "odd-name"} and found[4] == []
    assert commit_of(repository, "odd-name") == commit_of(repository, "side")
    assert unneeded(store, store.ls(), uses) == [r for r in store.ls() if r.key == made[4].key]
    store.take("cache_varnet", made[4].key)  # a run of today, which has committed nothing yet
    assert unneeded(store, store.ls(), uses) == []


def test_a_commit_whose_outs_the_cache_lacks_is_told(repository):
    store = Store(repository / ".dvc" / "frost-store")
    made = entry(store, 0)
    reproduce(repository, 0)
    (lock,) = locks_of(repository)
    (md5,) = outs_of(lock).values()
    (repository / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]).unlink()
    uses = users(store, repository)
    assert uses.of(made.folder) == [] and "DVC's cache has not all outs of workspace, main" in note_on(uses)


def test_another_workspace_of_a_shared_store_needs_what_it_has(repository, tmp_path):
    store = Store(tmp_path / "shared")
    made = entry(store, 0)
    reproduce(repository, 0)
    other = tmp_path / "other"
    other.mkdir()
    run(other, "git", "init", "-q")
    run(other, sys.executable, "-m", "dvc", "init", "-q")
    assert users(store, other).of(made.folder) == []
    (store.root / "workspaces").mkdir()
    (store.root / "workspaces" / "a").write_text(str(repository))
    (store.root / "workspaces" / "b").write_text(str(tmp_path / "gone"))
    assert users(store, other).of(made.folder) == ["repo: workspace", "repo: main"]


def test_names_are_few():
    assert few(["b", "a", "workspace", "a"]) == "workspace, b +1" and few([]) == ""


def test_the_commands_list_ask_and_remove_what_nobody_needs(repository):
    store = Store(repository / ".dvc" / "frost-store")
    made = [entry(store, n) for n in range(2)]
    reproduce(repository, 0)
    call = CliRunner().invoke
    listed = call(app, ["store", "ls"], env={"COLUMNS": "80"}).stdout
    assert "scan0" in listed and "workspace, main" in listed and "10 d" in listed
    assert str(store.root) in call(app, ["store", "du"]).stdout
    dry = call(app, ["store", "gc", "--unneeded", "--dry-run"]).stdout
    assert "scan1" in dry and "scan0" not in dry and "would remove 1 entries" in dry
    assert call(app, ["store", "gc", "--unneeded"], input="n\n").exit_code == 1
    assert store.has("cache_varnet", made[1].key)
    assert "nothing to remove" in call(app, ["store", "gc", "--unneeded", "--older-than", "11d", "--yes"]).stdout
    assert "removed 1 entries" in call(app, ["store", "gc", "--unneeded"], input="y\n").stdout
    assert [record.key for record in store.ls()] == [made[0].key]
    assert "removed 1 entries" in call(app, ["store", "gc", "--older-than", "9d", "--yes"]).stdout
    assert isinstance(call(app, ["store", "gc"]).exception, InputError)
    assert isinstance(call(app, ["store", "gc", "--older-than", "9"]).exception, InputError)


def test_a_name_that_is_nowhere_is_one_line(repository):
    reproduce(repository, 0)
    with pytest.raises(InputError, match="nobody: no experiment, branch, tag or commit has this name"):
        commit_of(repository, "nobody")
