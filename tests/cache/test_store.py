"""The store: computed once, by one, and never believed without being read."""

import errno
import os
import resource
import shutil
import subprocess
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frost.cache.entries import MANIFEST, entry_key
from frost.cache.store import Store
from frost.errors import InputError
from tests.paths import ROOT
from tests.processes import contents, folder_for_all, leftovers, run

FACTS = {"volume": {"identity": "ab", "mask": {"seed": [1, 2]}}, "params": {"regularisation": 1e-4}}
KEY = entry_key("varnet", FACTS)


def write(folder, content=b"pixels" * 100):
    (folder / "c" / "0").mkdir(parents=True)
    (folder / "c" / "0" / "shard").write_bytes(content)
    (folder / "zarr.json").write_bytes(b"{}")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def entry(store):
    return store.produce("varnet", FACTS, write)


# ---- keys


def test_a_key_depends_on_stage_and_facts_alone():
    assert entry_key("varnet", dict(reversed(FACTS.items()))) == KEY
    assert len({KEY, entry_key("prepare", FACTS), entry_key("varnet", FACTS | {"weights": "1"})}) == 3
    assert len(KEY) == 64


# ---- one entry


def test_an_entry_is_computed_once(store):
    calls = []

    def compute(folder):
        calls.append(folder)
        write(folder)

    first, second = (store.produce("varnet", FACTS, compute) for _ in range(2))
    assert len(calls) == 1 and first == second
    assert first.folder == store.folder("varnet", KEY) == store.root / "varnet" / KEY[:2] / KEY
    assert set(first.files) == {"c/0/shard", "zarr.json"} and first.facts == FACTS
    assert not leftovers(store)


def test_nothing_of_time_or_place_is_in_it(tmp_path):
    """The same bytes from another store, at another time."""
    folders = [Store(tmp_path / place).produce("varnet", FACTS, write).folder for place in ("here", "over/there")]
    assert contents(folders[0]) == contents(folders[1])
    assert str(tmp_path).encode() not in b"".join(contents(folders[0]).values())


def test_files_are_read_only(entry):
    assert all(not path.stat().st_mode & 0o222 for path in entry.folder.rglob("*") if path.is_file())


def test_git_does_not_see_it(entry, store):
    assert (store.root / ".gitignore").read_text() == "*\n"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_found(entry, store, data):
    """In any file, the manifest too."""
    file = data.draw(st.sampled_from(sorted(path for path in entry.folder.rglob("*") if path.is_file())))
    whole = file.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    file.chmod(0o644)
    file.write_bytes(damaged)
    try:
        with pytest.raises(InputError, match=rf"^store entry varnet/{KEY}: .*`frost verify --repair`"):
            store.take("varnet", KEY)
        assert [(record.stage, record.key) for record, _ in store.damaged()] == [("varnet", KEY)]
    finally:
        file.write_bytes(whole)
    assert not store.damaged()


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda folder: (folder / "zarr.json").unlink(), "zarr.json is missing"),
        (lambda folder: (folder / MANIFEST).unlink(), "manifest.json is missing"),
        (lambda folder: (folder / "extra").write_bytes(b""), "extra does not belong here"),
        (
            lambda folder: os.truncate(folder / "c" / "0" / "shard", 10),
            "c/0/shard does not have its 600 bytes",
        ),
        (lambda folder: shutil.rmtree(folder / "c"), "c/0/shard is missing"),
        (
            lambda folder: [path.unlink() for path in folder.rglob("*") if path.is_file()],
            "manifest.json is missing",
        ),
    ],
)
def test_an_incomplete_entry_is_an_error_that_names_it(entry, store, damage, what):
    damage(entry.folder)
    for look in (store.take, lambda stage, key: store.produce(stage, FACTS, write)):
        with pytest.raises(InputError, match=rf"^store entry varnet/{KEY}: {what}"):
            look("varnet", KEY)


def test_a_link_instead_of_a_file_is_refused(entry, store, tmp_path):
    shard = entry.folder / "c" / "0" / "shard"
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="c/0/shard"):
        store.take("varnet", KEY)


def test_swapped_entries_are_noticed(entry, store):
    other = store.produce("varnet", FACTS | {"weights": "2"}, partial(write, content=b"x"))
    shutil.rmtree(entry.folder)
    shutil.copytree(other.folder, entry.folder)
    with pytest.raises(InputError, match="holds another entry"):
        store.take("varnet", KEY)


def test_an_entry_of_another_schema_is_refused(entry, store, monkeypatch):
    monkeypatch.setattr("frost.cache.entries.SCHEMA", 2)
    with pytest.raises(InputError, match=rf"varnet/{KEY}: manifest.json is of another schema than 2"):
        store.take("varnet", KEY)


def test_repair_makes_new_files(entry, store, tmp_path):
    """The damaged inode, which an out may share, is left as it is."""
    store.link(entry, tmp_path / "out")
    shard, linked = entry.folder / "c" / "0" / "shard", tmp_path / "out" / "c" / "0" / "shard"
    shard.chmod(0o644)
    shard.write_bytes(b"damage")
    assert store.drop("varnet", KEY) and not store.has("varnet", KEY) and not leftovers(store)
    again = store.produce("varnet", FACTS, write)
    assert shard.read_bytes() == b"pixels" * 100 and not shard.samefile(linked)
    store.link(again, tmp_path / "out")
    assert linked.read_bytes() == b"pixels" * 100


def test_a_failing_computation_leaves_nothing(store):
    def fail(folder):
        write(folder)
        raise InputError("scan.h5: is damaged")

    with pytest.raises(InputError, match=r"^scan\.h5: is damaged$"):
        store.produce("varnet", FACTS, fail)
    assert not leftovers(store) and not store.ls()
    assert store.produce("varnet", FACTS, write)


def test_a_fault_that_is_not_the_disks_stays_what_it_is(store):
    def fail(folder):
        raise FileNotFoundError(errno.ENOENT, "No such file")

    with pytest.raises(FileNotFoundError):
        store.produce("varnet", FACTS, fail)


# ---- links


def test_linking_shares_or_copies(entry, store, tmp_path, monkeypatch):
    """A hard link or reflink where it can, else a copy; always the same bytes, never the manifest."""
    store.link(entry, tmp_path / "linked")
    monkeypatch.setattr(os, "link", lambda *a: (_ for _ in ()).throw(OSError(errno.EXDEV, "other file system")))
    monkeypatch.setattr("frost.cache.entries._reflink", os.link)
    store.link(entry, tmp_path / "copied")
    assert not (tmp_path / "copied" / "zarr.json").samefile(entry.folder / "zarr.json")
    want = {Path(name): (entry.folder / name).read_bytes() for name in entry.files}
    assert contents(tmp_path / "linked") == contents(tmp_path / "copied") == want


def test_linking_leaves_what_is_right_and_replaces_what_is_wrong(entry, store, tmp_path):
    out = tmp_path / "out"
    store.link(entry, out)
    shard = out / "c" / "0" / "shard"
    shutil.copyfile(shard, tmp_path / "copy")
    shard.unlink()
    (tmp_path / "copy").rename(shard)  # a right copy
    (out / "zarr.json").unlink()
    (out / "zarr.json").write_bytes(b"[]")  # another content of the same size
    (out / "surplus").write_bytes(b"")
    before = shard.stat().st_ino
    store.link(entry, out)
    assert shard.stat().st_ino == before
    assert set(contents(out)) == {Path(name) for name in entry.files}
    assert (out / "zarr.json").read_bytes() == b"{}" == (entry.folder / "zarr.json").read_bytes()


# ---- housekeeping


def age(store, entry, days):
    then = time.time() - 86400 * days
    os.utime(entry.folder / MANIFEST, (then, then))


def test_what_is_old_goes_and_what_is_used_or_locked_stays(store):
    entries = [store.produce("varnet", {"n": n}, write) for n in range(4)]
    for entry in entries:
        age(store, entry, 10)
    store.take("varnet", entries[0].key)  # used now
    process = run(
        "tests.cache.test_store",
        """
        with Store(Path(sys.argv[1])).lock(sys.argv[2]):
            print(flush=True)
            sys.stdin.read()
        """,
        store.root, entries[1].key, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.readline()
    store.training("0" * 64).mkdir(parents=True)
    removed = {record.key for record in store.remove(store.unused(86400))}
    process.communicate()
    assert removed == {entries[2].key, entries[3].key}
    assert {record.key for record in store.ls()} == {entries[0].key, entries[1].key, "0" * 64}
    assert not leftovers(store)
    later = time.time() - 86400 * 2
    os.utime(store.training("0" * 64), (later, later))
    assert {record.key for record in store.remove(store.unused(86400))} == {entries[1].key, "0" * 64}


def test_sizes_are_told_by_stage(entry, store):
    store.produce("prepare", FACTS, write)
    used = sum(map(len, contents(entry.folder).values()))
    assert store.du()["varnet"] == used == store.ls()[1].n_bytes
    assert [record.stage for record in store.ls()] == ["prepare", "varnet"]


def test_the_state_of_a_training_goes_when_its_network_is_finished(store):
    def train(folder):
        (store.training(KEY) / "state").write_bytes(b"state")
        write(folder)

    with pytest.raises(KeyboardInterrupt):
        store.produce("varnet", FACTS, lambda folder: [train(folder), exec("raise KeyboardInterrupt")], claim=True)
    assert contents(store.training(KEY)) == {Path("state"): b"state"}  # an interrupted training goes on from there
    store.produce("varnet", FACTS, train, claim=True)
    assert not store.training(KEY).exists()


def test_an_empty_store(store):
    store.clean()
    assert store.ls() == [] and store.du() == {} and store.remove(store.unused(0)) == [] and store.damaged() == []
    assert not store.root.exists()


# ---- several processes, and what happens to them


def logged(log, folder):
    with log.open("a") as file:
        file.write("computed\n")
    time.sleep(0.3)
    write(folder)


def produce_logged(root, log):
    Store(root).produce("varnet", FACTS, partial(logged, log))


def test_of_two_processes_one_computes(store, tmp_path):
    context = get_context("spawn")
    processes = [context.Process(target=produce_logged, args=(store.root, tmp_path / "log")) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "log").read_text() == "computed\n"


def test_who_does_not_want_to_wait_gets_none(store):
    code = """
        def compute(folder):
            print(flush=True)
            sys.stdin.read()
            write(folder)
        Store(Path(sys.argv[1])).produce("varnet", FACTS, compute)
    """
    process = run("tests.cache.test_store", code, store.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    assert store.produce("varnet", FACTS, write, wait=False) is None
    store.clean()
    assert len(leftovers(store)) == 1  # what a living process writes is nobody else's
    process.communicate()
    assert store.take("varnet", KEY) and not leftovers(store)


def test_killed_in_the_middle(store, entry, tmp_path):
    """kill -9 while it writes: the next run computes, to the same bytes, and removes what was left."""
    code = """
        def compute(folder):
            write(folder)
            print(flush=True)
            sys.stdin.read()
        Store(Path(sys.argv[1])).produce("varnet", FACTS, compute)
    """
    other = Store(tmp_path / "other")
    process = run("tests.cache.test_store", code, other.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    process.kill()
    process.communicate()
    assert len(leftovers(other)) == 1 and not other.ls()
    assert contents(other.produce("varnet", FACTS, write).folder) == contents(entry.folder)
    assert not leftovers(other)


def test_a_full_disk(store):
    """The limit on a file's size fails writes as a full disk does."""

    def too_much(folder):
        (folder / "shard").write_bytes(bytes(100_000))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        with pytest.raises(InputError, match=r"File too large.*FROST_STORE"):
            store.produce("varnet", FACTS, too_much)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not leftovers(store) and not store.ls()
    assert store.produce("varnet", FACTS, too_much)


@pytest.fixture
def closed():
    """A store that this process may read but not write."""
    root = folder_for_all("frost-closed-")
    store = Store(root)
    store.produce("varnet", FACTS, write)
    for path in (root, *root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    yield store
    if superuser:
        os.seteuid(0)
    for path in (root, *root.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(root)


def test_a_store_that_can_only_be_read_serves(closed):
    assert closed.take("varnet", KEY) == closed.produce("varnet", FACTS, write)
    with pytest.raises(InputError, match=r"frost-closed.*: Permission denied \(the store is .*FROST_STORE"):
        closed.produce("varnet", FACTS | {"weights": "2"}, write)


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)
