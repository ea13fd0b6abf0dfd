"""What `frost verify --repair` runs again, and what it leaves alone. The whole of it, by real stages: test_pipeline."""

import pytest
from ruamel.yaml import YAML

from frost.errors import InputError
from frost.store import Store
from frost.verify import Fault, repair


def write(folder):
    (folder / "weights").write_bytes(b"numbers")


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store with two trained networks, one of which this workspace uses."""
    monkeypatch.chdir(tmp_path)
    stage = {"cmd": "python -c pass", "outs": ["models/varnet"]}
    YAML().dump({"stages": {"train_varnet": stage}}, tmp_path / "dvc.yaml")
    store = Store(tmp_path / "store")
    entries = [store.produce("train_varnet", {"seed": seed}, write) for seed in (0, 1)]
    store.link(entries[0], tmp_path / "models" / "varnet")
    store.faults = [Fault("train_varnet", entry.key, "damaged") for entry in entries]
    return store


def test_a_training_that_this_workspace_does_not_use_is_dropped_and_that_is_all(store):
    used, other = store.faults
    assert repair(store, [other]) == []
    assert store.has("train_varnet", used.key) and not store.has("train_varnet", other.key)


def test_one_that_it_uses_runs_again(store):
    assert repair(store, store.faults[:1]) == ["train_varnet"]
    assert not store.has("train_varnet", store.faults[0].key)


def test_a_frozen_stage_is_never_run(store, tmp_path):
    stages = YAML().load((tmp_path / "dvc.yaml").read_text())
    stages["stages"]["train_varnet"]["frozen"] = True
    YAML().dump(stages, tmp_path / "dvc.yaml")
    with pytest.raises(InputError, match=r"train_varnet: frozen, and its out is damaged; `dvc unfreeze train_varnet`"):
        repair(store, store.faults)
    assert all(store.has("train_varnet", fault.key) for fault in store.faults)
