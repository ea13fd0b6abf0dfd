"""What happens to real stages: killed at random moments, out of disk, from a store that can only be read, together."""

import fcntl
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from frost.training.state import read_state, write_state
from stages import train_rcan
from tests.paths import ROOT
from tests.processes import PATIENCE, alive, children, folder_for_all, until
from tests.soak import CACHES, SLICES, VOLUMES, Workspace

pytestmark = pytest.mark.faults
N_SLICES = SLICES * sum(VOLUMES)


@pytest.fixture
def work():
    folder, mask = folder_for_all("frost-faults-"), os.umask(0o022)
    made = Workspace(folder)
    made.furnish()
    yield made
    os.umask(mask)
    shutil.rmtree(folder)


def start(work, stage, place="", **options):
    """The stage as a process, in a workspace of that store."""
    return subprocess.Popen(
        [sys.executable, "-m", f"stages.{stage}", *work.arguments[stage]],
        cwd=work.at(place), env=os.environ | work.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, **options,
    )  # fmt: skip


def computed(said):
    return int(re.findall(r"(\d+) slices computed", said)[-1])


def faults(said):
    """What a stage said beside its progress."""
    return "".join(re.findall(r"^(?!prepare: |train_rcan: ).*\n", said, re.MULTILINE))


def test_ten_kills_at_random_moments():
    """`make soak` is the long form. The seed is in the output of a failure."""
    command = [sys.executable, "-m", "tests.soak", "--kills", "8", "--commands", "2"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["kills"] >= 10 and said["runs that ended as undisturbed"] >= 10


def test_a_full_disk_and_two_runs_at_once(work):
    """One line says what is wrong; when there is room again, two runs in two workspaces share what is left to do."""
    limited = start(work, "prepare", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)))
    said, _ = limited.communicate(timeout=PATIENCE)
    assert limited.returncode == 1 and re.fullmatch(r"error: .*File too large.*\n", faults(said)), said
    assert not list(work.store.root.glob("tmp/*")) and not work.finished("prepare")

    runs = [start(work, "prepare", place) for place in ("", "b")]
    said = [run.communicate(timeout=PATIENCE)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert work.digest("prepare") == work.digest("prepare", "b") and work.finished("prepare") == sum(VOLUMES)
    assert not work.store.damaged() and not list(work.store.root.glob("tmp/*"))


@pytest.mark.parametrize("n", [2, 4])
def test_runs_at_once_ask_the_network_for_each_slice_once_in_all(work, n):
    """Whatever its number of processes: passes are counted in the network."""
    passes = work.folder / "passes"
    work.environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'passes'}", "VARNET_PASSES": str(passes)}
    places = [f"place{i}" for i in range(n)]
    for stage in CACHES:
        runs = [start(work, stage, place) for place in places]
        said = [run.communicate(timeout=PATIENCE)[0] for run in runs]
        assert [run.returncode for run in runs] == [0] * n, said
        assert len({work.digest(stage, place) for place in places}) == 1
    assert len(passes.read_text().splitlines()) == N_SLICES
    assert not work.store.damaged() and not list(work.store.root.glob("tmp/*"))


@pytest.mark.parametrize("where", ["behind a symbolic link", "on another file system"])
def test_a_store_elsewhere_is_filled_and_linked_or_copied_from(work, where):
    """Copies have the same bytes, and a line says that they are copies."""
    undisturbed = start(work, "prepare")
    assert computed(undisturbed.communicate(timeout=120)[0]) == N_SLICES
    want, link = work.digest("prepare"), work.folder / "link"
    shutil.rmtree(work.folder / CACHES["prepare"])
    memory = Path("/dev/shm")
    is_link = where == "behind a symbolic link"
    if not is_link and not (memory.is_dir() and memory.stat().st_dev != work.folder.stat().st_dev):
        pytest.skip("there is no other file system in /dev/shm")
    with tempfile.TemporaryDirectory(dir=None if is_link else memory) as folder:
        link.symlink_to(folder)
        root = link / "store" if is_link else Path(folder) / "store"
        work.environment["FROST_STORE"] = str(root)
        copies = "" if is_link else f"copies instead of links: the store {root} is on another file system, .*\n"
        for n_slices, line in ((N_SLICES, copies), (0, copies), (0, "")):  # in the end nothing is linked or copied
            run = start(work, "prepare")
            said, _ = run.communicate(timeout=120)
            assert run.returncode == 0 and computed(said) == n_slices and re.fullmatch(line, faults(said)), said
            assert work.digest("prepare") == want
            inodes = {file.stat().st_ino for file in root.glob("prepare/??/*/c/**/*") if file.is_file()}
            outs = [file for file in work.folder.joinpath(CACHES["prepare"]).glob("*/*/c/**/*") if file.is_file()]
            assert len(outs) == sum(VOLUMES) and all((file.stat().st_ino in inodes) == is_link for file in outs)
            if n_slices:
                shutil.rmtree(work.folder / CACHES["prepare"])
        assert not list(root.glob("tmp/*"))


# The superuser may write everywhere, and nobody else may read where Python lies: all is loaded first.
AS_NOBODY = """
import os, sys
from stages import prepare
if os.geteuid() == 0:
    os.seteuid(65534)
prepare.main(sys.argv[1:])
"""


def test_a_store_that_can_only_be_read_is_enough(work):
    first = start(work, "prepare")
    assert computed(first.communicate(timeout=PATIENCE)[0]) == N_SLICES
    want = work.digest("prepare")
    shutil.rmtree(work.folder / CACHES["prepare"])
    for path in (work.store.root, *work.store.root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.geteuid() == 0:
        for path in (work.folder, work.folder / "data"):
            os.chown(path, 65534, -1)
    again = subprocess.Popen(
        [sys.executable, "-c", AS_NOBODY, *work.arguments["prepare"]], cwd=work.folder,
        env=os.environ | work.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said, _ = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0 and computed(said) == 0, said
    assert work.digest("prepare") == want
    for path in (work.store.root, *work.store.root.rglob("*")):
        path.chmod(0o755)


# ---- the training of stage 2, whose batches are read by a process of their own


@pytest.fixture
def training(workspace, tmp_path, monkeypatch):
    """What `train_rcan` is given for a small network, 15 short epochs, and one process that reads for it."""
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    params["train_rcan"]["network"] |= {"features": 4, "groups": 1, "blocks": 1, "reduction": 2}
    params["train_rcan"]["fit"] |= {"epochs": 15}
    params["train_rcan"]["fit"]["loader"] |= {"num_workers": 1}
    YAML().dump(params, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROST_STORE", str(tmp_path / "store"))
    for cache in CACHES.values():
        shutil.copytree(workspace.root / cache, tmp_path / cache)
    return ["--images", "data/images.zarr", "--varnet", "data/varnet.zarr", "--network", "rcan", "--curves", "rcan.tsv"]


def start_training(arguments):
    """Its pipe has room for the lines of about five epochs: it waits there for who reads, and is not too quick."""
    read, write = os.pipe()
    line = b"train_rcan: \n"
    os.write(write, line * ((fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096) - 1000) // len(line)))
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.train_rcan", *arguments], env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=write, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    os.close(write)
    process.stdout = os.fdopen(read)
    return process


def test_a_killed_loader_process_ends_the_training_and_the_next_goes_on(training, tmp_path, monkeypatch):
    """To the bits of a training that nobody disturbed, and that read by itself."""
    first = start_training(training)
    state = until(lambda: next(tmp_path.glob("store/training/*/state"), None))
    children(first)[0].kill()
    said, _ = first.communicate(timeout=PATIENCE)
    assert first.returncode == 1 and re.fullmatch(r"error: DataLoader worker .*Run it again.*\n", faults(said)), said
    reached = read_state(state)
    assert 0 < len(reached["history"]) < 15
    reached["history"][0]["loss"] = 1234.5  # only who goes on from here will say so
    write_state(state, reached)
    second = start_training(training)
    said, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, said
    assert "1234.5" in Path("rcan.tsv").read_text().splitlines()[1]

    killed = Path("rcan/weights.safetensors").read_bytes()
    monkeypatch.setenv("FROST_STORE", str(tmp_path / "another"))
    alone = YAML(typ="safe").load(Path("params.yaml").read_text())
    alone["train_rcan"]["fit"]["loader"]["num_workers"] = 0
    YAML().dump(alone, Path("params.yaml"))
    train_rcan.main(training)
    assert Path("rcan/weights.safetensors").read_bytes() == killed


def test_a_stopped_training_names_the_epoch_from_which_the_next_goes_on(training, tmp_path, monkeypatch):
    """With a TMPDIR in which the sockets of the process that reads would have too long a path."""
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    first = start_training(training)
    state = until(lambda: next(tmp_path.glob("store/training/*/state"), None))
    readers = children(first)
    first.terminate()
    said, _ = first.communicate(timeout=PATIENCE)
    reached = len(read_state(state)["history"])
    assert first.returncode == 128 + signal.SIGTERM and 0 < reached < 15
    kept = [f"the state of epoch {n} is kept" if n else "what was finished is kept" for n in (reached, reached - 1)]
    # The second where it was stopped between the state of an epoch and the note of it.
    assert faults(said) in [f"stopped: {what}; run `dvc repro` again\n" for what in kept], said
    assert readers and not alive(readers)
    second = start_training(training)
    said, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0 and "15 epochs" in said, said


def test_damage_that_a_loader_process_finds_is_one_line(training):
    shard = next(Path("data/varnet.zarr/train").glob("*/c/0/0/0/0"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 4] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(content)
    run = start_training(training)
    said, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 1 and re.fullmatch(rf"error: {shard.parents[4]}: slice 0 is damaged.*\n", faults(said)), (
        said
    )
