"""Where the store is: beside DVC's cache, wherever that is."""

import shutil

import pytest

from frost.errors import InputError
from frost.pipeline.places import store_root


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.delenv("FROST_STORE", raising=False)
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "user"))
    monkeypatch.setenv("DVC_SYSTEM_CONFIG_DIR", str(tmp_path / "system"))
    (tmp_path / "repo" / ".dvc").mkdir(parents=True)
    (tmp_path / "repo" / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "repo" / "deeper")
    return tmp_path / "repo"


def test_the_store_is_beside_dvcs_cache(repository):
    assert store_root() == repository / ".dvc" / "frost-store"


@pytest.mark.parametrize(
    ("files", "where"),
    [
        ({"config": "[cache]\n    dir = ../../big/cache\n"}, "big"),
        (
            {"config": "[core]\nx = 1\n['remote \"s\"']\n    url = a%b\n[cache]\ndir = ../a\n"},
            "repo",
        ),
        ({"config": "[cache]\ndir = ../../a/c\n", "config.local": "[cache]\ndir = '../../b/c'\n"}, "b"),
        ({"../../user/config": "[cache]\ndir = ../shared/c\n"}, "shared"),
        ({"../../system/config": "[cache]\ndir = /nowhere", "../../user/config": "[cache]\ndir = ../é/c\n"}, "é"),
        ({"../../system/config": "[cache]\ndir = ../shared/c\n"}, "shared"),
        ({"../../user/config": "[cache]\ndir = ../shared/c\n", "config": "[cache]\ndir = ../../a/c"}, "a"),
    ],
)
def test_wherever_dvcs_config_puts_the_cache(repository, files, where):
    for level in ("user", "system"):
        (repository.parent / level).mkdir()
    for name, text in files.items():
        (repository / ".dvc" / name).write_text(text, encoding="utf-8")
    assert store_root() == repository.parent / where / "frost-store"


def test_a_temporary_workspace_of_an_experiment_shares_it(repository, monkeypatch):
    """DVC gives it a config.local that names the cache of the main repository."""
    main = store_root()
    temporary = repository / ".dvc" / "tmp" / "exps" / "tmp1" / ".dvc"
    temporary.mkdir(parents=True)
    (temporary / "config.local").write_text(f"[core]\n[cache]\ndir = {repository / '.dvc' / 'cache'}\n[remote]\n")
    monkeypatch.chdir(temporary.parent)
    assert store_root() == main


def test_the_environment_says_where(repository, monkeypatch):
    monkeypatch.setenv("FROST_STORE", str(repository / "mine"))
    assert store_root() == repository / "mine"


def test_nowhere_and_not_readable(repository, monkeypatch, tmp_path):
    (repository / ".dvc" / "config").write_text("no section = 1")
    with pytest.raises(InputError, match=r"config: not a config of DVC"):
        store_root()
    shutil.rmtree(repository / ".dvc")
    with pytest.raises(InputError, match="not in a DVC repository; set FROST_STORE"):
        store_root()
