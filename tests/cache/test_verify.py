"""What `frost verify --repair` runs again, and what it leaves alone. The whole of it, by real stages: test_pipeline."""

import numpy as np
import pytest
from ruamel.yaml import YAML

from frost.cache.store import Store
from frost.cache.verify import agree, find_faults, repair
from frost.errors import InputError
from frost.networks.common.checkpoint import build, save_network
from frost.networks.image import IMAGE_NETWORKS
from frost.pipeline.params import NamedParams
from tests.networks.test_networks import SMALL


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
    for entry in entries:
        (entry.folder / "weights").chmod(0o644)
        (entry.folder / "weights").write_bytes(b"nvmbers")
    store.faults = [fault for fault in find_faults(store) if fault.key]  # the workspace has no caches
    assert {fault.key for fault in store.faults} == {entry.key for entry in entries}
    store.used, store.other = (next(f for f in store.faults if f.key == entry.key) for entry in entries)
    return store


def test_a_training_that_this_workspace_does_not_use_is_dropped_and_that_is_all(store):
    assert repair(store, [store.other]) == []
    assert store.has("train_varnet", store.used.key) and not store.has("train_varnet", store.other.key)


def test_nor_does_it_run_again_where_only_the_store_s_own_note_is_damaged(store, tmp_path):
    entry = store.folder("train_varnet", store.used.key)
    (entry / "weights").write_bytes(b"numbers")
    (entry / "manifest.json").chmod(0o644)
    (entry / "manifest.json").write_bytes(b"{")
    assert repair(store, [fault for fault in find_faults(store) if fault.key]) == []
    assert (tmp_path / "models/varnet/weights").read_bytes() == b"numbers"


def test_a_network_without_a_store_is_read_too(store, tmp_path):
    save_network(tmp_path / "models/rcan", "rcan", build(IMAGE_NETWORKS, NamedParams(**SMALL["rcan"]), 2), (2,))
    before = len(find_faults(store))
    file = tmp_path / "models/rcan/weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    found = find_faults(store)
    assert len(found) == before + 1 and found[-1].stage == "train_rcan" and "not the bytes" in found[-1].what


def test_one_that_it_uses_runs_again(store):
    assert repair(store, [store.used]) == ["train_varnet"]
    assert not store.has("train_varnet", store.used.key)


def test_a_frozen_stage_is_never_run(store, tmp_path):
    stages = YAML().load((tmp_path / "dvc.yaml").read_text())
    stages["stages"]["train_varnet"]["frozen"] = True
    YAML().dump(stages, tmp_path / "dvc.yaml")
    with pytest.raises(InputError, match=r"train_varnet: frozen, and its out is damaged; `dvc unfreeze train_varnet`"):
        repair(store, store.faults)
    assert not any(store.has("train_varnet", fault.key) for fault in store.faults)
    assert (tmp_path / "models/varnet/weights").exists()


def test_a_cpu_repeats_its_bits_and_a_gpu_comes_close():
    image = np.array([[1.0, 0.5]], np.float32)
    near, far = image + np.float32(1e-6), image + np.float32(1e-3)
    assert agree(image.copy(), image, {"cpu"}) and not agree(near, image, {"cpu"})
    assert agree(near, image, {"cpu", "cuda"}) and not agree(far, image, {"cuda"})
