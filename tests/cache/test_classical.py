"""The images that need no network: channels, sizes, where GRAPPA's comes from, and SENSE beside it."""

import shutil

import h5py
import numpy as np
import pytest
import torch

from frost.cache.classical import PrepareParams, classical_channels, classical_images, write_images
from frost.cache.pairs import relative_difference
from frost.errors import InputError
from frost.mri.coils import rss
from frost.mri.consistency import residual
from frost.mri.fourier import ifft2c
from frost.mri.grappa import grappa
from frost.mri.noise import noise_share
from frost.mri.sampling import MaskRecord
from frost.pipeline.params import checked
from frost.scans.reader import VolumeReader
from frost.scans.volumes import Volume

GRAPPA = {"source": "computed", "kernel_lines": 2, "kernel_points": 5, "regularisation": 1e-2, "calibration": "slice"}


def params(**changes):
    return checked(PrepareParams, {"grappa": GRAPPA | changes, "sense": None}, "prepare")


def with_sense(**changes):
    maps = {"kernel": 5, "rows": 16, "threshold": 0.01, "grid": 16}
    sense = {"strength": 1e-3, "iterations": 20, "levels": 2, "maps": maps}
    return checked(PrepareParams, {"grappa": GRAPPA | changes, "sense": sense}, "prepare")


@pytest.fixture(scope="module")
def scan(tmp_path_factory, write_fastmri):
    """A folder and the record of the one volume in it, which has a GRAPPA image of its own."""
    folder = tmp_path_factory.mktemp("scan")
    write_fastmri(folder / "a.h5", clean=True)
    with h5py.File(folder / "a.h5") as h5, h5py.File(folder / "image.h5", "w") as image:
        image["image_label"], image["image_grappa"] = h5["reconstruction_rss"][()], 0.5 * h5["reconstruction_rss"][()]
    mask = MaskRecord(kind="equispaced", acceleration=4, center_fraction=0.2, seed=1, padding=(0, 44))
    fields = {
        "name": "a", "split": "train", "file": "a.h5", "image_file": "image.h5", "layout": "snu2026", "patient": "p",
        "acquisition": "", "n_slices": 2, "n_coils": 4, "height": 48, "width": 44, "crop": (32, 32), "mask": mask,
        "target": "file", "has_clean_target": False, "has_grappa": True, "maximum": None, "identity": "0" * 64,
    }  # fmt: skip
    return folder, Volume(**fields)


def test_each_image_is_better_than_the_one_before(scan):
    with VolumeReader(*scan) as reader:
        slices = list(classical_images(reader, params()))
    assert len(slices) == 2
    for zero_filled, filled, target in slices:
        assert zero_filled.shape == filled.shape == target.shape == (32, 32)
        errors = [float(np.linalg.norm(image - target) / np.linalg.norm(target)) for image in (zero_filled, filled)]
        assert errors[1] < 0.8 * errors[0] < 0.1


def test_a_dead_coil_is_told(scan, tmp_path, write_fastmri, capsys):
    write_fastmri(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as h5:
        h5["kspace"][:, 0] = 0
    shutil.copy(scan[0] / "image.h5", tmp_path)
    write_images(tmp_path / "images", tmp_path, scan[1], params())
    assert capsys.readouterr().err == f"prepare: {tmp_path / 'a.h5'}: `kspace`: no signal in coil 0 of 0 to 3\n"


@pytest.mark.parametrize("exponent", [-100, -40, 40])
def test_images_and_noise_have_the_scale_of_the_data_whatever_it_is(scan, tmp_path, write_fastmri, exponent):
    """k-space of 1e-30 too, whose squares float32 does not hold."""
    write_fastmri(tmp_path / "a.h5")
    alone = scan[1].model_copy(update={"image_file": None, "layout": "fastmri", "target": "computed"})

    def found():
        with VolumeReader(tmp_path, alone) as reader, torch.no_grad():
            measured, mask = reader.kspace(0) * reader.mask(), reader.mask()
            numbers = (noise_share(measured, mask), residual(ifft2c(1.01 * reader.kspace(0)), measured, mask))
            return np.stack(list(classical_images(reader, with_sense()))), numbers

    images, numbers = found()
    with h5py.File(tmp_path / "a.h5", "a") as h5:
        h5["kspace"][...] = h5["kspace"][()] * np.float32(2.0**exponent)
    scaled, same_numbers = found()
    np.testing.assert_allclose(scaled * 2.0**-exponent, images, atol=1e-5 * images.max())
    assert same_numbers == pytest.approx(numbers, rel=1e-4)
    one, other = images[0, :2]
    tiny = np.float32(2.0**-100)
    assert relative_difference(tiny * one, tiny * other) == pytest.approx(relative_difference(one, other), rel=1e-4)


def test_sense_stands_between_grappa_and_target_and_changes_no_other_image(scan):
    with VolumeReader(*scan) as reader:
        plain, more = list(classical_images(reader, params())), list(classical_images(reader, with_sense()))
        channels = classical_channels(reader.volume, with_sense())
    assert channels == ["zero_filled", "grappa", "sense", "target"]
    for without, images in zip(plain, more):
        assert np.array_equal(without, images[[0, 1, 3]])
        zero_filled, _, sense, target = images
        assert np.linalg.norm(sense - target) < 0.8 * np.linalg.norm(zero_filled - target)
        assert float((sense * target).sum() / (target * target).sum()) == pytest.approx(1, abs=0.02)  # its scale


def test_sense_begins_with_computed_grappa_even_where_grappas_image_is_the_files(scan):
    with VolumeReader(*scan) as reader:
        computed = [images[2] for images in classical_images(reader, with_sense())]
        of_file = list(classical_images(reader, with_sense(source="file")))
        given = reader.grappa(0).numpy()
    assert all(np.array_equal(images[2], sense) for images, sense in zip(of_file, computed))
    assert np.array_equal(of_file[0][1], given)


def test_slices_may_share_their_calibration(scan):
    shared = params(calibration="volume")
    with VolumeReader(*scan) as reader:
        streamed = [images[1] for images in classical_images(reader, shared)]
        kspace = torch.stack([reader.kspace(i) for i in range(2)]) * reader.mask()
        whole = reader.crop(rss(ifft2c(grappa(kspace, reader.mask(), reader.acs(), shared.grappa)))).numpy()
        alone = [images[1] for images in classical_images(reader, params())]
    for i in range(2):
        np.testing.assert_allclose(streamed[i], whole[i], rtol=1e-5)
        assert not np.allclose(streamed[i], alone[i], rtol=1e-5)


@pytest.mark.parametrize("calibration", ["slice", "volume"])
def test_an_empty_slice_has_empty_images(tmp_path, scan, calibration):
    folder, volume = scan
    shutil.copy(folder / "a.h5", tmp_path)
    with h5py.File(tmp_path / "a.h5", "r+") as h5:
        h5["kspace"][0] = 0
    computed = volume.model_copy(update={"image_file": None, "has_grappa": False, "target": "computed"})
    with VolumeReader(tmp_path, computed) as reader:
        empty, other = classical_images(reader, params(calibration=calibration))
    assert not empty.any() and other.all()


def test_the_file_s_own_grappa_image(scan):
    folder, volume = scan
    with VolumeReader(folder, volume) as reader:
        _, own, target = next(iter(classical_images(reader, params(source="file"))))
    assert np.array_equal(own, 0.5 * target)
    without = volume.model_copy(update={"has_grappa": False})
    with VolumeReader(folder, without) as reader, pytest.raises(InputError, match=r"a\.h5: has no `image_grappa`"):
        next(iter(classical_images(reader, params(source="file"))))


@pytest.mark.parametrize("calibration", ["slice", "volume"])
@pytest.mark.parametrize(
    ("center_fraction", "kernel_points", "words"),
    [(0.02, 5, "mask: GRAPPA needs at least 2 centre lines"), (0.2, 49, "grappa.kernel_points: 49 must not exceed")],
)
def test_a_scan_that_grappa_cannot_fill_is_named(scan, calibration, center_fraction, kernel_points, words):
    folder, volume = scan
    mask = volume.mask.model_copy(update={"center_fraction": center_fraction})
    chosen = params(calibration=calibration, kernel_points=kernel_points)
    reader = VolumeReader(folder, volume.model_copy(update={"mask": mask}))
    with reader, pytest.raises(InputError, match=rf"^{folder / 'a.h5'}: {words}"):
        list(classical_images(reader, chosen))
