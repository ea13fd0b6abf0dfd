"""What was done to the measured data: residuals and projections whose values are known."""

import json
import math
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from frost.cli import app
from frost.evaluation.disagreement import smooth
from frost.mri.coils import expand, rss
from frost.mri.consistency import project, residual, residual_image, scale_coil_images, varnet_coil_images
from frost.mri.fourier import fft2c
from frost.mri.noise import noise_share
from frost.reconstruction.live import load_models, reconstruct_volume
from frost.reconstruction.trust import trust, trust_folder
from frost.scans.indexing import volumes_of
from frost.scans.reader import VolumeReader


@pytest.fixture
def coil_images(phantom, sens_maps):
    return expand(phantom, sens_maps)


def test_the_truth_has_no_residual_and_an_empty_image_has_1(coil_images, kspace, mask):
    measured = kspace * mask
    assert residual(coil_images, measured, mask) < 1e-6
    assert residual(0 * coil_images, measured, mask) == pytest.approx(1)
    assert residual(1.1 * coil_images, measured, mask) == pytest.approx(0.1, rel=1e-4)


def test_scaled_coil_images_have_the_magnitude_that_is_asked_for_and_vanish_nowhere_else(coil_images):
    wanted = 2 * rss(coil_images)[8:40, 6:38]
    scaled = scale_coil_images(coil_images, wanted)
    torch.testing.assert_close(rss(scaled)[8:40, 6:38], wanted, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(scaled[:, :8], coil_images[:, :8])
    torch.testing.assert_close(scaled[:, :, 38:], coil_images[:, :, 38:])
    inside = (slice(None), slice(8, 40), slice(6, 38))
    torch.testing.assert_close(scaled[inside], 2 * coil_images[inside], rtol=1e-5, atol=1e-7)


def test_a_magnitude_wider_than_the_frame_loses_its_margin_and_an_empty_pixel_stays_empty(coil_images):
    scaled = scale_coil_images(coil_images, torch.ones(60, 60))
    there = rss(coil_images) > 1e-6
    torch.testing.assert_close(rss(scaled)[there], torch.ones_like(rss(scaled)[there]), rtol=1e-4, atol=1e-5)
    for scale in (1e-12, 1.0, 1e12):
        assert not scale_coil_images(torch.zeros_like(coil_images), scale * torch.ones(60, 60)).any()


def test_a_projection_restores_what_was_measured_and_leaves_the_rest(coil_images, kspace, mask):
    measured, wrong = kspace * mask, coil_images.roll(1, -1)
    fixed = project(wrong, measured, mask)
    assert residual(fixed, measured, mask) < 1e-6
    torch.testing.assert_close(fft2c(fixed)[..., ~mask], fft2c(wrong)[..., ~mask], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(project(fixed, measured, mask), fixed, rtol=1e-4, atol=1e-5)


def test_an_empty_slice_has_no_residual_unless_something_is_put_into_it(coil_images, mask):
    empty = torch.zeros_like(coil_images)
    assert residual(empty, empty, mask) == 0 == noise_share(empty, mask)
    assert residual(coil_images, empty, mask) == math.inf


def test_a_volume_live(workspace):
    models = load_models(workspace.root / "models", torch.device("cpu"))
    root, volumes = volumes_of(workspace.root / "data" / "source" / "test", workspace.masks)
    with VolumeReader(root, volumes[0]) as reader:
        found, live = trust(models, reader, 2e-5), reconstruct_volume(models, reader, "none")
        projected = reconstruct_volume(models, reader, "none", consistent=True)["rcan"]
    np.testing.assert_array_equal(found.images["rcan"], live["rcan"])
    np.testing.assert_array_equal(found.images["consistent"], projected)
    assert np.abs(projected - live["rcan"]).max() > 1e-3 * live["target"].max()
    assert 0 < found.row["residual_noise"] < found.row["residual_varnet"] < found.row["residual_rcan"] < 2
    assert all(math.isfinite(found.row[key]) for key in ("ssim_head", "ssim_head_consistent", "spearman"))


def emptied(source, file, slices):
    """A copy of a scan that is empty in some of its slices, without its targets."""
    shutil.copy(source, file)
    with h5py.File(file, "r+") as h5:
        h5["kspace"][slices] = 0
        for name in ("reconstruction_rss", "reconstruction_rss_clean"):
            del h5[name]


def test_an_empty_slice_counts_in_no_mean_and_all_its_images_are_empty(workspace, tmp_path):
    models = load_models(workspace.root / "models", torch.device("cpu"))
    source = workspace.root / "data" / "source" / "test" / "file1004.h5"
    emptied(source, tmp_path / "one.h5", 1)
    emptied(source, tmp_path / "whole.h5", slice(None))
    root, volumes = volumes_of(tmp_path, workspace.masks)
    found = {}
    for volume in volumes:
        with VolumeReader(root, volume.model_copy(update={"target": "none"})) as reader:
            found[volume.name] = trust(models, reader, 2e-5)
    for name, image in found["one"].images.items():
        assert image[0].any() and not image[1].any() and not found["whole"].images[name].any()
    names = ("residual_varnet", "residual_rcan", "residual_noise")
    assert [found["whole"].row[name] for name in names] == [0, 0, 0]
    with VolumeReader(root, volumes[0]) as reader:
        mask, centre = reader.mask(), reader.centre_lines()
        measured = reader.kspace(0) * mask
    coil_images = varnet_coil_images(models.varnet, models.device, measured, mask, centre)
    assert residual(coil_images, measured, mask) > 0.1
    assert found["one"].row["residual_varnet"] == pytest.approx(residual(coil_images, measured, mask), rel=1e-5)
    assert found["one"].row["residual_noise"] == noise_share(measured, mask) > 0


def test_images_that_are_not_numbers_are_one_line(workspace, tmp_path):
    """As of weights that went wrong: no row of nan, and no map of it."""
    models = load_models(workspace.root / "models", torch.device("cpu"))

    class Broken(torch.nn.Module):
        def forward(self, inputs):
            return inputs[:, 0] * torch.nan

    source = workspace.root / "data" / "source" / "test" / "file1004.h5"
    rows, failed = trust_folder(replace(models, rcan=Broken()), source, workspace.masks, 2e-5, tmp_path / "maps")
    assert failed == ["file1004.h5: its image `rcan` holds nan or infinite values, which have no score"]
    assert not rows and not (tmp_path / "maps").exists()


def test_the_command(workspace):
    words = ["trust", "--input", workspace.root / "data" / "source" / "test", "--models", workspace.root / "models"]
    done = CliRunner().invoke(app, [*map(str, words), "--device", "cpu", "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert [row["volume"] for row in found["volumes"]] == ["file1004", "file1005"]
    assert found["mean"]["residual_rcan"] == np.mean([row["residual_rcan"] for row in found["volumes"]])


def test_the_residual_image_has_the_residual_as_its_norm(coil_images, kspace, mask):
    """Parseval: the transform is unitary, so the norm of the map is that of M(F c) - y."""
    measured = kspace * mask
    image = residual_image(1.1 * coil_images, measured, mask)
    assert float(image.norm() / measured.norm()) == pytest.approx(residual(1.1 * coil_images, measured, mask), rel=1e-5)
    assert residual_image(coil_images, measured, mask).max() < 1e-5 * rss(coil_images).max()


def test_maps_are_written_with_and_without_a_target_and_never_over_others(workspace, tmp_path):
    models = load_models(workspace.root / "models", torch.device("cpu"))
    source = workspace.root / "data" / "source" / "test" / "file1004.h5"
    _, failed = trust_folder(models, source, workspace.masks, 2e-5, tmp_path / "out")
    assert not failed and sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "file1004.trust.h5", "file1004.trust.png",
    ]  # fmt: skip
    with h5py.File(tmp_path / "out" / "file1004.trust.h5") as h5, h5py.File(source) as scan:
        maps = {name: h5[name][:] for name in h5}
        target = scan["reconstruction_rss"][:]
    assert set(maps) == {"reconstruction", "disagreement", "residual", "error"}
    np.testing.assert_allclose(maps["error"], smooth(maps["reconstruction"] - target), rtol=1e-5)
    with Image.open(tmp_path / "out" / "file1004.trust.png") as sheet:
        assert sheet.width >= 4 * 96 and sheet.height > 2 * 96  # four columns of 32 pixels three times, two slices
    other = {"accelerations": [3.0]}
    _, failed = trust_folder(models, source, workspace.masks.model_copy(update=other), 2e-5, tmp_path / "out")
    assert len(failed) == 1 and "is there already" in failed[0]
    (tmp_path / "bare").mkdir()
    masked_without_target(source, tmp_path / "bare" / "file1004.h5", workspace.masks)
    bare, failed = trust_folder(models, tmp_path / "bare", workspace.masks, 2e-5, tmp_path / "bare_out")
    assert not failed and "spearman" not in bare[0] and bare[0]["residual_rcan"] > 0
    with h5py.File(next((tmp_path / "bare_out").glob("*.h5"))) as h5:
        assert set(h5) == {"reconstruction", "disagreement", "residual"}


def masked_without_target(source, file, masks):
    """A copy of a scan as a scanner leaves it: undersampled, with its mask, without an image."""
    root, [volume] = volumes_of(source, masks)
    with VolumeReader(root, volume) as reader:
        mask = reader.mask().numpy()
    shutil.copy(source, file)
    with h5py.File(file, "r+") as h5:
        h5["kspace"][:] = h5["kspace"][:] * mask
        h5["mask"] = mask.astype(np.float32)
        for name in ("reconstruction_rss", "reconstruction_rss_clean"):
            del h5[name]
