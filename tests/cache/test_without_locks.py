"""The store on hosts whose locks do not exclude each other: several processes, one key, and some of them killed."""

import errno
import os
import random
import shutil
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

from frost.cache.entries import entry_key
from frost.cache.store import Store
from frost.errors import InputError
from frost.pipeline.processes import claims, unfinished
from frost.training.state import read_state, write_state
from tests.processes import PATIENCE, contents, leftovers, until

FACTS = {"seed": 0}
KEY = entry_key("varnet", FACTS)
STEPS = 12


def without_locks(host: str = "") -> None:
    """In this process no lock excludes anyone, and it believes to be on that host."""
    import fcntl

    fcntl.flock = lambda descriptor, operation: None
    if host:
        unfinished._host.cache_clear()
        unfinished.socket.gethostname = lambda: host
    unfinished.BEAT, claims.PATIENCE = 0.1, 0.05


def write(folder: Path) -> None:
    """A volume in two files, over some time."""
    for name in ("shard", "zarr.json"):
        time.sleep(0.03)
        (folder / name).write_bytes(name.encode() * 1000)


def train(store: Store, log: Path, stops_at: int, folder: Path) -> None:
    """Goes on from the state that is there, a step at a time; each is in the log."""
    state = store.training(KEY) / "state"
    reached = read_state(state)["step"] if state.exists() else 0
    for step in range(reached + 1, STEPS + 1):
        time.sleep(0.03)
        write_state(state, {"step": step})
        with log.open("a") as opened:
            opened.write(f"{os.getpid()} {step}\n")
        if step == stops_at:
            time.sleep(2 * PATIENCE)
    (folder / "weights").write_bytes(b"weights")


def produce_and_link(root: Path, host: str, out: Path) -> None:
    """What a stage does with one volume."""
    without_locks(host)
    store = Store(root)
    store.link(store.produce("varnet", FACTS, write), out)
    store.clean()


def produce_training(root: Path, host: str, log: Path, stops_at: int, later: Path) -> None:
    """What a stage that trains does. It stands still after a step; all is 1000 s later once `later` is there."""
    without_locks(host)
    real = unfinished.server_time
    unfinished.server_time = lambda folder: real(folder) + 1000 * later.exists()
    store = Store(root)
    store.produce("varnet", FACTS, partial(train, store, log, stops_at), claim=True)


def start(act, *arguments):
    """Forked, as a new Python would be killed while it loads."""
    process = get_context("fork").Process(target=act, args=arguments)
    process.start()
    return process


def ended_well(processes):
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.mark.parametrize("hosts", [("", "", ""), ("one", "two", "three")])
def test_all_that_make_one_entry_end_with_the_same_and_one_out(store, tmp_path, hosts):
    ended_well([start(produce_and_link, store.root, host, tmp_path / "out") for host in hosts])
    entry = store.take("varnet", KEY)
    assert contents(tmp_path / "out") == {Path(name): (entry.folder / name).read_bytes() for name in entry.files}
    assert not store.damaged() and not leftovers(store)


def test_kills_at_random_leave_one_whole_entry(store, tmp_path):
    """A seed that fails is in the message."""
    seed = random.SystemRandom().randrange(10**6)
    draw, out = random.Random(seed), tmp_path / "out"
    for _ in range(12):
        shutil.rmtree(store.root, ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)
        killed, other = (start(produce_and_link, store.root, "", out) for _ in range(2))
        time.sleep(draw.uniform(0, 0.12))
        killed.kill()
        killed.join()  # a process in a system call dies when that returns
        ended_well([other, start(produce_and_link, store.root, "", out)])
        assert set(contents(out)) == {Path("shard"), Path("zarr.json")}, seed
        assert not store.damaged() and len(store.ls()) == 1 and not leftovers(store), seed


def steps(log):
    return [(int(pid), int(step)) for pid, step in map(str.split, log.read_text().splitlines())]


@pytest.mark.parametrize("other", ["", "another"])
def test_one_training_writes_its_state_and_another_takes_over_when_it_is_killed(store, tmp_path, other):
    """On the same host at once, on another when it has been silent."""
    log, later = tmp_path / "log", tmp_path / "later"
    first = start(produce_training, store.root, "", log, 4, later)
    until(log.exists)
    seconds = [start(produce_training, store.root, other, log, 0, later) for _ in range(2)]
    until(lambda: len(steps(log)) == 4)
    first.kill()
    first.join()
    if other:
        later.touch()
    ended_well(seconds)
    assert len({pid for pid, _ in steps(log)}) == 2  # of the two that waited one went on, and the other got the entry
    assert [step for _, step in steps(log)] == list(range(1, STEPS + 1))
    assert store.has("varnet", KEY) and not list(store.root.glob("training/*"))


def test_a_training_that_was_taken_over_writes_no_more(store, tmp_path, monkeypatch):
    """It stood still for too long, and another host goes on with it."""
    monkeypatch.setattr(claims, "PATIENCE", 0.05)
    folder = store.training(KEY)
    with claims.claimed(folder, lambda: False) as held:
        assert held
        write_state(folder / "state", {"step": 1})
        (claim,) = (folder / "claim").iterdir()
        claim.rename(folder / "claim" / "claim.other-0a1b2c3d.17.400.0123456789ab")
        with pytest.raises(InputError, match="process 17 of other goes on with it"):
            write_state(folder / "state", {"step": 2})
    assert read_state(folder / "state") == {"step": 1}
    with claims.claimed(folder, lambda: True) as held:
        assert not held  # another host's, and not silent yet


def test_only_what_is_dead_is_removed(store, monkeypatch):
    """Of this host by the process; of another, and of no known writer, by the file server's clock."""
    tmp = store.root / "tmp"
    tmp.mkdir(parents=True)
    alive = unfinished.unfinished(KEY)
    stranger = f"{KEY}.other-0a1b2c3d.{os.getpid()}.1.0123456789ab"
    reused = alive.replace(f".{unfinished._start(os.getpid())}.", ".1.")  # that number had another process
    for name in (alive, stranger, reused, f"{KEY}.5e1f"):
        (tmp / name / "c").mkdir(parents=True)
    store.clean()
    assert {path.name for path in leftovers(store)} == {alive, stranger, f"{KEY}.5e1f"}
    later = time.time() + 1000
    monkeypatch.setattr(unfinished, "server_time", lambda folder: later)
    store.clean()
    assert {path.name for path in leftovers(store)} == {alive}


def test_it_is_the_clock_of_the_file_server_that_counts(store, monkeypatch):
    """This host's own may be hours off."""
    stranger = store.root / "tmp" / f"{KEY}.other-0a1b2c3d.17.1.0123456789ab"
    stranger.mkdir(parents=True)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    store.clean()
    assert leftovers(store) == [stranger]


def test_work_that_another_host_took_for_dead_ends_in_one_line(store):
    def stand_still(folder):
        folder.rmdir()
        (folder / "shard").write_bytes(b"")

    with pytest.raises(
        InputError, match=r"tmp/.*: was removed, as this process stood still for too long; run it again"
    ):
        store.produce("varnet", FACTS, stand_still)

    def overtaken(folder):
        folder.rmdir()
        another.produce("varnet", FACTS, write)
        (folder / "shard").write_bytes(b"")

    another = Store(store.root)
    assert store.produce("varnet", FACTS, overtaken) == store.take("varnet", KEY)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_serves_and_is_named_once(store, monkeypatch, capfd, number):
    def refuse(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    for seed in range(2):
        assert store.produce("varnet", {"seed": seed}, write)
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and f"{store.root}: no locks ({os.strerror(number)})" in said


def test_copies_are_told_once(store, tmp_path, monkeypatch, capfd):
    def refuse(*arguments):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    entry = store.produce("varnet", FACTS, write)
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr("frost.cache.entries._reflink", refuse)
    for place in ("a", "b"):
        store.link(entry, tmp_path / place)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") and not leftovers(store)
    assert capfd.readouterr().err.count(f"copies instead of links: the store {store.root} is on another") == 1


def test_a_link_that_another_run_is_about_to_rename_stays_and_a_dead_one_goes(store, tmp_path):
    entry = store.produce("varnet", FACTS, write)
    live, reused = (tmp_path / "out" / unfinished.unfinished(".shard") for _ in range(2))
    dead = reused.with_name(reused.name.replace(f".{unfinished._start(os.getpid())}.", ".1."))
    live.parent.mkdir()
    live.touch(), dead.touch()
    store.link(entry, tmp_path / "out")
    assert live.exists() and not dead.exists()
