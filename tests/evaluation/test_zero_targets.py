"""The commands on scans whose target has no signal: the others are done, and the reason is printed."""

import json

import h5py
import pytest
from typer.testing import CliRunner

from frost.cli import app


@pytest.fixture
def scans(tmp_path, write_fastmri):
    """`empty.h5`, whose target is 0 everywhere, and `good.h5`."""
    for seed, name in enumerate(("empty", "good")):
        write_fastmri(tmp_path / "scans" / f"{name}.h5", seed=seed)
    with h5py.File(tmp_path / "scans" / "empty.h5", "a") as opened:
        opened["reconstruction_rss"][:] = 0
    return tmp_path / "scans"


def frost(*words):
    done = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(
        app, [str(w) for w in words], catch_exceptions=False
    )
    assert done.exit_code == 0
    return done.output


def test_reconstruct_gives_both_images_and_prints_the_reason(workspace, scans, tmp_path):
    models = ("--models", workspace.root / "models", "--device", "cpu")
    printed = frost("reconstruct", "--input", scans, "--output", tmp_path / "out", *models)
    assert (tmp_path / "out/empty.h5").exists() and (tmp_path / "out/good.h5").exists()
    assert "no value above 0" in printed and printed.count("nan") == 6  # five images, and the explanation
    score = ("score", "--preset", "fastmri", "--target", scans, "--reconstruction", tmp_path / "out")
    assert "empty.h5 left out: the middle of its target has no value above 0" in frost(*score)


def test_trust_has_residuals_of_both_and_scores_of_one(workspace, scans):
    models = ("--models", workspace.root / "models", "--device", "cpu")
    empty, good = json.loads(frost("trust", "--input", scans, *models, "--json"))["volumes"]
    assert empty["residual_rcan"] > 0 and "ssim_head" not in empty and 0 < good["ssim_head"] < 1
