"""What work cost is kept beside it, and found again by its bytes."""

from frost.cache.store import Store
from frost.pipeline.costs import cost_of, machine, measured
from tests.processes import contents


def test_a_cost_is_found_by_the_head_of_what_was_made_and_is_no_part_of_it(tmp_path):
    store, places = Store(tmp_path / "store"), []

    def compute(folder):
        with measured(store.root, "train_rcan", folder, resumed=True):
            (folder / "config.json").write_text("{}")
        places.append(folder)

    made = store.produce("train_rcan", {}, compute)
    assert set(made.files) == {"config.json"}
    copy = tmp_path / "config.json"
    copy.write_bytes((made.folder / "config.json").read_bytes())
    cost = cost_of(store.root, copy)
    assert (cost.stage, cost.resumed, cost.machine) == ("train_rcan", True, machine())
    assert cost.seconds > 0 and cost.memory > 10_000_000 and "cores" in cost.machine
    copy.write_text("{ }")
    assert cost_of(store.root, copy) is None
    other = Store(tmp_path / "other").produce(
        "train_rcan", {}, lambda folder: (folder / "config.json").write_text("{}")
    )
    assert contents(other.folder) == contents(made.folder)
    assert [record.stage for record in store.ls()] == ["train_rcan"]


def test_a_damaged_cost_is_none(tmp_path):
    file = tmp_path / "made"
    file.write_text("x")
    with measured(tmp_path, "evaluate", file):
        pass
    (kept,) = (tmp_path / "costs").iterdir()
    assert cost_of(tmp_path, file).stage == "evaluate"
    kept.write_text("{}")
    assert cost_of(tmp_path, file) is None
