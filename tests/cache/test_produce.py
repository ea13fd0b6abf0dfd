"""Whole stages: the same bytes by any number of processes, whatever happens to them."""

import io
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from frost.cache.entries import entry_key
from frost.cache.produce import Task, produce_all, stage_lock
from frost.cache.shards import open_split, write_volume
from frost.cache.store import Store
from frost.errors import InputError
from tests.paths import ROOT
from tests.processes import PATIENCE, alive, children, contents, leftovers, run, until


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_a_second_run_of_a_stage_waits_and_names_the_first(store, tmp_path, monkeypatch):
    code = """
        import select
        with stage_lock(Store(Path(sys.argv[1])), "train_rcan"):
            print(flush=True)
            select.select([sys.stdin], [], [], PATIENCE)
            time.sleep(0.5)
            Path(sys.argv[2]).touch()
    """
    words = ("tests.cache.test_produce", code, store.root, tmp_path / "done")
    process = run(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()

    class Told(io.StringIO):
        def write(self, line):
            process.stdin.close()  # the first has nothing more to wait for
            return super().write(line)

    monkeypatch.setattr("sys.stderr", Told())
    with stage_lock(store, "train_rcan"):  # the same folder, as `run` starts in the repository
        assert (tmp_path / "done").exists()
    said = f"train_rcan: waiting for process {process.pid}, which runs this stage here\n"
    assert sys.stderr.getvalue() == said
    process.stdout.close()
    assert process.wait(PATIENCE) == 0
    with stage_lock(store, "train_rcan"), stage_lock(store, "evaluate"):
        pass


def image(seed, n_slices):
    return (np.random.default_rng([seed, i]).standard_normal((1, 6, 6)).astype(np.float32) for i in range(n_slices))


def volume(item, folder):
    write_volume(folder, image(item["seed"], item["n"]), item["n"], ("varnet",), {"name": item["name"]})


def make():
    return volume


def tasks(first, last, **extra):
    items = [{"seed": seed, "n": 1 + seed % 3, "name": f"v{seed}"} | extra for seed in range(first, last)]
    return [Task(item["name"], item["n"], {"seed": item["seed"]}, item) for item in items]


def splits(out, **extra):
    return {out / "train": tasks(0, 5, **extra), out / "val": tasks(5, 7, **extra), out / "test": []}


def test_any_number_of_processes_gives_the_same_bytes(tmp_path):
    outs = []
    for processes in (0, 1, 3):
        store, out = Store(tmp_path / f"store{processes}"), tmp_path / f"out{processes}"
        assert produce_all(store, "varnet", splits(out), make, processes) == 13
        assert produce_all(store, "varnet", splits(out), make, processes) == 0
        assert not leftovers(store)
        outs.append(contents(out))
    assert outs[0] == outs[1] == outs[2] and len(outs[0]) == 2 * 7 + 3 + 1
    for split, names in (("train", 5), ("val", 2), ("test", 0)):
        assert len(open_split(tmp_path / "out3" / split)) == names


def test_an_out_holds_exactly_the_volumes_of_the_index(store, tmp_path):
    out = tmp_path / "out"
    produce_all(store, "varnet", {out: tasks(0, 4)}, make, 0)
    assert produce_all(store, "varnet", {out: tasks(2, 5)}, make, 0) == 2  # one new volume, its slices alone
    assert set(open_split(out)) == {"v2", "v3", "v4"}


def test_a_damaged_entry_stops_a_stage(store, tmp_path):
    produce_all(store, "varnet", splits(tmp_path / "out"), make, 0)
    key = entry_key("varnet", {"seed": 3})
    file = store.folder("varnet", key) / "zarr.json"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes().replace(b"v3", b"v4"))
    with pytest.raises(InputError, match=f"store entry varnet/{key}: zarr.json is damaged"):
        produce_all(store, "varnet", splits(tmp_path / "again"), make, 0)


def refuse(item, folder):
    if item["name"] == "v3":
        raise InputError("v3.h5: has no mask")
    volume(item, folder)


def make_refuse():
    return refuse


def make_fail():
    raise RuntimeError("a bug")


@pytest.mark.parametrize("processes", [0, 2])
def test_the_error_of_a_process_is_the_stages(store, tmp_path, processes):
    with pytest.raises(InputError, match=r"^v3\.h5: has no mask$"):
        produce_all(store, "varnet", splits(tmp_path / "out"), make_refuse, processes)
    assert not (tmp_path / "out").exists() and not leftovers(store)


def test_a_bug_in_a_process_keeps_its_traceback(store, tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)in a process of varnet:.*make_fail.*a bug"):
        produce_all(store, "varnet", splits(tmp_path / "out"), make_fail, 1)


def die_once(item, folder):
    volume(item, folder)
    if item["name"] == "v2" and not item["flag"].exists():
        item["flag"].touch()
        os.kill(os.getpid(), signal.SIGKILL)


def make_die_once():
    return die_once


def die(item, folder):
    item.get("flag", folder).touch()
    os.kill(os.getpid(), signal.SIGKILL)


def make_die():
    return die


def test_a_killed_process_does_not_stop_the_rest(store, tmp_path):
    out, flag = tmp_path / "out", tmp_path / "flag"
    assert produce_all(store, "varnet", splits(out, flag=flag), make_die_once, 2) == 13
    assert flag.exists() and not leftovers(store)
    produce_all(Store(tmp_path / "undisturbed"), "varnet", splits(tmp_path / "want"), make, 0)
    assert contents(out) == contents(tmp_path / "want")


def test_who_waits_for_another_run_computes_when_that_is_killed(store, tmp_path):
    """It holds the only key that is missing, so none of our own processes has anything to do, and none dies."""
    code = """
        with Store(Path(sys.argv[1])).lock(sys.argv[2]):
            print(flush=True)
            time.sleep(600)
    """
    (task,) = tasks(0, 1)
    process = run("tests.cache.test_produce", code, store.root, entry_key("stage", task.facts), stdout=subprocess.PIPE)
    process.stdout.readline()
    threading.Timer(3, process.kill).start()
    assert produce_all(store, "stage", {tmp_path / "out": [task]}, make, processes=1) == 1
    process.communicate()
    assert process.returncode == -signal.SIGKILL and store.has("stage", entry_key("stage", task.facts))


def test_processes_that_always_die_end_the_stage(store, tmp_path):
    with pytest.raises(InputError, match=r"^varnet: v\d: its process died \(exit code -9\)"):
        produce_all(store, "varnet", splits(tmp_path / "out"), make_die, 1)


def test_one_thread_each(store, tmp_path):
    before = dict(os.environ)
    produce_all(store, "varnet", {tmp_path / "out": tasks(0, 1)}, make_threads, 1)
    assert open_split(tmp_path / "out")["v0"].attributes["threads"] == ["1", "1"]
    assert dict(os.environ) == before


def make_threads():
    threads = [os.environ["OMP_NUM_THREADS"], os.environ["OPENBLAS_NUM_THREADS"]]
    return lambda item, folder: write_volume(folder, image(1, 1), 1, ("varnet",), {"threads": threads})


def make_one_before_the_flag():
    """A process makes its first volume at once, and the second when the flag is there."""
    made = []

    def compute(item, folder):
        until(lambda: not made or item["flag"].exists())
        volume(item, folder)
        made.append(item)

    return compute


def test_processes_end_with_the_one_that_started_them(store, tmp_path):
    code = """
        some = splits(Path(sys.argv[2]), flag=Path(sys.argv[3]))
        produce_all(Store(Path(sys.argv[1])), "varnet", some, make_one_before_the_flag, 2)
    """
    words = (store.root, tmp_path / "out", tmp_path / "flag")
    process = run("tests.cache.test_produce", code, *words, stderr=subprocess.DEVNULL)
    until(lambda: store.ls())
    started = children(process)
    process.kill()
    process.wait()
    (tmp_path / "flag").touch()
    until(lambda: not alive(started))
    assert 0 < len(store.ls()) < 7
    assert produce_all(store, "varnet", splits(tmp_path / "out"), make, 2) > 0
    produce_all(Store(tmp_path / "undisturbed"), "varnet", splits(tmp_path / "want"), make, 0)
    assert contents(tmp_path / "out") == contents(tmp_path / "want") and not leftovers(store)


def make_after_the_flag():
    def compute(item, folder):
        until(item["flag"].exists)
        volume(item, folder)

    return compute


def test_ranks_share_the_work_and_the_first_finishes_it(store, tmp_path):
    """As torchrun starts them; the second is killed at its first volume, before the others have ended theirs."""
    code = """
        some = splits(Path(sys.argv[2]), flag=Path(sys.argv[3]))
        made = make_die if sys.argv[4] == "die" else make_after_the_flag
        produce_all(Store(Path(sys.argv[1])), "varnet", some, made, 0)
    """
    ranks = [
        run(
            "tests.cache.test_produce", code, store.root, tmp_path / "out", tmp_path / "flag", how,
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "3"}, stderr=subprocess.DEVNULL,
        )
        for rank, how in enumerate(("work", "die", "work"))
    ]  # fmt: skip
    assert [rank.wait(PATIENCE) for rank in ranks] == [0, -signal.SIGKILL, 0]
    produce_all(Store(tmp_path / "undisturbed"), "varnet", splits(tmp_path / "want"), make, 0)
    assert contents(tmp_path / "out") == contents(tmp_path / "want") and not leftovers(store)
