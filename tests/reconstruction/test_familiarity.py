"""How far a scan is from the training scans: what was trained on is familiar, what was not is named with its range."""

import json
import shutil

import h5py
import pytest
import torch

from frost.cache.frozen import scan_properties
from frost.reconstruction.familiarity import familiarity, outside
from frost.reconstruction.live import load_models, reconstruct_folder
from frost.scans.indexing import volumes_of
from frost.scans.reader import VolumeReader

CPU = torch.device("cpu")
TRAINED_ON = {
    "coils": [4.0, 16.0], "rows": [128.0, 320.0], "columns": [128.0, 128.0], "acceleration": [2.0, 4.0],
    "noise": [0.01, 0.04], "difference": [0.02, 0.1],
}  # fmt: skip
SCAN = {"coils": 8.0, "rows": 128.0, "columns": 128.0, "acceleration": 3.0, "noise": 0.02, "difference": 0.05}


@pytest.mark.parametrize("end", [0, 1])
def test_both_ends_of_the_training_scans_are_familiar(end):
    assert familiarity(TRAINED_ON, {name: limits[end] for name, limits in TRAINED_ON.items()}) == "familiar"


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"coils": 20.0}, "20 coils (trained on 4 to 16)"),
        ({"coils": 3.0}, "3 coils (trained on 4 to 16)"),
        ({"rows": 384.0}, ""),
        ({"rows": 512.0}, "512 rows (trained on 128 to 320)"),
        ({"columns": 256.0}, "256 columns (trained on 128)"),
        ({"acceleration": 5.25}, "acceleration 5.2 with centre lines (trained on 2.0 to 4.0)"),
        ({"directions": 2.0}, "phase directions undersampled: 2 (trained on 1)"),
        ({"noise": 0.12}, "noise 12.0% (trained on 1.0% to 4.0%)"),
        ({"noise": 0.0}, "noise 0.0% (trained on 1.0% to 4.0%)"),
        ({"difference": 0.34}, "VarNet and GRAPPA differ by 34% (trained on 2% to 10%)"),
        ({"difference": 0.0}, ""),
        ({"coils": 20.0, "noise": 0.12}, "20 coils (trained on 4 to 16); noise 12.0% (trained on 1.0% to 4.0%)"),
    ],
)
def test_what_was_not_trained_on_is_named_with_its_range(changes, reasons):
    assert familiarity(TRAINED_ON, SCAN | changes) == (f"unusual: {reasons}" if reasons else "familiar")


def test_strictly_there_is_no_slack():
    assert outside(TRAINED_ON, SCAN, strict=True) == outside(TRAINED_ON, SCAN | {"acceleration": 4.3}) == ""
    assert outside(TRAINED_ON, SCAN | {"acceleration": 4.3}, strict=True).startswith("acceleration 4.3")
    for end in (0, 1):
        assert outside(TRAINED_ON, {name: limits[end] for name, limits in TRAINED_ON.items()}, strict=True) == ""


def test_without_a_record_nothing_is_known():
    assert familiarity({}, SCAN) == "unknown: its networks hold no record of their training scans"


def test_a_training_scan_is_familiar_to_the_networks_that_learned_from_it(workspace):
    models = load_models(workspace.root / "models", CPU)
    root, volumes = volumes_of(workspace.root / "data" / "source" / "train", workspace.masks)
    with VolumeReader(root, volumes[0]) as reader:
        found = scan_properties(reader)
    assert {*found, "difference"} == set(models.trained_on) == set(TRAINED_ON)
    assert (found["coils"], found["rows"], found["columns"]) == (4, 48, 44) and 0.001 < found["noise"] < 0.5
    assert models.trained_on["difference"][0] > 0.01
    low, high = models.trained_on["noise"]
    assert low - 1e-4 < found["noise"] < high + 1e-4
    assert familiarity(models.trained_on, found) == "familiar"


def test_every_volume_gets_its_line(workspace, tmp_path, write_fastmri):
    models = load_models(workspace.root / "models", CPU)
    write_fastmri(tmp_path / "scans" / "a.h5", seed=7)
    write_fastmri(tmp_path / "scans" / "b.h5", shape=(2, 7, 80, 44), seed=8)
    write_fastmri(tmp_path / "scans" / "c.h5", seed=9)
    with h5py.File(tmp_path / "scans" / "c.h5", "a") as h5:
        noise = torch.randn(h5["kspace"].shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
        h5["kspace"][:] += 1e-4 * noise.numpy()
    done = reconstruct_folder(models, tmp_path / "scans", tmp_path / "out", None, None, "none")
    a, b, c = (row["familiarity"] for row in done.rows)
    assert a == "familiar"
    assert b.startswith("unusual: 7 coils (trained on 4); 80 rows (trained on 48)") and "columns" not in b
    assert c.startswith("unusual: noise ")


def test_networks_of_an_older_version_are_no_error(workspace, tmp_path):
    shutil.copytree(workspace.root / "models", tmp_path / "models")
    config = tmp_path / "models" / "rcan" / "config.json"
    facts = json.loads(config.read_text())
    del facts["made_by"]["scans"]
    config.write_text(json.dumps(facts))
    models = load_models(tmp_path / "models", CPU)
    done = reconstruct_folder(models, workspace.root / "data/source/test", tmp_path / "out", None, None, "none")
    assert {row["familiarity"] for row in done.rows} == {familiarity({}, SCAN)}
