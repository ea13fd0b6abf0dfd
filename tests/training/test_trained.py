"""A trained network as an entry of the store: its key, its out and its curves."""

from types import SimpleNamespace

from frost.cache.store import Store
from frost.training.trained import CURVES, deliver, finished, write_curves


def test_on_another_number_of_processes_it_is_another_network(tmp_path, monkeypatch):
    def key(processes):
        process = SimpleNamespace(num_processes=processes, is_main_process=True)
        monkeypatch.setattr("frost.training.trained.PartialState", lambda cpu: process)
        return finished(Store(tmp_path), "train_rcan", {"seed": 0}, lambda *folders: None).key

    monkeypatch.setattr("frost.training.trained._broadcaster", lambda process: bool)
    assert key(1) == key(1) != key(8)


def test_curves_are_a_table_that_reads_back(tmp_path):
    history = [{"epoch": 1, "loss": 1 / 3}, {"epoch": 2, "loss": 0.25}]
    write_curves(tmp_path / "curves" / "rcan.tsv", history)
    names, *lines = [line.split("\t") for line in (tmp_path / "curves" / "rcan.tsv").read_text().splitlines()]
    assert [dict(zip(names, map(float, line))) for line in lines] == history
    assert [file.name for file in (tmp_path / "curves").iterdir()] == ["rcan.tsv"]


def test_it_is_trained_once_and_delivered_with_its_curves(tmp_path):
    store, trainings = Store(tmp_path / "store"), []

    def train(folder, state):
        trainings.append(state)
        (folder / "weights").write_bytes(b"weights")
        write_curves(folder / CURVES, [{"epoch": 1, "val_ssim": 0.5}, {"epoch": 2, "val_ssim": 0.25}])

    for out in ("here", "there"):
        entry = finished(store, "train_rcan", {"seed": 0}, train)
        said = deliver(store, entry, tmp_path / out / "network", tmp_path / out / "curves" / "rcan.tsv")
        assert said == {"epochs": 2, "val SSIM at best": "0.5000"}
        assert (tmp_path / out / "network" / "weights").read_bytes() == b"weights"
        kept = (tmp_path / out / "network" / CURVES).read_bytes()
        assert (tmp_path / out / "curves" / "rcan.tsv").read_bytes() == kept
    assert trainings == [store.training(entry.key) / "state"]


def test_weights_that_were_left_as_they_were_have_no_epochs(tmp_path):
    entry = finished(Store(tmp_path), "train_varnet", {}, lambda folder, state: write_curves(folder / CURVES, []))
    assert deliver(Store(tmp_path), entry, tmp_path / "network", tmp_path / "curves.tsv") == {"epochs": 0}
    assert deliver(Store(tmp_path), None, tmp_path / "network", tmp_path / "curves.tsv") == {}
