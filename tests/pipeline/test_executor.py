"""Work that is done elsewhere: who does it, and what a process of a job does of it. Jobs themselves: tests/cluster."""

from types import SimpleNamespace

import pytest

from frost.cache.entries import entry_key
from frost.cache.produce import Task, produce_all, stage_lock
from frost.cache.shards import open_split, write_volume
from frost.cache.store import Store
from frost.errors import InputError
from frost.pipeline.launch import work_elsewhere
from frost.pipeline.processes.executor import EXECUTOR, SHARE, Executor, executor


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def write(item, folder):
    write_volume(folder, (item for _ in range(2)), 2, ("varnet",), {})


def make():
    return write


def tasks(numbers):
    import numpy as np

    return [Task(f"v{one}", 2, {"number": one}, np.full((1, 4, 4), one, np.float32)) for one in numbers]


def keys(numbers):
    return {entry_key("varnet", task.facts) for task in tasks(numbers)}


def in_a_job(monkeypatch, folder, mine):
    (folder / "keys").write_text("\n".join(mine))
    monkeypatch.setenv(SHARE, str(folder / "keys"))


def test_the_executor_is_the_one_that_the_environment_names_and_none_in_its_jobs(monkeypatch, tmp_path):
    assert executor() is None
    monkeypatch.setenv(EXECUTOR, "slurm")
    assert isinstance(executor(), Executor) and executor().__name__ == "frost.cluster.jobs"
    in_a_job(monkeypatch, tmp_path, [])
    assert executor() is None
    monkeypatch.delenv(SHARE)
    monkeypatch.setenv(EXECUTOR, "slrum")
    with pytest.raises(InputError, match=r"^FROST_EXECUTOR=slrum: there is slurm; unset, stages compute here$"):
        executor()


def test_a_stage_is_one_process_where_its_work_is_done_elsewhere(monkeypatch, capsys):
    monkeypatch.setenv("PET_NPROC_PER_NODE", "8")
    assert not work_elsewhere("prepare")
    monkeypatch.setenv(EXECUTOR, "slurm")
    assert work_elsewhere("prepare")
    assert "prepare: PET_NPROC_PER_NODE is ignored with FROST_EXECUTOR" in capsys.readouterr().err


def test_a_process_of_a_job_makes_its_share_and_no_out(monkeypatch, store, tmp_path):
    in_a_job(monkeypatch, tmp_path, keys([1, 3]) | keys([9]))  # of another index too
    with stage_lock(store, "varnet"):
        assert not (store.root / "locks").exists()  # the run that waits holds it
        assert produce_all(store, "varnet", {tmp_path / "out": tasks(range(5))}, make, 0) == 4
    assert store.keys("varnet") == keys([1, 3]) and not (tmp_path / "out").exists()


def test_a_stage_links_what_an_executor_made_and_reads_no_byte_of_it(monkeypatch, store, tmp_path):
    asked = []

    def make_volumes(root, stage, sizes):
        asked.append(sizes)
        for task in tasks(range(5)):
            Store(root).produce(stage, task.facts, lambda folder, task=task: write(task.item, folder))
        damaged = next(Store(root).root.glob("varnet/*/*/c/0/0/0/0"))
        damaged.chmod(0o644)
        damaged.write_bytes(bytes(damaged.stat().st_size))

    produce_all(store, "varnet", {tmp_path / "out": tasks([0])}, make, 0)
    monkeypatch.setattr("frost.cache.produce.executor", lambda: SimpleNamespace(make_volumes=make_volumes))
    assert produce_all(store, "varnet", {tmp_path / "out": tasks(range(5))}, make, 0) == 8
    assert asked == [dict.fromkeys(keys([1, 2, 3, 4]), 2)] and len(open_split(tmp_path / "out")) == 5
    monkeypatch.undo()
    with pytest.raises(InputError, match="is damaged"):  # who computes here reads all
        produce_all(store, "varnet", {tmp_path / "out": tasks(range(5))}, make, 0)


def test_a_training_is_left_to_an_executor_and_its_job_makes_no_other(monkeypatch, store, tmp_path):
    facts = {"seed": 1}

    def train(folder):
        (folder / "weights").write_bytes(b"weights")

    def make_network(root, stage, facts):
        made = {**facts, "processes": 2}  # as many as its job has
        Store(root).produce(stage, made, train, claim=False)
        return entry_key(stage, made)

    monkeypatch.setattr("frost.cache.store.executor", lambda: SimpleNamespace(make_network=make_network))
    entry = store.produce("train", {**facts, "processes": 1}, train, claim=True)
    assert entry.facts["processes"] == 2
    monkeypatch.undo()
    in_a_job(monkeypatch, tmp_path, [entry_key("train", facts)])
    assert store.produce("train", {"seed": 2}, train, claim=True) is None
    assert store.produce("train", facts, train, claim=True).key == entry_key("train", facts)
    assert store.produce("train", {**facts, "processes": 2}, train, claim=True) is not None  # it is there
