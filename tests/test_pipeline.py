"""The real pipeline by `dvc repro`: what runs, what does not, and how many slices a VarNet is asked for.

The tiny pipeline is run once; each test works on a copy of it. Passes are counted in the network, not by the stages.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import h5py
import psutil
import pytest
import torch
from filelock import FileLock
from ruamel.yaml import YAML

from frost.cache.shards import cache_faults
from frost.networks.common.checkpoint import load_network, save_network
from frost.networks.kspace import KSPACE_NETWORKS
from frost.pipeline.processes.unfinished import is_left
from frost.scans.volumes import SPLITS
from frost.training.state import read_state, write_state
from tests.paths import ROOT
from tests.processes import alive, until

BIN = Path(sys.executable).parent
STAGES = ("simulate", "index", "prepare", "train_varnet", "cache_varnet", "train_rcan", "evaluate")
TINY = {
    "simulate": {"subjects": 3, "val": 1, "test": 1, "slices": 2, "coils": 3, "size": 48},
    "index.masks": {"accelerations": [2], "center_fractions": [0.2]},
    "train_varnet.network": {
        "cascades": 1, "channels": 4, "pools": 1, "sens_channels": 2, "sens_pools": 1, "sens_size": 16,
    },
    "train_varnet.fit": {"epochs": 1},
    "train_rcan.network": {"features": 8, "groups": 1, "blocks": 1, "reduction": 4},
    "train_rcan.fit": {"epochs": 1},
}  # fmt: skip

pytestmark = pytest.mark.pipeline


class Repository:
    """A clone of this project, and what `dvc` and `git` do in it."""

    def __init__(self, folder):
        self.folder = folder

    def environment(self):
        """Of whatever runs here: nobody's settings, and a place to count passes in."""
        own = {"OMP_NUM_THREADS": "1", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
        own |= {"DVC_SITE_CACHE_DIR": str(self.folder.parent / "site"), "GIT_CONFIG_GLOBAL": os.devnull}
        own |= {"PYTHONPATH": str(ROOT / "tests" / "passes"), "VARNET_PASSES": str(self.folder.parent / "passes")}
        own |= {f"DVC_{level}_CONFIG_DIR": str(self.folder.parent / level) for level in ("SYSTEM", "GLOBAL")}
        own |= {f"GIT_{who}_{what}": "frost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        return {name: value for name, value in os.environ.items() if not name.startswith(("FROST_", "PYTEST_"))} | own

    def run(self, *command, status=0, **environment):
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment() | environment, capture_output=True, text=True
        )
        assert done.returncode == status, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def git(self, *arguments):
        return self.run("git", *arguments)

    def frost(self, *arguments, status=0):
        """The command as this repository has it, not as it is installed."""
        return self.run("python", "-c", "from frost.cli import main; main()", *arguments, status=status)

    def commit(self):
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "state")

    def repro(self, *arguments):
        """`dvc repro`; the stages that ran, each with what it said."""
        return stages_run(self.run("dvc", "repro", *arguments))

    def passes(self):
        """Slices that any process of any stage asked a VarNet for since this was called last."""
        file = self.folder.parent / "passes"
        n_slices = len(file.read_text().splitlines()) if file.exists() else 0
        file.unlink(missing_ok=True)
        return n_slices

    def params(self, **changes):
        """Set params, `section__key=value`."""
        yaml = YAML()
        file = self.folder / "params.yaml"
        values = yaml.load(file.read_text())
        for name, value in changes.items():
            *sections, key = name.split("__")
            place = values
            for section in sections:
                place = place[section]
            assert key in place
            place[key] = value
        with file.open("w") as opened:
            yaml.dump(values, opened)

    def digest(self, *outs):
        """Of every byte and name in the outs, and of nothing else."""
        digest = hashlib.sha256()
        for out in outs:
            for path in sorted(self.folder.joinpath(out).rglob("*")):
                digest.update(f"{path.relative_to(self.folder)}".encode())
                digest.update(path.read_bytes() if path.is_file() else b"")
        return digest.hexdigest()


def stages_run(said):
    """Stage name -> its line of summary, without those of progress, from the output of dvc."""
    ran = re.findall(r"^Running stage '(\w+)':", said, re.MULTILINE)
    summary = r"(?!cpu,|epoch |goes on |\d+ of ).*"
    return {stage: "".join(re.findall(rf"^{stage}: {summary}", said, re.MULTILINE)) for stage in ran}


def slices(ran, stage):
    """How many slices a stage says that it computed."""
    return int(re.search(r"(\d+) slices computed", ran[stage])[1]) if stage in ran else 0


def new_repository(folder):
    """The files of this project as they are now, with tiny params, in a git repository of their own."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    (folder / "dvc.lock").unlink(missing_ok=True)
    repository = Repository(folder)
    repository.params(**{
        f"{section.replace('.', '__')}__{key}": value for section, some in TINY.items() for key, value in some.items()
    })  # fmt: skip
    repository.git("init", "--quiet")
    repository.commit()
    return repository


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The pipeline run once from nothing, by one of the processes that pytest has: its folder, what ran, passes."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, said = base / "pipeline" / "repository", base / "pipeline-said"
    with FileLock(base / "pipeline.lock"):
        if not said.exists():
            folder.mkdir(parents=True)
            repository = new_repository(folder)
            text = repository.run("dvc", "repro")
            repository.commit()
            said.write_text(text)
    return folder, stages_run(said.read_text()), len((folder.parent / "passes").read_text().splitlines())


@pytest.fixture
def repository(finished, tmp_path):
    """A copy of it that shares nothing with it: files that were one on disk are one again among themselves."""
    copies = {}

    def copy(source, target):
        inode = Path(source).stat().st_ino
        if inode in copies:
            os.link(copies[inode], target)
        else:
            copies[inode] = shutil.copy2(source, target)

    shutil.copytree(finished[0], tmp_path / "repository", symlinks=True, copy_function=copy)
    return Repository(tmp_path / "repository")


def test_the_first_run_makes_everything_and_the_second_nothing(finished, repository):
    assert list(finished[1]) == list(STAGES)
    assert slices(finished[1], "prepare") == slices(finished[1], "cache_varnet") == 6
    assert finished[2] == 2 + 2 + 6  # an epoch, its validation, and the frozen network once over every slice
    declared = YAML(typ="safe").load((repository.folder / "dvc.yaml").read_text())["stages"]
    for stage in declared.values():
        for out in (out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])):
            assert (repository.folder / (out if isinstance(out, str) else next(iter(out)))).exists()
    metrics = json.loads((repository.folder / "metrics" / "evaluate.json").read_text())
    assert 0 < metrics["test"]["rcan"]["ssim"] < 1
    bound = json.loads((repository.folder / "models" / "bound.json").read_text())
    assert bound["n_patients"] == 1 and bound["margin"] is None
    scans = json.loads((repository.folder / "models" / "rcan" / "config.json").read_text())["made_by"]["scans"]
    assert (scans["coils"], scans["rows"], scans["columns"]) == ([3, 3], [48, 48], [48, 48])
    assert 0 < scans["noise"][0] <= scans["noise"][1] < 1 and scans["difference"][0] > 0

    assert list(repository.repro()) == ["index"] and repository.passes() == 0
    assert repository.git("status", "--porcelain") == ""
    for shard in repository.folder.glob("data/*.zarr/*/*/c/0/0/0/0"):  # one copy on disk: store, out and cache share it
        shares = [path for path in (repository.folder / ".dvc").rglob("*") if path.samefile(shard)]
        assert {path.relative_to(repository.folder).parts[1] for path in shares} == {"frost-store", "cache"}


def test_a_fault_of_the_last_stage_ends_the_first_and_a_line_an_epoch_tells_of_a_training(repository):
    repository.params(evaluate__batch_size=0, train_rcan__inputs=["varnet", "grapa"], train_rcan__fit__epochs=2)
    said = repository.run("dvc", "repro", status=255)
    faults = [line for line in said.splitlines() if line.startswith("error: ")]
    assert [line.split(": ")[2] for line in faults] == ["evaluate.batch_size", "train_rcan.inputs"]
    assert list(stages_run(said)) == ["index"]

    repository.params(evaluate__batch_size=2, train_rcan__inputs=["varnet", "grappa"])
    said = repository.run("dvc", "repro")
    assert list(stages_run(said)) == ["index", "train_rcan", "evaluate"]
    assert "\nplan: train_rcan: rcan of varnet grappa, " in said and "; is in the store\n" in said
    for stage in ("train_rcan", "evaluate"):  # those that run
        assert re.search(rf"^plan: {stage}: .*; about \d+ s, \d+ MB a process, by a probe", said, re.MULTILINE), said
    epochs = re.findall(r"^train_rcan: epoch (\d)/2, loss 0\.\d{4}, val SSIM ", said, re.MULTILINE)
    assert epochs == ["1", "2"]
    assert "plan:" not in repository.run("dvc", "repro")  # checked already


def test_an_experiment_in_a_temporary_workspace_asks_stage_1_nothing(repository):
    said = repository.run("dvc", "exp", "run", "--temp", "--name", "longer", "-S", "train_rcan.fit.epochs=2")
    ran = stages_run(said)
    assert list(ran) == ["index", "train_rcan", "evaluate"] and "2 epochs" in ran["train_rcan"]
    assert repository.passes() == 0
    assert repository.git("status", "--porcelain") == ""
    assert not list(repository.folder.glob(".dvc/tmp/exps/**/frost-store"))  # it used that of the main workspace
    difference = json.loads(repository.run("dvc", "metrics", "diff", "HEAD", "longer", "--json"))
    assert {"old", "new", "diff"} <= difference["metrics/evaluate.json"]["test.rcan.ssim"].keys()
    repository.frost("report", "HEAD", "longer", "--output", "report.html")
    page = (repository.folder / "report.html").read_text()
    assert "train_rcan.fit.epochs: 1 \u2192 2" in page and "RCAN, longer" in page
    commit = repository.git("rev-parse", "HEAD")[:9]
    assert f"<code>{commit}</code>" in page and "<td>prepare</td><td>3 volumes, " in page
    costs = re.search(r"<td>train_rcan</td><td>(.*?)</td><td>(.*?)</td>", page)
    assert all("GB" in cost for cost in costs.groups())
    store = repository.frost("store", "ls")
    assert "longer" in store and "workspace" in store
    assert "nothing to remove" in repository.frost("store", "gc", "--unneeded", "--yes")


def test_another_image_network_leaves_stage_1_alone(repository):
    file = repository.folder / "frost" / "networks" / "image" / "rcan.py"
    file.write_text(file.read_text() + "# a remark\n")
    changed = json.loads(repository.run("dvc", "status", "--json"))
    assert set(changed) == {"index", "train_rcan", "evaluate"} and changed["index"] == ["always changed"]


def copy_scan(source, target, factor):
    """A scan of the same form with other numbers: another volume."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    with h5py.File(target, "r+") as h5:
        h5["kspace"][...] = h5["kspace"][...] * factor
        h5.attrs["patient_id"] = target.stem


def test_own_scans_elsewhere(repository, tmp_path):
    """By an absolute path, and one more for test; then one more to train on with stage 1 frozen; then all moved."""
    own = tmp_path / "scans"
    shutil.copytree(repository.folder / "data" / "simulated", own)
    old = sorted((own / "test").glob("*.h5"))[0]
    copy_scan(old, own / "test" / "added.h5", 1.1)
    repository.params(simulate__subjects=0, index__source=str(own))
    ran = repository.repro("train_rcan", "cache_varnet")
    assert list(ran) == ["simulate", "index", "prepare", "cache_varnet"]  # nothing is trained
    assert slices(ran, "prepare") == slices(ran, "cache_varnet") == repository.passes() == 2

    copy_scan(old, own / "train" / "added.h5", 1.2)
    repository.run("dvc", "freeze", "train_varnet")
    weights = repository.digest("models/varnet")
    ran = repository.repro("prepare", "cache_varnet")
    assert list(ran) == ["index", "prepare", "cache_varnet"]
    assert slices(ran, "prepare") == slices(ran, "cache_varnet") == repository.passes() == 2
    assert repository.digest("models/varnet") == weights

    repository.run("dvc", "unfreeze", "train_varnet")
    assert repository.git("diff", "--name-only", "dvc.yaml") == ""
    copy_scan(old, own / "train" / "another.h5", 1.3)
    ran = stages_run(repository.run("dvc", "repro", "--single-item", "index", "prepare", "cache_varnet", "train_rcan"))
    assert list(ran) == ["index", "prepare", "cache_varnet", "train_rcan"]
    assert slices(ran, "prepare") == slices(ran, "cache_varnet") == repository.passes() == 2
    assert repository.digest("models/varnet") == weights and repository.git("diff", "--name-only", "dvc.yaml") == ""

    repository.run("dvc", "freeze", "train_varnet")
    moved = own.rename(tmp_path / "moved")
    for file in moved.rglob("*.h5"):
        os.utime(file, (0, 0))
    repository.params(index__source=str(moved))
    assert list(repository.repro("prepare", "cache_varnet")) == ["index"] and repository.passes() == 0

    scans = {file.read_bytes() for file in moved.rglob("added.h5")}
    kept = (file for file in repository.folder.rglob("*") if file.is_file() and not file.is_symlink())
    assert len(scans) == 2 and not any(file.read_bytes() in scans for file in kept)


def flip_a_byte(file):
    """In its middle, in place, its time kept: whoever links to it has it too."""
    status, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o644)
    with file.open("r+b") as opened:
        opened.write(content)
    file.chmod(status.st_mode)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_flipped_byte_is_found_and_that_volume_alone_made_anew(repository):
    folder, outs = repository.folder, ("data/images.zarr", "data/varnet.zarr")
    right = repository.digest(*outs)
    for cache in map(folder.joinpath, outs):
        for file in (path for path in cache.rglob("*") if path.is_file()):
            flip_a_byte(file)
            assert cache_faults(cache, SPLITS), file
            flip_a_byte(file)
    assert "every byte is what was written, and 3 slices" in repository.frost("verify", "--recompute", "3")

    shard = next(folder.glob("data/varnet.zarr/train/*/c/0/0/0/0"))
    (folder / "inner").hardlink_to(shard)
    flip_a_byte(shard)
    said = repository.frost("verify", status=1)
    assert "store entry cache_varnet/" in said and "slice 1 is damaged" in said
    said = repository.frost("verify", "--repair")
    assert re.search(r"cache_varnet: .*\b2 slices computed", said) and "prepare:" not in said
    assert repository.passes() == 3 + 2  # three asked again, and the two of the damaged volume
    assert repository.digest(*outs) == right
    (folder / "inner").unlink()
    shutil.rmtree(folder / "data" / "varnet.zarr")
    repository.run("dvc", "checkout")  # DVC's cache too has the new file
    assert repository.digest(*outs) == right
    assert json.loads(repository.run("dvc", "status", "--json")) == {"index": ["always changed"]}


def kill_in_training(repository):
    """`kill -9` of `dvc repro` and all it started, after the first epochs of a training; the state that is left."""
    trainings = repository.folder / ".dvc" / "frost-store" / "training"
    run = subprocess.Popen(
        ["dvc", "repro"], cwd=repository.folder, env=repository.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        until(lambda: run.poll() is not None or any(trainings.glob("*/state")))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL, "it was quicker"
    return next(trainings.glob("*/state"))


@pytest.mark.parametrize("stage", ["train_varnet", "train_rcan"])
def test_a_killed_training_goes_on_to_the_same_bits_and_another_starts_afresh(repository, stage):
    name = stage.removeprefix("train_")
    curves, weights = repository.folder / f"metrics/curves/{name}.tsv", f"models/{name}"
    repository.params(**{f"{stage}__fit__epochs": 60})
    state = kill_in_training(repository)
    until(lambda: all(is_left(claim) for claim in (state.parent / "claim").glob("*")))  # the killed process is gone
    reached = read_state(state)
    assert 0 < len(reached["history"]) < 60
    reached["history"][0]["loss"] = 1234.5  # only who goes on from here has it
    write_state(state, reached)
    repository.params(**{f"{stage}__fit__seed": 1, f"{stage}__fit__epochs": 2})
    repository.repro(stage)
    assert "1234.5" not in curves.read_text()
    repository.params(**{f"{stage}__fit__seed": 0, f"{stage}__fit__epochs": 60})
    assert "60 epochs" in repository.repro(stage)[stage]
    assert "1234.5" in curves.read_text().splitlines()[1]
    killed = (repository.folder / weights / "weights.safetensors").read_bytes()
    command = YAML(typ="safe").load((repository.folder / "dvc.yaml").read_text())["stages"][stage]["cmd"]
    repository.run(*shlex.split(command), FROST_STORE=str(repository.folder.parent / "another"))
    assert (repository.folder / weights / "weights.safetensors").read_bytes() == killed


def test_push_here_pull_there(repository, tmp_path):
    repository.run("dvc", "remote", "add", "--default", "shared", str(tmp_path / "remote"))
    repository.commit()
    repository.run("dvc", "push")
    clone = Repository(tmp_path / "clone")
    repository.git("clone", "--quiet", str(repository.folder), str(clone.folder))
    clone.run("dvc", "pull")
    adopted = clone.frost("store", "adopt")
    assert re.findall(r"^(\w+): (\d+) volumes taken", adopted, re.MULTILINE) == [
        ("prepare", "3"),
        ("cache_varnet", "3"),
    ]
    assert "train_varnet: its network taken" in adopted and "train_rcan: its network taken" in adopted
    plan = clone.frost("plan")
    assert all(re.search(rf"^plan: {stage}: .*in the store$", plan, re.MULTILINE) for stage in STAGES[2:6]), plan
    assert "every byte" in clone.frost("verify")
    assert list(clone.repro()) == ["index"]
    assert clone.git("status", "--porcelain") == ""
    assert clone.digest("data/varnet.zarr") == repository.digest("data/varnet.zarr")
    ran = stages_run(clone.run("dvc", "exp", "run", "-S", "train_rcan.fit.epochs=2", "train_rcan"))
    assert list(ran) == ["index", "train_rcan"] and clone.passes() == 0

    copy_scan(sorted((clone.folder / "data/simulated/test").glob("*.h5"))[0], tmp_path / "own" / "test" / "new.h5", 1.1)
    shutil.copytree(clone.folder / "data/simulated", tmp_path / "own", dirs_exist_ok=True)
    clone.params(index__source=str(tmp_path / "own"))
    ran = clone.repro("prepare", "cache_varnet")
    assert slices(ran, "prepare") == slices(ran, "cache_varnet") == clone.passes() == 2  # the new volume alone


def test_two_workers_of_a_queue(repository):
    """Both end well, neither runs a stage before `train_rcan`, and both have the caches that were there."""
    epochs = {"two": 2, "three": 3}
    for name, n in epochs.items():
        repository.run("dvc", "exp", "run", "--queue", "--name", name, "-S", f"train_rcan.fit.epochs={n}")
    repository.run("dvc", "queue", "start", "--jobs", "2")

    def ended():
        status = repository.run("dvc", "queue", "status")
        assert "Failed" not in status, status
        return status.count("Success") == 2 and "0 active, 0 idle" in status

    until(ended)
    refs = repository.git("for-each-ref", "--format=%(refname)", "refs/exps").split()
    for name, n in epochs.items():
        ran = stages_run(repository.run("dvc", "queue", "logs", name))
        assert list(ran) == ["index", "train_rcan", "evaluate"] and f"{n} epochs" in ran["train_rcan"]
        experiment = next(ref for ref in refs if ref.endswith(f"/{name}"))
        locks = [YAML(typ="safe").load(repository.git("show", f"{of}:dvc.lock")) for of in ("HEAD", experiment)]
        for stage in ("prepare", "train_varnet", "cache_varnet"):
            assert locks[0]["stages"][stage]["outs"] == locks[1]["stages"][stage]["outs"]
    assert repository.passes() == 0


def test_a_file_that_is_replaced_under_its_name_is_imported_again(repository, tmp_path):
    """Weights of others, by an absolute path that params.yaml goes on naming."""
    weights = tmp_path / "weights"
    shutil.copytree(repository.folder / "models" / "varnet", weights)
    repository.params(train_varnet__import=str(weights))
    assert list(repository.repro("cache_varnet"))[-1] == "cache_varnet"
    before = repository.digest("data/varnet.zarr")
    assert list(repository.repro("cache_varnet")) == ["index"]
    network = load_network(weights, KSPACE_NETWORKS)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1.1)
    shutil.rmtree(weights)
    save_network(weights, "varnet", network)
    ran = repository.repro("cache_varnet")
    assert {"index", "train_varnet", "cache_varnet"} <= set(ran) and slices(ran, "cache_varnet") == 6
    assert repository.digest("data/varnet.zarr") != before


def test_masks_of_two_directions_go_through_every_stage_without_grappa(tmp_path):
    folder = tmp_path / "samples" / "repository"
    folder.mkdir(parents=True)
    repository = new_repository(folder)
    repository.params(index__masks__kind="poisson", train_rcan__inputs=["varnet", "grappa"])
    said = repository.run("dvc", "repro", status=255)
    assert "are undersampled in two directions, which GRAPPA does not fill; [varnet, sense] does without it" in said
    assert not (folder / "models" / "varnet").exists()
    repository.params(train_rcan__inputs=["varnet", "sense"])
    assert set(repository.repro()) >= {"train_varnet", "evaluate"}
    metrics = json.loads((folder / "metrics" / "evaluate.json").read_text())["test"]
    assert "grappa" not in metrics and all(0 < metrics[image]["ssim"] < 1 for image in ("zero_filled", "sense", "rcan"))
    made_by = json.loads((folder / "models" / "rcan" / "config.json").read_text())["made_by"]
    assert made_by["scans"]["directions"] == [2, 2] and "difference_sense" in made_by["scans"]
    repository.frost("report", "--output", "report.html")
    assert "disagreement of VarNet and SENSE" in (folder / "report.html").read_text()
    words = ("--input", "data/simulated/test", "--models", "models", "--device", "cpu")
    assert "familiar" in repository.frost("reconstruct", *words, "--output", "images")
    assert 0 < json.loads(repository.frost("trust", *words, "--json"))["mean"]["residual_varnet"] < 1


@pytest.mark.parametrize("how", [("kill", "long"), ("stop", "--kill")], ids=" ".join)
def test_an_experiment_that_the_queue_kills_leaves_no_process_and_keeps_its_epochs(repository, how):
    trainings = repository.folder / ".dvc" / "frost-store" / "training"
    repository.run("dvc", "exp", "run", "--queue", "--name", "long", "-S", "train_rcan.fit.epochs=5000")
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # the worker would keep a pipe open
    subprocess.run(["dvc", "queue", "start"], cwd=repository.folder, env=repository.environment(), check=True, **silent)
    until(lambda: any(trainings.glob("*/state")))
    started = [process for process in psutil.process_iter() if repository.folder in workplace(process).parents]
    assert started
    repository.run("dvc", "queue", *how)
    until(lambda: not alive(started))
    said = repository.run("dvc", "queue", "logs", "long")
    assert "train_rcan: epoch 1/5000" in said and "Traceback" not in said, said
    (state,) = trainings.glob("*/state")
    assert 0 < len(read_state(state)["history"]) < 5000 and repository.passes() == 0
    until(lambda: all(is_left(claim) for claim in (state.parent / "claim").glob("*")))  # free for the next run


def workplace(process):
    """The working folder of a process; nowhere where it is gone."""
    try:
        return Path(process.cwd())
    except psutil.Error:
        return Path()
