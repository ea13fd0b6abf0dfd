"""params.yaml as a whole: every kind of fault is one line, all are told at once, and what is right gives a plan."""

import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from frost.cache.folds import frozen_facts, frozen_networks, frozen_sources, network_for, training_record
from frost.cache.store import Store
from frost.mri.sampling import MaskRecord
from frost.networks.common.checkpoint import build, save_network
from frost.networks.image import IMAGE_NETWORKS
from frost.networks.kspace import KSPACE_NETWORKS
from frost.pipeline.params import NamedParams
from frost.planning.agreement import between_sections, notes, untracked_networks, with_files, with_scans
from frost.planning.estimates import kspace_inputs, size
from frost.planning.plan import plan_lines
from frost.planning.probes import _timed, filled, training_probe
from frost.planning.sections import read_project
from frost.training.fit import FitParams
from frost.training.stage_one import facts
from tests.indexes import index_of
from tests.paths import ROOT
from tests.processes import PATIENCE

YAML_OF = YAML(typ="safe")
SIMULATED = "data/simulated"


def write_params(folder, changes):
    """The project's own params with `changes`, a section.key: value for each; `...` removes a key."""
    sections = YAML_OF.load((ROOT / "params.yaml").read_text())
    for name, value in changes.items():
        *parents, key = name.split(".")
        place = sections
        for parent in parents:
            place = place[parent]
        if value is ...:
            del place[key]
        else:
            place[key] = value
    with (folder / "params.yaml").open("w") as out:
        YAML_OF.dump(sections, out)
    shutil.copy(ROOT / "dvc.yaml", folder)


@pytest.fixture
def faults_of(tmp_path, monkeypatch):
    """All faults of changed params in a folder of their own; with an index, those of its scans too."""
    monkeypatch.chdir(tmp_path)

    def faults(changes, index=None):
        write_params(tmp_path, changes)
        project, found = read_project(tmp_path / "params.yaml", tmp_path / "dvc.yaml")
        found += [*between_sections(project), *with_files(project, tmp_path / SIMULATED)]
        found += [] if index is None else with_scans(project, index)
        assert all("\n" not in line for line in found)
        return [line.removeprefix(f"{tmp_path}/") for line in found]

    return faults


@pytest.fixture(scope="module")
def index(tmp_path_factory, write_fastmri_tree):
    root = tmp_path_factory.mktemp("scans")
    return index_of(write_fastmri_tree(root, (2, 2, 2), test_target=True))


ONE = {
    "typo": ({"evaluate.batch_siz": 4}, "evaluate.batch_siz: no such parameter; there are ensemble, batch_size"),
    "missing": ({"train_rcan.fit.epochs": ...}, "train_rcan.fit.epochs: Field required"),
    "type": ({"prepare.grappa.kernel_points": "seven"}, "prepare.grappa.kernel_points: .* not 'seven'"),
    "rule": ({"train_varnet.fine_tune": True}, "train_varnet: fine_tune needs the weights that import names"),
    "no section": ({"cache_varnet": ...}, "has no section `cache_varnet`"),
    "no stage": ({"train_rcann": {}}, "train_rcann: no stage of .*dvc.yaml has this name; there are cache_varnet,"),
    "name": ({"train_rcan.network.name": "rcon"}, "train_rcan.network.name: there is no network 'rcon'; there are "),
    "size": ({"train_varnet.network.cascades": 0}, "train_varnet.network.cascades: .* not 0"),
    "of another": ({"train_rcan.network.name": "unet"}, "train_rcan.network.channels: Field required"),
    "channel": ({"train_rcan.inputs": ["varnet", "grapa"]}, "train_rcan.inputs: the caches have no channel 'grapa'"),
    "answer": ({"train_rcan.inputs": ["target"]}, "train_rcan.inputs: 'target' is no channel"),
    "sense": (
        {"train_rcan.inputs": ["varnet", "sense-1"], "prepare.sense": None},
        "train_rcan.inputs: the caches have no channel 'sense' where prepare.sense is null",
    ),
    "source": ({"index.source": "/nowhere"}, "index.source: /nowhere: no such folder"),
    "nobody": ({"simulate.subjects": 0}, "index.source: data/simulated: is what stage `simulate` makes, and sim"),
    "heads": ({"simulate.heads": "nowhere"}, "simulate.heads: nowhere is not a folder of NIfTI heads"),
    "weights": ({"train_varnet.import": "nowhere.pt"}, "train_varnet.import: nowhere.pt: no such file or folder"),
    "no weights": ({"train_varnet.import": "params.yaml"}, "train_varnet.import: params.yaml: not a file of weights"),
    "images": ({"cache_varnet.import": "nowhere"}, "cache_varnet.import: nowhere: no such folder"),
}


@pytest.mark.parametrize(("changes", "line"), ONE.values(), ids=ONE)
def test_a_fault_is_one_line(faults_of, changes, line):
    found = faults_of(changes)
    assert any(re.match(rf"params\.yaml: {line}", fault) for fault in found), found
    assert len(found) == 1 or "batch_siz" in line or "unet" in changes.values()  # which miss other keys too


WITH_SCANS = {
    "batch": (
        {"train_rcan.fit.batch_size": 5},
        "train_rcan.fit.batch_size: 5 slices of one shape are more than train has: 4 of its 4 slices",
    ),
    "batch of stage 1": ({"train_varnet.fit.batch_size": 5}, "train_varnet.fit.batch_size: 5 slices of one shape"),
    "grappa": (
        {"prepare.grappa.source": "file"},
        "prepare.grappa.source: file: 6 of 6 volumes have no `image_grappa`, train/.* the first",
    ),
    "kernel": ({"prepare.grappa.kernel_points": 49}, "prepare.grappa.kernel_points: 49 must not exceed the 48 rows"),
    "preset of two groups": (
        {"evaluate.presets": ["snu2022", "snu2023"]},
        "evaluate.presets: snu2023 can score neither split: val: it is the mean over acc4 and acc8; there is acc4;",
    ),
    "preset by names": ({"evaluate.presets": ["snu2025"]}, "evaluate.presets: snu2025 .* brain or knee"),
}


@pytest.mark.parametrize(("changes", "line"), WITH_SCANS.values(), ids=WITH_SCANS)
def test_what_the_scans_cannot_give_is_one_line(faults_of, index, changes, line):
    (found,) = faults_of(changes, index)
    assert re.match(rf"params\.yaml: {line}", found)


def test_masks_of_two_directions_go_without_grappa(faults_of, index):
    """Also where a single volume has one; the numbers of GRAPPA's own section are then of no matter for it."""
    record = {"kind": "file_2d", "acceleration": None, "center_fraction": None, "seed": None, "padding": (0, 44)}
    (first, *others) = index["test"]
    scattered = first.model_copy(update={"mask": MaskRecord.model_validate(record)})
    mixed = {**index, "test": [scattered, *others]}
    (found,) = faults_of({"train_rcan.inputs": ["varnet", "grappa-1"]}, mixed)
    assert re.match(
        r"params\.yaml: train_rcan\.inputs: grappa-1: 1 of 6 volumes, test/.* the first, are undersampled in two "
        r"directions, which GRAPPA does not fill; \[varnet, sense\] does without it",
        found,
    )
    assert faults_of({"train_rcan.inputs": ["varnet", "sense"]}, mixed) == []
    network = {"train_varnet.network.name": "grappa_varnet", "train_rcan.inputs": ["varnet"]}
    assert any("train_varnet.network: grappa_varnet: 1 of 6 volumes" in line for line in faults_of(network, mixed))
    everyone = {
        split: [v.model_copy(update={"mask": scattered.mask}) for v in volumes] for split, volumes in index.items()
    }
    alone = {"train_rcan.inputs": ["varnet"], "prepare.grappa.kernel_points": 49, "prepare.grappa.source": "file"}
    assert faults_of(alone, everyone) == []


def test_images_of_another_program_for_other_volumes_are_a_fault(faults_of, index, tmp_path):
    (tmp_path / "images").mkdir()
    (found,) = faults_of({"cache_varnet.import": "images"}, index)
    assert found.startswith("images: has no image of train/")


def test_scans_that_teach_and_score_nothing(faults_of, index):
    blind = {split: [v.model_copy(update={"target": "none"}) for v in volumes] for split, volumes in index.items()}
    found = faults_of({}, {**index, "val": blind["val"], "test": blind["test"]})
    assert [line.split(":")[0] for line in found] == ["train_varnet", "train_rcan", "params.yaml"]
    assert "snu2022 can score neither split: val: no volume has a target" in found[2]
    faint = {split: [v.model_copy(update={"maximum": 4e-5}) for v in volumes] for split, volumes in index.items()}
    assert "is below the foreground threshold 5e-05" in faults_of({}, faint)[0]
    unknown = {split: [v.model_copy(update={"maximum": None}) for v in volumes] for split, volumes in index.items()}
    assert "has no attribute `max`" in faults_of({}, unknown)[0]
    single = {split: [v.model_copy(update={"patient": "one"}) for v in volumes] for split, volumes in index.items()}
    assert faults_of({"train_varnet.folds": 3}, single) == [
        "params.yaml: train_varnet.folds: 3: the 1 patients of train are all in one fold; take 1"
    ]
    mask = index["train"][0].mask.model_copy(update={"center_fraction": 1 / 44})
    thin = {**index, "train": [v.model_copy(update={"mask": mask}) for v in index["train"]]}
    assert "GRAPPA needs at least 2 centre lines; 2 of 6 volumes get 1" in faults_of({}, thin)[0]


def test_a_network_that_its_params_cannot_make_is_one_line(faults_of, monkeypatch):
    def fail(self, params, n_inputs):
        raise ValueError(f"features must be a multiple of\n 7, not {params.features}")

    monkeypatch.setattr(IMAGE_NETWORKS["rcan"], "__init__", fail)
    assert faults_of({}) == [
        "params.yaml: train_rcan.network: cannot be built: features must be a multiple of 7, not 32"
    ]


def test_all_faults_are_told_at_once_and_the_project_itself_has_none(faults_of, index):
    assert faults_of({}, index) == []
    several = {"evaluate.batch_size": 0, "simulate.coils": 0, "train_rcan.network.typo": 1, "index.source": "/nowhere"}
    assert len(faults_of(several)) == 4


def test_the_plan_counts_the_work(tmp_path, index, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, {"train_rcan.inputs": ["varnet"], "train_rcan.fit.epochs": 7, "prepare.sense": None})
    project, _ = read_project(tmp_path / "params.yaml", tmp_path / "dvc.yaml")
    lines = {line.split(": ")[0]: line for line in plan_lines(project, index, Store(tmp_path / "store"))}
    assert list(lines)[:4] == ["train", "val", "test", "device"]
    assert lines["val"] == "val: 2 volumes, 4 slices, 4 coils, 48 x 44"
    assert "6 volumes, 12 slices to make" in lines["prepare"]
    assert "disk 0.15 MB" in lines["prepare"]  # 12 slices of 32 x 32, three channels of 4 bytes
    assert "rcan of varnet, " in lines["train_rcan"] and "7 epochs of 2 steps" in lines["train_rcan"]
    with torch.device("cpu"):
        network = build(IMAGE_NETWORKS, project.train_rcan.network, 1)
    assert f"{sum(weight.numel() for weight in network.parameters()):,} parameters" in lines["train_rcan"]
    assert "4 epochs of 4 steps" in lines["train_varnet"] and lines["train_varnet"].endswith("; starts")


SMALL_VARNET = {"cascades": 1, "channels": 4, "pools": 1, "sens_channels": 2, "sens_pools": 1, "sens_size": 16}


@pytest.fixture
def small(tmp_path, index, monkeypatch):
    """The lines of a plan by stage, with small networks, in a workspace whose store can be filled."""
    monkeypatch.chdir(tmp_path)
    changes = {f"train_varnet.network.{key}": value for key, value in SMALL_VARNET.items()}
    write_params(tmp_path, changes | {"train_rcan.network.features": 8, "prepare.sense": None})
    project, faults = read_project(tmp_path / "params.yaml", tmp_path / "dvc.yaml")
    assert not faults

    def lines(source=None, frozen=False):
        return {line.split(": ")[0]: line for line in plan_lines(project, index, store, source, frozen)}

    store = Store(tmp_path / "store")
    lines.project, lines.store = project, store
    return lines


def test_each_stage_that_runs_has_a_time_by_a_probe_of_the_scans(small, index, tmp_path_factory, monkeypatch):
    monkeypatch.setattr("frost.planning.probes.LIMIT", PATIENCE)
    source = next(
        path for path in tmp_path_factory.getbasetemp().glob("scans*") if (path / index["val"][0].file).exists()
    )
    lines = small(source)
    for stage in ("prepare", "train_varnet", "cache_varnet", "train_rcan", "evaluate"):
        assert re.search(r"; about \d+ (s|min|h).*, [\d.]+ [MG]B a process, by a probe", lines[stage]), lines[stage]
    assert not any("about" in line for line in small().values())
    assert "time unknown" in small(tmp_path_factory.mktemp("nothing"))["prepare"]


def test_the_work_of_imported_weights_is_that_of_their_network(tmp_path, index, monkeypatch):
    """Not of the sizes that params.yaml has for a network of its own, which an import leaves unused."""
    monkeypatch.chdir(tmp_path)
    own = YAML_OF.load((ROOT / "params.yaml").read_text())["train_varnet"]["network"]
    imported = build(KSPACE_NETWORKS, NamedParams(**own | SMALL_VARNET))
    save_network(Path("weights"), "varnet", imported, trained_on=[])
    write_params(tmp_path, {"train_varnet.import": "weights", "train_varnet.fine_tune": True})
    project, _ = read_project(tmp_path / "params.yaml", tmp_path / "dvc.yaml")
    assert not list(with_files(project, tmp_path / "simulated"))[1:]  # whose index.source is not there
    line = next(line for line in plan_lines(project, index, Store(tmp_path / "store")) if "weights of" in line)
    assert f"weights of weights, {sum(weight.numel() for weight in imported.parameters()):,} parameters" in line
    grappa = {"kernel_lines": 2, "kernel_points": 7, "regularisation": 0.03, "calibration": "slice"}
    begins = own | SMALL_VARNET | {"name": "grappa_varnet", "grappa": grappa}
    save_network(Path("weights"), "grappa_varnet", build(KSPACE_NETWORKS, NamedParams(**begins)), trained_on=[])
    list(with_files(project, tmp_path / "simulated"))
    record = {"kind": "file_2d", "acceleration": None, "center_fraction": None, "seed": None, "padding": (0, 44)}
    scattered = index["test"][0].model_copy(update={"mask": MaskRecord.model_validate(record)})
    found = list(with_scans(project, {**index, "test": [scattered]}))
    assert any("train_varnet.import: weights: a grappa_varnet: 1 of 5 volumes" in line for line in found)


def test_a_step_on_masks_of_samples_has_a_time(index):
    record = {"kind": "file_2d", "acceleration": None, "center_fraction": None, "seed": None, "padding": (0, 44)}
    scattered = index["train"][0].model_copy(update={"mask": MaskRecord.model_validate(record)})
    section = YAML_OF.load((ROOT / "params.yaml").read_text())["train_varnet"]
    network = build(KSPACE_NETWORKS, NamedParams(**section["network"] | SMALL_VARNET))
    inputs = filled(kspace_inputs([scattered], 1))
    assert (
        inputs[1].shape == inputs[2].shape == (1, 48, 44)
        and not inputs[0][~inputs[1][:, None].expand_as(inputs[0])].any()
    )
    assert training_probe(network, inputs, FitParams.model_validate(section["fit"]), 1, 1).seconds > 0


def test_a_probe_that_takes_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr("frost.planning.probes.LIMIT", 0.05)
    assert _timed(lambda: time.sleep(60)) is None
    monkeypatch.undo()
    assert _timed(lambda: None).seconds >= 0


def test_what_the_store_has_is_told_of_every_stage(small, index):
    everyone = [volume for volumes in index.values() for volume in volumes]
    project, store = small.project, small.store

    def network(folder):
        trained_on = [training_record(volume) for volume in index["train"]]
        varnet = build(KSPACE_NETWORKS, project.train_varnet.network)
        save_network(folder, "varnet", varnet, trained_on=trained_on)

    lines = small()
    assert "by a network that is not there yet, all of 6 volumes" in lines["cache_varnet"]
    depends = facts(project.train_varnet, index["train"], index["val"]) | {"processes": 1}
    entry = store.produce("train_varnet", depends, network)
    lines = small()
    assert lines["train_varnet"].endswith("; is in the store")
    assert "6 volumes, 12 slices to make, 0 volumes in the store" in lines["cache_varnet"]

    networks, sources = frozen_networks(entry.folder), frozen_sources(entry.folder)
    for volume in everyone:
        own = frozen_facts(volume, network_for(networks, volume), sources)
        store.produce("cache_varnet", own, lambda folder, name=volume.name: (folder / "zarr.json").write_text(name))
    lines = small()
    assert lines["cache_varnet"] == "cache_varnet: all of 6 volumes, 12 slices in the store"
    assert lines["train_rcan"].endswith("its state is known once the caches are in place")
    store.link(entry, Path("models/varnet"))
    assert "0 volumes in the store" not in small(frozen=True)["cache_varnet"]
    assert small(frozen=True)["train_varnet"] == "train_varnet: frozen by dvc.yaml, does not run"


def test_a_volume_more_to_train_on_is_not_the_cheap_case_and_the_plan_tells_so(small, index, monkeypatch):
    trained_on = [training_record(volume) for volume in index["train"][:1]]
    save_network(Path("models/varnet"), "varnet", build(KSPACE_NETWORKS, small.project.train_varnet.network),
                 trained_on=trained_on)  # fmt: skip
    line = small()["train_varnet"]
    assert "; starts, as 1 of its volumes are new, and all is cached anew after it; `dvc repro --single-item " in line


def test_the_memory_of_a_varnet_that_begins_with_grappa_is_known(index):
    section = YAML_OF.load((ROOT / "params.yaml").read_text())["train_varnet"]
    grappa = {"kernel_lines": 2, "kernel_points": 7, "regularisation": 0.03, "calibration": "slice"}
    fit, sizes = FitParams.model_validate(section["fit"]), []
    for choice in (section["network"], section["network"] | {"name": "grappa_varnet", "grappa": grappa}):
        with torch.device("meta"):
            network = build(KSPACE_NETWORKS, NamedParams(**choice))
        sizes.append(size(network, kspace_inputs(index["train"], 1), fit))
    assert sizes[0].n_parameters == sizes[1].n_parameters
    assert sizes[1].memory == pytest.approx(sizes[0].memory, rel=0.05)


@pytest.mark.parametrize("stage", ["train_varnet", "train_rcan"])
def test_the_memory_of_a_step_is_what_a_real_pass_keeps(stage):
    """Counted without numbers, and with: by autograd's own hooks on a network that computes."""
    section = YAML_OF.load((ROOT / "params.yaml").read_text())[stage]
    fit = FitParams.model_validate(section["fit"])

    def counted(device):
        with torch.device(device):
            if stage == "train_rcan":
                network = build(IMAGE_NETWORKS, NamedParams(**section["network"]), 2)
                inputs = [torch.ones(2, 2, 48, 40)]
            else:
                network = build(KSPACE_NETWORKS, NamedParams(**section["network"]))
                columns = torch.ones(1, 40, dtype=torch.bool)
                inputs = [torch.ones(1, 3, 48, 40, dtype=torch.complex64), columns, columns]
        return size(network, inputs, fit)

    planned, real = counted("meta"), counted("cpu")
    assert planned.n_parameters == real.n_parameters
    assert math.isclose(planned.memory, real.memory, rel_tol=0.05)
    assert planned.memory > 4 * 4 * planned.n_parameters


def git(folder, *words):
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


def test_a_module_that_git_does_not_track_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, {})
    project, _ = read_project(tmp_path / "params.yaml", tmp_path / "dvc.yaml")
    module = tmp_path / "frost" / "networks" / "image" / "own.py"
    module.parent.mkdir(parents=True)
    module.touch()
    assert list(notes(project, tmp_path / SIMULATED)) == []  # no repository
    git(tmp_path, "init", "--quiet")
    (note,) = notes(project, tmp_path / SIMULATED)
    assert note.startswith("frost/networks/image/own.py: not in git") and note.endswith("own.py`")
    git(tmp_path, "add", "--all")
    assert list(notes(project, tmp_path / SIMULATED)) == []
    assert "0 simulates nothing" in next(notes(project, tmp_path / "elsewhere"))


def test_a_network_that_params_name_and_git_does_not_track_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, {})
    project, _ = read_project(tmp_path / "params.yaml", tmp_path / "dvc.yaml")
    for name in ("frost/networks/image/rcan.py", "frost/networks/image/unet.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(untracked_networks(project)) == []  # no repository
    git(tmp_path, "init", "--quiet")
    (fault,) = untracked_networks(project)
    assert fault.startswith("params.yaml: train_rcan.network.name: rcan: frost/networks/image/rcan.py is not in git")
    assert fault.endswith("`git add frost/networks/image/rcan.py`")
    git(tmp_path, "add", "frost/networks/image/rcan.py")
    assert list(untracked_networks(project)) == []


def test_a_network_whose_file_was_left_behind_is_one_line(tmp_path):
    """As in the temporary workspace of an experiment: the table is tracked, and the new file is not."""
    shutil.copytree(ROOT / "frost", tmp_path / "frost", ignore=shutil.ignore_patterns("__pycache__", "weights"))
    table = tmp_path / "frost" / "networks" / "image" / "__init__.py"
    table.write_text(table.read_text() + "from frost.networks.image.own import Own\n")
    write_params(tmp_path, {})
    done = subprocess.run(
        [sys.executable, "-m", "frost.planning.run"], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: frost.networks.image.own: its file is not here") and "git add" in done.stderr
    assert done.stderr.count("\n") == 1
