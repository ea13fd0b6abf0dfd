"""The study of real scans: its scores are the library's, and BART is run once for a scan and mask."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from frost.errors import InputError
from frost.evaluation.scores import fastmri_scores, nmse
from frost.mri.coils import rss
from frost.mri.fourier import ifft2c
from frost.reconstruction.live import load_models
from frost.scans.indexing import volumes_of
from frost.scans.reader import VolumeReader
from studies import bart, real


@pytest.fixture
def study(workspace, tmp_path, monkeypatch, capsys):
    """Run it on two tiny scans at R = 4; what it wrote and what it printed."""
    monkeypatch.setattr(real, "CENTER_FRACTION", 0.16)

    def run(*words):
        words = ["--scans", workspace.root / "data" / "source" / "test", "--output", tmp_path / "real.json", *words]
        if "--models" not in words:
            words += ["--models", workspace.root / "models"]
        real.main([*map(str, words), "--accelerations", "4", "--kinds", "equispaced"])
        return json.loads((tmp_path / "real.json").read_text()), capsys.readouterr().out

    return run


def test_scores_are_those_of_the_cached_images_and_the_last_row_is_their_mean(study, workspace, monkeypatch):
    monkeypatch.setattr(real, "bart_version", lambda: None)
    rows, printed = study()
    volume = workspace.pairs("test").volume("file1004")
    images = {"zero-filled": "zero_filled", "GRAPPA": "grappa", "SENSE": "sense", "VarNet": "varnet", "RCAN": "rcan"}
    assert list(rows[0]["images"]) == list(images) and [row["scan"] for row in rows] == ["file1004", "file1005", "mean"]
    for label in ("zero-filled", "GRAPPA", "SENSE", "VarNet"):
        expected = fastmri_scores(volume["target"], volume[images[label]])["ssim"]
        assert rows[0]["images"][label]["frame"] == pytest.approx(expected, abs=1e-5)
        values = [row["images"][label]["foreground"] for row in rows]
        assert values[2] == pytest.approx(np.mean(values[:2])) and 0 < values[0] < 1
    in_table = [f"{rows[1]['images']['RCAN'][scoring]:.3f}" for scoring in ("frame", "foreground")]
    assert f"RCAN        {' | '.join(in_table)}\n" in printed and "file1005, 4 x 48 x 44, equispaced" in printed


def test_a_table_of_five_accelerations_has_80_columns():
    scores = {"frame": 0.5, "foreground": 0.25}
    rows = [real.Row("a_scan_of_ten", "16 x 640 x 368", "equispaced", r, {"VarNet, worlds": scores}) for r in range(5)]
    lines = "\n".join(real.tables(rows)).splitlines()
    assert max(map(len, lines)) <= 80 and lines[-1].split() == [
        "VarNet,",
        "worlds",
        *["0.500"] * 5,
        "|",
        *["0.250"] * 5,
    ]


def test_networks_that_fall_below_classical_images_are_listed(study, monkeypatch):
    monkeypatch.setattr(real, "bart_version", lambda: None)
    rows, printed = study()
    images = {image: scores["frame"] for image, scores in rows[0]["images"].items()}
    below = max(images["zero-filled"], images["GRAPPA"]) - images["RCAN"]
    assert below > real.FALL, "networks that nobody trained"
    assert f"{below:.3f}  RCAN: file1004, equispaced, R = 4" in printed
    assert "| file1004 | 4 | " in study("--markdown")[1]


def test_several_networks_carry_their_folders_names(study, workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(real, "bart_version", lambda: None)
    (tmp_path / "again").symlink_to(workspace.root / "models")
    copies = [tmp_path / "one", tmp_path / "two"]
    for copy in copies:
        copy.mkdir()
        for name in ("varnet", "rcan"):
            (copy / name).symlink_to(workspace.root / "models" / name)
    images = study("--models", *copies)[0][0]["images"]
    assert list(images) == ["zero-filled", "GRAPPA", "SENSE", "VarNet, one", "RCAN, one", "VarNet, two", "RCAN, two"]
    assert images["RCAN, one"] == images["RCAN, two"]
    with pytest.raises(InputError, match="two folders of one name"):
        study("--models", copies[0], copies[0])


def test_networks_that_know_no_sense_image_have_one_beside_them(workspace):
    models = load_models(workspace.root / "models", torch.device("cpu"))
    without = replace(models, prepare=models.prepare.model_copy(update={"sense": None}))
    found = real.with_sense(without).prepare
    assert real.with_sense(models) is models and found.sense is not None and found.grappa == models.prepare.grappa


def test_an_undersampled_scan_is_refused(study, workspace, write_fastmri, make_mask, tmp_path):
    write_fastmri(tmp_path / "scans" / "a.h5", mask=make_mask(44))
    with pytest.raises(InputError, match=r"a\.h5: holds a mask; fully sampled"):
        study("--scans", tmp_path / "scans")


def test_bart_runs_once_for_a_scan_and_mask(study, monkeypatch, tmp_path):
    calls = []

    def images(reader):
        calls.append(reader.volume.name)
        target = np.stack([reader.target(i).numpy() for i in range(reader.volume.n_slices)])
        return {strength: 3 * target * (1 + 0 * strength) for strength in bart.STRENGTHS}

    monkeypatch.setattr(real, "bart_version", lambda: "a version")
    monkeypatch.setattr(real, "bart_images", images)
    rows, _ = study()
    assert rows[0]["images"]["BART best"]["frame"] == pytest.approx(1, abs=1e-6), "the scale is no error"
    assert study()[0] == rows and calls == ["file1004", "file1005"]
    monkeypatch.setattr(real, "bart_version", lambda: "another version")
    study()
    assert len(calls) == 4
    (tmp_path / "real.bart.json").write_text("{")
    with pytest.raises(InputError, match=r"real\.bart\.json: not JSON"):
        study()


@pytest.mark.skipif(bart.bart_version() is None, reason="BART is not installed")
def test_bart_solves_what_it_should(workspace):
    masks = workspace.masks.model_copy(update={"center_fractions": [0.25]})
    root, volumes = volumes_of(workspace.root / "data" / "source" / "test", masks)
    with VolumeReader(root, volumes[0]) as reader:
        images = bart.bart_images(reader, [0.002])
        target = np.stack([reader.target(i).numpy() for i in range(reader.volume.n_slices)])
        zero_filled = np.stack([reader.crop(rss(ifft2c(reader.kspace(i) * reader.mask()))).numpy() for i in range(2)])
    errors = [nmse(target, real.scaled(target, image)) for image in (images[0.002], zero_filled)]
    assert errors[0] < 0.3 * errors[1]
