"""The submission of 2026: the exported file, run as the organisers run it, gives the images of the cached path."""

import importlib.util
import json
import shutil
from argparse import Namespace

import h5py
import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from frost.challenges.rules import RULES, check, export_snu2026
from frost.errors import InputError
from frost.reconstruction.live import load_models, reconstruct_volume
from frost.scans.indexing import volumes_of
from frost.scans.reader import VolumeReader
from frost.scans.volumes import write_index
from tests.paths import ROOT

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def exported(workspace, tmp_path_factory):
    """The module, imported from where it was written, as the harness does."""
    folder = tmp_path_factory.mktemp("submission")
    export_snu2026(workspace.root / "models", folder)
    spec = importlib.util.spec_from_file_location("test_part", folder / "test_part.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.SIZE = (48, 48)  # the images of the tests are an eighth of the challenge's
    return folder, module


@pytest.fixture(scope="module")
def board(tmp_path_factory, write_snu_tree):
    return write_snu_tree(tmp_path_factory.mktemp("snu"), 2026) / "leaderboard" / "acc4"


def harness(module, exp_dir, image, kspace):
    """Its loop: batch 1, warm-up slices, then every slice."""
    model = module.load_model(Namespace(exp_dir=exp_dir, cascade=12, chans=18, sens_chans=8), CPU)
    ctx = module.prep_volume(image, kspace, CPU)
    for s in range(min(5, ctx["num_slices"])):
        module.recon_slice(model, ctx, s)
    return np.stack([module.recon_slice(model, ctx, s).numpy() for s in range(ctx["num_slices"])])


def test_the_harness_gets_the_images_of_the_cached_path(workspace, exported, board):
    folder, module = exported
    assert module.INPUT_KIND == "kspace"
    models = load_models(workspace.root / "models", CPU)
    root, volumes = volumes_of(board, workspace.masks)
    for volume in volumes:
        with VolumeReader(root, volume) as reader:
            expected = reconstruct_volume(models, reader, "none")["rcan"]
        kspace = root / volume.file
        np.testing.assert_array_equal(harness(module, folder / "checkpoints", "/no/image/file", kspace), expected)


def test_prep_volume_computes_nothing_and_recon_slice_sees_what_the_mask_has(exported, board):
    _, module = exported
    file = board / "kspace" / "knee_test1.h5"
    ctx = module.prep_volume("", file, CPU)
    with h5py.File(file) as opened:
        np.testing.assert_array_equal(ctx["kspace"].numpy(), opened["kspace"][:] * opened["mask"][:].astype(bool))
    assert ctx["num_slices"] == 2 and not any(ctx["kspace"][..., ~ctx["mask"]].abs().flatten())


def test_a_run_that_needs_the_image_file_is_not_exported(workspace, tmp_path):
    shutil.copytree(workspace.root / "models", tmp_path / "models")
    config = tmp_path / "models" / "rcan" / "config.json"
    facts = json.loads(config.read_text())
    facts["made_by"]["prepare"]["grappa"]["source"] = "file"
    config.write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"config\.json: trained with prepare\.grappa\.source: file"):
        export_snu2026(tmp_path / "models", tmp_path / "out")
    facts["made_by"]["prepare"]["grappa"] |= {"source": "computed", "calibration": "volume"}
    config.write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"config\.json: trained with prepare\.grappa\.calibration: volume"):
        export_snu2026(tmp_path / "models", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_into_the_same_folder_replaces_the_last(workspace, tmp_path):
    shutil.copytree(workspace.root / "models", tmp_path / "models")
    for file in tmp_path.rglob("models/*/*.*"):
        file.chmod(0o444)  # as the store's files are
    for _ in range(2):
        export_snu2026(tmp_path / "models", tmp_path / "out")
        assert all(file.stat().st_mode & 0o200 for file in (tmp_path / "out").rglob("*.*"))
    export_snu2026(tmp_path / "out" / "checkpoints", tmp_path / "out")
    load_models(tmp_path / "out" / "checkpoints", CPU)


# ---- rules


@pytest.fixture
def run(workspace, tmp_path):
    """A folder with the project's params and an index of two volumes."""
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    _, volumes = volumes_of(workspace.root / "data" / "source" / "test", workspace.masks)
    write_index(tmp_path / "data" / "index", {"train": volumes[:1], "val": volumes[1:], "test": []})

    def save(**changes):
        for path, value in changes.items():
            section, *keys = path.split("__")
            inner = params[section]
            for key in keys[:-1]:
                inner = inner[key]
            inner[keys[-1]] = value
        with (tmp_path / "params.yaml").open("w") as file:
            YAML(typ="safe").dump(params, file)
        return tmp_path

    save.volumes = volumes
    return save


def states(year, root):
    return {finding.rule: finding.state for finding in check(year, root)}


@pytest.mark.parametrize("year", RULES)
def test_the_defaults_break_no_rule(run, year):
    assert "broken" not in states(year, run()).values()


def test_each_rule_is_broken_by_what_breaks_it(run, tmp_path):
    root = run(train_varnet__import="brain_leaderboard_state_dict.pt")
    assert states("snu2023", root)["no external weights"] == states("snu2026", root)["no external weights"] == "broken"
    assert states("snu2022", root)["external weights are registered"] == "open"
    assert (
        states("snu2026", run(train_varnet__import=None, cache_varnet__import="x"))["no external weights"] == "broken"
    )
    root = run(cache_varnet__import=None, prepare__grappa__source="file")
    varnet = tmp_path / "models" / "varnet"
    varnet.mkdir(parents=True)
    config = {"name": "varnet", "params": {}, "sizes": []}
    (varnet / "config.json").write_text(json.dumps(config | {"trained_on": "train + val"}))
    assert states("snu2026", root)["no external weights"] == "broken"
    (varnet / "config.json").write_text(json.dumps(config | {"trained_on": []}))
    assert states("snu2026", root)["no external weights"] == "kept"
    assert states("snu2026", root)["no field of the image file at inference"] == "broken"
    moved = run.volumes[0].model_copy(update={"file": "leaderboard/acc4/kspace/a.h5"})
    write_index(tmp_path / "data" / "index", {"train": run.volumes[:1], "val": [moved], "test": []})
    assert states("snu2026", root)["leaderboard data not even for validation"] == "broken"
    write_index(tmp_path / "data" / "index", {"train": run.volumes[:1], "val": run.volumes[1:], "test": []})
    for source, state in (("Data/leaderboard/acc4", "broken"), ("Data/leaderboard", "broken"), ("Data", "kept")):
        assert states("snu2026", run(index__source=source))["leaderboard data not even for validation"] == state
    with pytest.raises(InputError, match=r"no rules of 'snu2027'; there are snu2022,"):
        check("snu2027", root)


def test_params_that_cannot_be_read_are_one_line(tmp_path):
    for content, says in ((b"a: \xe4", "not YAML"), (b"a: [", "not YAML"), (b"a: 1", "not the params of this project")):
        (tmp_path / "params.yaml").write_bytes(content)
        with pytest.raises(InputError, match=rf"params\.yaml: {says}") as error:
            check("snu2026", tmp_path)
        assert "\n" not in str(error.value)
