"""The store on hosts whose locks do not exclude each other: several processes, one key, and some of them killed."""

import errno
import os
import random
import signal
import subprocess
import time
from collections import Counter
from functools import partial  # noqa: F401  # for the processes
from pathlib import Path

import pytest

from frost.cache.entries import entry_key
from frost.cache.store import Store
from frost.errors import InputError
from frost.pipeline import claims, unfinished
from frost.training.state import read_state, write_state
from tests.processes import contents, leftovers, run, until

FACTS = {"seed": 0}
KEY = entry_key("varnet", FACTS)
STEPS = 12


def without_locks(host: str = "", silence: float = 300.0) -> None:
    """In this process no lock excludes anyone, and it believes to be on that host."""
    import fcntl

    fcntl.flock = lambda descriptor, operation: None
    if host:
        unfinished._host.cache_clear()
        unfinished.socket.gethostname = lambda: host
    unfinished.BEAT, unfinished.SILENCE, claims.PATIENCE = 0.1, silence, 0.05


def write(folder: Path) -> None:
    """A volume in two files, over some time."""
    for name in ("shard", "zarr.json"):
        time.sleep(0.03)
        (folder / name).write_bytes(name.encode() * 1000)


def train(store: Store, log: Path, folder: Path) -> None:
    """Goes on from the state that is there, a step at a time; each is in the log."""
    state = store.training(KEY) / "state"
    reached = read_state(state)["step"] if state.exists() else 0
    for step in range(reached + 1, STEPS + 1):
        time.sleep(0.03)
        write_state(state, {"step": step})
        with log.open("a") as opened:
            opened.write(f"{os.getpid()} {step}\n")
    (folder / "weights").write_bytes(b"weights")


PRODUCE = """
    without_locks(sys.argv[2])
    store = Store(Path(sys.argv[1]))
    entry = store.produce("varnet", FACTS, write)
    store.link(entry, Path(sys.argv[3]))
    store.clean()
"""
TRAIN = """
    without_locks(sys.argv[2], float(sys.argv[4]))
    store = Store(Path(sys.argv[1]))
    store.produce("varnet", FACTS, partial(train, store, Path(sys.argv[3])), claim=True)
"""


def start(code, *arguments):
    return run("tests.cache.test_without_locks", code, *arguments, stderr=subprocess.PIPE, text=True)


def ended_well(processes):
    for process in processes:
        assert process.wait(60) == 0, process.stderr.read()
        process.stderr.close()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.mark.parametrize("hosts", [("", "", ""), ("one", "two", "three")])
def test_all_that_make_one_entry_end_with_the_same_and_one_out(store, tmp_path, hosts):
    ended_well([start(PRODUCE, store.root, host, tmp_path / "out") for host in hosts])
    entry = store.take("varnet", KEY)
    assert contents(tmp_path / "out") == {Path(name): (entry.folder / name).read_bytes() for name in entry.files}
    assert not store.damaged() and not leftovers(store)


def test_kills_at_random_leave_one_whole_entry(store, tmp_path):
    """A seed that fails is in the message."""
    seed = random.SystemRandom().randrange(10**6)
    draw, killed, others = random.Random(seed), [], []
    for i in range(3):
        killed.append(start(PRODUCE, store.root, "", tmp_path / "out"))
        others.append(start(PRODUCE, store.root, "", tmp_path / "out"))
        until(lambda: store.root.exists())
        time.sleep(draw.uniform(0, 0.15))
        killed[i].kill()
    for process in killed:
        process.communicate()
    ended_well([*others, start(PRODUCE, store.root, "", tmp_path / "out")])
    assert set(contents(tmp_path / "out")) == {Path("shard"), Path("zarr.json")}, seed
    assert not store.damaged() and len(store.ls()) == 1 and not leftovers(store), seed


def steps(log):
    return [(int(pid), int(step)) for pid, step in map(str.split, log.read_text().splitlines())]


@pytest.mark.parametrize(("other", "silence"), [("", "300"), ("another", "1")])
def test_one_training_writes_its_state_and_another_takes_over_when_it_is_killed(store, tmp_path, other, silence):
    """On the same host at once, on another when it has been silent."""
    log = tmp_path / "log"
    first = start(TRAIN, store.root, "", log, "300")
    until(lambda: log.exists())
    seconds = [start(TRAIN, store.root, other, log, silence) for _ in range(2)]
    until(lambda: steps(log)[-1][1] >= 4)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    ended_well(seconds)
    reached = [step for _, step in steps(log)]
    assert len({pid for pid, _ in steps(log)}) == 2  # of the two that waited one went on, and the other got the entry
    repeats = [step for step, n in Counter(reached).items() if n > 1]
    assert (
        sorted(set(reached)) == list(range(reached[0], STEPS + 1)) and len(repeats) <= 1 and reached == sorted(reached)
    )
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
        monkeypatched.produce("varnet", FACTS, write)
        (folder / "shard").write_bytes(b"")

    monkeypatched = Store(store.root)
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
    assert (
        capfd.readouterr().err.count(f"copies instead of links: the store {store.root} is on another file system") == 1
    )


def test_a_link_that_another_run_is_about_to_rename_stays_and_a_dead_one_goes(store, tmp_path):
    entry = store.produce("varnet", FACTS, write)
    live, reused = (tmp_path / "out" / unfinished.unfinished(".shard") for _ in range(2))
    dead = reused.with_name(reused.name.replace(f".{unfinished._start(os.getpid())}.", ".1."))
    live.parent.mkdir()
    live.touch(), dead.touch()
    store.link(entry, tmp_path / "out")
    assert live.exists() and not dead.exists()
