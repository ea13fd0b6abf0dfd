"""Scans undersampled in two directions on the live path, and beside scans of columns in the caches and scores."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from frost.cache.classical import PrepareParams, write_images
from frost.cache.frozen import write_network_images
from frost.cache.pairs import PairDataset, unlearned
from frost.cache.shards import write_root, write_split
from frost.cli import app
from frost.evaluation.cases import EvaluateParams
from frost.evaluation.evaluate import evaluate
from frost.mri.sampling import MaskRecord, draw_mask
from frost.reconstruction.live import load_models, new_masks, reconstruct_folder, reconstruct_volume
from frost.reconstruction.trust import trust
from frost.scans import h5
from frost.scans.indexing import volumes_of
from frost.scans.reader import VolumeReader

CPU = torch.device("cpu")
HEIGHT, WIDTH = 48, 44


def with_inputs(models, folder, *inputs):
    """The workspace's networks as if RCAN took these inputs in."""
    shutil.copytree(models, folder)
    config = folder / "rcan" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"inputs": inputs}))
    return load_models(folder, CPU)


def undersampled(file, mask, make_kspace, seed=9):
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as opened:
        opened["kspace"] = make_kspace(2, 4, HEIGHT, WIDTH, seed, 0.004).numpy() * mask
        opened["mask"] = mask.astype(np.uint8)
    return file


@pytest.fixture(scope="module")
def samples():
    record = MaskRecord(kind="poisson", acceleration=3, center_fraction=0.25, seed=0, padding=(0, WIDTH))
    return draw_mask(record, WIDTH, HEIGHT)


def test_a_repeated_mask_gives_the_same_reconstruction_and_trust(
    workspace, tmp_path, make_kspace, make_mask, monkeypatch
):
    models = with_inputs(
        workspace.root / "models", tmp_path / "models", "varnet", "zero_filled", "varnet-1", "varnet+1"
    )
    columns = make_mask(WIDTH).numpy()
    found = []
    for name, mask in (("columns", columns), ("samples", np.tile(columns, (HEIGHT, 1)))):
        file = undersampled(tmp_path / name / "scan.h5", mask, make_kspace)
        monkeypatch.setattr(h5, "as_columns", lambda mask: mask)  # else it would be taken for what it is
        root, (volume,) = volumes_of(file, workspace.masks)
        assert volume.mask.of_samples == (name == "samples")
        with VolumeReader(root, volume) as reader:
            images = reconstruct_volume(models, reader, "none", consistent=True)
            assert ("grappa" in images) == (name == "columns")
            found.append((images, trust(models, reader, 2e-5)))
    (images, one), (repeated, two) = found
    for name in ("zero_filled", "varnet", "rcan"):
        torch.testing.assert_close(*map(torch.from_numpy, (images[name], repeated[name])), rtol=1e-3, atol=1e-8)
    for name in ("residual_varnet", "residual_rcan", "residual_noise"):
        assert one.row[name] == pytest.approx(two.row[name], rel=1e-3, abs=1e-6)
    torch.testing.assert_close(
        *map(torch.from_numpy, (one.images["consistent"], two.images["consistent"])), rtol=1e-3, atol=1e-8
    )


def test_networks_that_take_grappa_in_refuse_the_scan_and_others_call_it_unusual(
    workspace, tmp_path, make_kspace, samples
):
    file = undersampled(tmp_path / "scans" / "scan.h5", samples, make_kspace)
    models = load_models(workspace.root / "models", CPU)
    done = reconstruct_folder(models, file, tmp_path / "refused", None, None, "none")
    (line,) = done.failed
    assert line.startswith(f"{file}: undersampled in two directions, which GRAPPA does not fill") and not done.rows
    without = with_inputs(workspace.root / "models", tmp_path / "models", "varnet", "sense", "varnet-1", "zero_filled")
    done = reconstruct_folder(without, file, tmp_path / "out", None, None, "none")
    assert not done.failed
    (row,) = done.rows
    assert row["familiarity"].startswith("unusual: ")
    assert "phase directions undersampled: 2 (trained on 1)" in row["familiarity"]
    words = ["trust", "--input", str(file), "--models", str(tmp_path / "models"), "--device", "cpu", "--json"]
    (told,) = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)["volumes"]
    assert 0 < told["residual_rcan"] < 2


def test_new_scans_get_masks_of_the_kind_that_was_trained_on(workspace):
    models = load_models(workspace.root / "models", CPU)
    models.masks[:] = [{"kind": "file_2d", "acceleration": 5.3, "center_fraction": None}]
    drawn = new_masks(models, None, None)
    assert (drawn.kind, drawn.accelerations, drawn.center_fractions) == (["poisson"], [5], [0.08])


def test_scans_of_both_kinds_are_cached_and_scored_together(workspace, tmp_path):
    source = workspace.root / "data" / "source" / "val"
    models = with_inputs(workspace.root / "models", tmp_path / "models", "varnet", "sense", "varnet-1", "zero_filled")
    prepare = PrepareParams.model_validate(models.prepare.model_dump())
    poisson = workspace.masks.model_copy(update={"kind": ["poisson"], "center_fractions": [0.3]})
    (one, _), (_, two) = (volumes_of(source, masks)[1] for masks in (workspace.masks, poisson))
    for volume in (one, two):
        write_images(tmp_path / "images.zarr" / "val" / volume.name, source, volume, prepare)
        facts = {"network": "0", "trained_on_validation": False}
        frozen = tmp_path / "varnet.zarr" / "val" / volume.name
        write_network_images(frozen, source, volume, models.varnet, facts, CPU)
    for name in ("images.zarr", "varnet.zarr"):
        write_split(tmp_path / name / "val")
        write_root(tmp_path / name)
    pairs = PairDataset(tmp_path / "images.zarr" / "val", tmp_path / "varnet.zarr" / "val", models.inputs)
    assert [unlearned(pairs.volume(name)) for name in pairs.names] == ["grappa", "sense"]
    assert pairs.scan_ranges()["directions"] == [1, 2]
    assert pairs.difference_ranges().keys() == {"difference", "difference_sense"}
    params = EvaluateParams(ensemble="none", batch_size=2, coverage=0.5, foreground=2e-5, presets=("fastmri",))
    result = evaluate({"val": pairs}, models.rcan, params, CPU, lambda split, case: None)
    assert result.left_out["val grappa"].startswith("the means of GRAPPA are of 1 of 2 volumes")
    assert {row["image"] for row in result.by_volume if row["volume"] == two.name} >= {"sense", "blend", "rcan"}
    assert all(0 < result.metrics["val"][image]["ssim"] < 1 for image in ("grappa", "sense", "varnet", "blend"))
