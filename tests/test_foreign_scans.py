"""Raw data of a foreign program through everything: inspection, the real stages by `dvc repro`, reconstruction."""

import json

import h5py
import numpy as np
import pytest

from tests.scans import mrd
from tests.test_pipeline import STAGES, new_repository

pytestmark = pytest.mark.pipeline

#: by split and name: acceleration, oversampling, repetitions, lines in the centre, noise scan
SCANS = {
    "train/full": {"O": 2, "C": True},
    "train/twofold": {"a": 2, "O": 2},
    "val/fourfold": {"a": 4, "O": 1, "C": True},
    "test/repeated": {"r": 2, "O": 2},
    "test/prospective": {"a": 2, "O": 2, "w": 12, "C": True},
}


def first_repetition(lines):
    """What the generator measures in its first repetition: every other line and the centre."""
    return lines[lines["head"]["idx"]["repetition"] == 0]


def test_scans_of_ismrmrds_generator_are_inspected_trained_on_scored_and_reconstructed(tmp_path):
    source = tmp_path / "scans"
    for name, options in SCANS.items():
        file = mrd.generate(source / f"{name}.h5", **({"m": 48, "c": 3, "n": 0.02} | options))
        if name == "test/prospective":
            mrd.edit(file, first_repetition)
    before = {file: file.read_bytes() for file in source.rglob("*.h5")}
    (tmp_path / "repository").mkdir()
    repository = new_repository(tmp_path / "repository")

    found = {entry["file"]: entry for entry in json.loads(repository.frost("inspect", str(source), "--json"))}
    assert set(found) == {f"{name}.h5" for name in SCANS} and not any(entry["refused"] for entry in found.values())
    assert {entry["format"] for entry in found.values()} == {"ismrmrd"}
    for name, options in SCANS.items():
        entry = found[f"{name}.h5"]
        height = 24 * options["O"]  # its header always tells of twofold oversampling
        assert (entry["size"], entry["coils"], entry["slices"]) == ([height, 48], 3, 1)
        assert entry["sampling"] == ("undersampled" if name == "test/prospective" else "full")
        assert any("prewhitened by" in remark for remark in entry["odd"]) == ("C" in options)

    repository.params(simulate__subjects=0, index__source=str(source), evaluate__presets=["fastmri"])
    assert list(repository.repro()) == list(STAGES)
    metrics = json.loads((repository.folder / "metrics" / "evaluate.json").read_text())
    assert 0 < metrics["test"]["rcan"]["ssim"] < 1

    formats = [word for name in ("h5", "mrd", "nifti") for word in ("--format", name)]
    for split in ("train", "test"):
        output = tmp_path / "out" / split
        folders = ["--input", str(source / split), "--output", str(output), "--models", "models"]
        repository.frost("reconstruct", *folders, *formats, "--device", "cpu")
        for name in (name for name in SCANS if name.startswith(split)):
            stem = name.partition("/")[2]
            with h5py.File(output / f"{stem}.h5") as h5, h5py.File(output / f"{stem}.mrd") as images:
                image = h5["reconstruction"][0]
                np.testing.assert_array_equal(images["dataset/image_0/data"][0, 0, 0].T, image)
            assert image.shape == (48, 48) and image.max() > 0
            assert (output / f"{stem}.nii.gz").exists()
    assert before == {file: file.read_bytes() for file in source.rglob("*.h5")}
