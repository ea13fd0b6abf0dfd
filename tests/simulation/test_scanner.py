"""Simulated scans: repeatable to the byte, in fastMRI's layout and magnitude, split by subject."""

import hashlib
import json
import time
import xml.etree.ElementTree as ElementTree

import h5py
import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from frost.errors import InputError
from frost.mri.coils import rss
from frost.mri.fourier import fft2c, ifft2c
from frost.pipeline.params import checked
from frost.pipeline.places import HEADS
from frost.simulation.coils import draw_loops, head_array, sensitivities
from frost.simulation.heads import head_mask, list_heads, load_head, zero_padded_axes
from frost.simulation.params import SimulateParams
from frost.simulation.planes import Grid
from frost.simulation.scanner import PEAK, cut
from frost.simulation.simulate import SPLITS, plan, simulate, simulate_volume, split_subjects
from tests.paths import SHARED

VALUES = {
    "subjects": 3, "heads": None, "val": 1, "test": 1, "rotation": 0, "slices": 2, "coils": 3, "size": 48,
    "fov": 256.0, "noise": 0.004, "seed": 1, "world": None,
}  # fmt: skip
ANATOMY = SHARED / "anatomy"


def params(**changes):
    return checked(SimulateParams, VALUES | changes, "params.yaml: simulate")


def digests(folder):
    files = folder.rglob("*.h5")
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def ball(spacing=6.0, shape=(32, 36, 34), brightness=1.0):
    """A textured ellipsoid in air: the smallest head there is."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    grain = np.random.default_rng(0).normal(1, 0.1, shape)
    volume = 1000 * brightness * grain / (1 + np.exp(20 * ((grid**2).sum(axis=0) - 0.6)))
    return nibabel.Nifti1Image(volume.astype(np.float32), np.diag([spacing, spacing, spacing, 1]))


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    for i, name in enumerate(("S1_T1", "S1_FL", "S2_T1", "S2_FL", "S10_T1", "S10_swi")):
        nibabel.save(ball(brightness=1 + i), folder / f"{name}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    summary = simulate(folder, params())
    return folder, summary


def test_two_runs_give_the_same_bytes(made, tmp_path):
    time.sleep(1.1)  # HDF5's times have seconds
    simulate(tmp_path, params())
    assert digests(tmp_path) == digests(made[0])
    assert len(digests(tmp_path)) == 3


def test_the_number_of_processes_changes_no_byte(heads, tmp_path):
    threads = torch.get_num_threads()
    simulate(tmp_path / "one", params(heads=str(heads)))
    simulate(tmp_path / "two", params(heads=str(heads)), n_processes=2)
    assert json.loads((tmp_path / "one" / HEADS).read_text()) == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in heads.iterdir()
    }
    assert digests(tmp_path / "one") == digests(tmp_path / "two") != {}
    assert torch.get_num_threads() == threads


def test_more_subjects_leave_the_others_as_they_were():
    few, more = plan(params()), plan(params(subjects=4))
    assert more[:3] == few
    assert more[3].split == "train"


def test_a_seed_makes_other_heads(made):
    task = plan(params())[0]
    one, two = (simulate_volume(params(seed=seed), task)[0].target for seed in (1, 2))
    with h5py.File(made[0] / task.split / f"{task.name}.h5") as h5:
        np.testing.assert_array_equal(one.numpy(), h5["reconstruction_rss"][()])
    assert (one - two).norm() > 0.1 * one.norm()


def test_files_have_the_layout_of_fastmri(made):
    folder, summary = made
    assert summary == ({"train": 1, "val": 1, "test": 1}, [])
    acquisitions = set()
    for file in folder.rglob("*.h5"):
        with h5py.File(file) as h5:
            assert (h5["kspace"].shape, h5["kspace"].dtype) == ((2, 3, 48, 48), np.complex64)
            for name in ("reconstruction_rss", "reconstruction_rss_clean"):
                assert (h5[name].shape, h5[name].dtype) == ((2, 48, 48), np.float32)
            target = h5["reconstruction_rss"][()]
            assert h5.attrs["max"] == target.max()
            assert h5.attrs["norm"] == np.sqrt(np.square(target, dtype=np.float64).sum())  # exact: no BLAS
            recomputed = rss(ifft2c(torch.from_numpy(h5["kspace"][()])))
            np.testing.assert_allclose(recomputed, target, rtol=1e-5, atol=1e-9)
            acquisitions.add(h5.attrs["acquisition"])
            root = ElementTree.fromstring(h5["ismrmrd_header"][()])
        name = "{http://www.ismrm.org/ISMRMRD}"
        for space in ("encodedSpace", "reconSpace"):
            matrix = root.find(f"{name}encoding/{name}{space}/{name}matrixSize")
            assert [int(matrix.find(name + axis).text) for axis in "xyz"] == [48, 48, 1]
        limits = root.find(f"{name}encoding/{name}encodingLimits/{name}kspace_encoding_step_1")
        center, maximum = (int(limits.find(name + key).text) for key in ("center", "maximum"))
        left = 48 // 2 - center
        assert (left, left + maximum + 1) == (0, 48)  # fastMRI's padding: nothing is outside
    assert acquisitions == {"AXT1", "AXT2", "AXFLAIR"}


def test_nothing_unfinished_is_left(made):
    names = [path.name for path in made[0].rglob("*") if path.is_file()]
    assert len(names) == 3
    assert all(name.endswith(".h5") and not name.startswith(".") for name in names)


def test_no_subjects_make_empty_splits(tmp_path):
    volumes, _ = simulate(tmp_path, params(subjects=0))
    assert volumes == {"train": 0, "val": 0, "test": 0}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(SPLITS)


def foreground(label, threshold):
    """The challenges' mask: erode once, dilate 15 times, erode 14 times."""
    square = np.ones((3, 3))
    mask = ndimage.binary_erosion(label > threshold, square, border_value=1)
    mask = ndimage.binary_dilation(mask, square, 15)
    return ndimage.binary_erosion(mask, square, 14, border_value=1)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_challenges_thresholds_select_the_head(number):
    full = params(size=128, coils=6, slices=3, seed=2026)
    scan, _ = simulate_volume(full, plan(full)[number])
    head = scan.head.numpy() > 0.5
    assert 0.2 < head.mean() < 0.5
    for threshold in (5e-5, 2e-5):
        mask = np.stack([foreground(label, threshold) for label in scan.target.numpy()])
        assert (mask & head).sum() / (mask | head).sum() >= 0.9
    assert scan.target[:, :8, :8].max() < 2e-5
    assert scan.clean_target.max().item() == pytest.approx(PEAK)
    assert 2 < scan.clean_target[torch.from_numpy(head)].median() / 5e-5 < 12  # tissue, not only the scalp


def test_noise_is_as_asked_and_all_that_parts_target_from_clean():
    noisy, quiet = params(size=64, slices=1, noise=0.01), params(size=64, slices=1, noise=0.0)
    task = plan(noisy)[0]
    scan, clean = simulate_volume(noisy, task)[0], simulate_volume(quiet, task)[0]
    torch.testing.assert_close(clean.target, clean.clean_target, rtol=0, atol=0)
    torch.testing.assert_close(scan.clean_target, clean.target, rtol=0, atol=0)
    noise = torch.view_as_real(scan.kspace - clean.kspace)
    torch.testing.assert_close(noise.std(), torch.tensor(0.01 * PEAK), rtol=0.02, atol=0)
    assert abs(noise.mean()) < 0.05 * noise.std()
    air = torch.view_as_real(ifft2c(scan.kspace))[:, :, :8, :8]
    torch.testing.assert_close(air.std(), torch.tensor(0.01 * PEAK), rtol=0.1, atol=0)


def test_rendering_keeps_a_smooth_object_where_and_as_it_is():
    along = torch.arange(64) - 32.0
    fine = torch.exp(-((along[:, None] - 8) ** 2 + (along[None] + 4) ** 2) / 72).to(torch.complex64)
    for size in (32, 31):  # an odd matrix has its origin at size // 2 too
        image = ifft2c(cut(fft2c(fine[None]), (size, size)))[0].real
        there = (torch.arange(size) - size // 2) * 64 / size
        expected = torch.exp(-((there[:, None] - 8) ** 2 + (there[None] + 4) ** 2) / 72)
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-3)


def test_rendering_rings_at_an_edge():
    fine = torch.zeros(64, 64, dtype=torch.complex64)
    fine[:, 20:44] = 1
    image = ifft2c(cut(fft2c(fine[None]), (32, 32)))[0].real
    assert 1.03 < image.max() < 1.2


def test_every_coil_sees_its_own_side_with_its_own_phase():
    loops = draw_loops(np.random.default_rng(0), head_array(6))
    maps = sensitivities(loops, Grid((64, 64), (256.0, 256.0)), 20.0)
    inside = maps[:, 14:50, 18:46]
    brightest = {int(coil.abs().argmax()) for coil in inside}
    assert len(brightest) == 6
    flat = inside.reshape(6, -1)
    alike = (flat @ flat.mH).abs() / (flat.norm(dim=1)[:, None] * flat.norm(dim=1))
    assert (alike - torch.eye(6)).max() < 0.9
    assert inside.angle().std() > 0.3


def test_rotations_test_each_subject_once():
    splits = [split_subjects(params(subjects=16, val=2, test=4, rotation=i)) for i in range(4)]
    assert all([split.count(name) for name in SPLITS] == [10, 2, 4] for split in splits)
    assert all([split[i] for split in splits].count("test") == 1 for i in range(16))


def test_contrasts_of_one_head_share_patient_and_split(heads, tmp_path):
    simulate(tmp_path, params(heads=str(heads)))
    found = {}
    for file in tmp_path.rglob("*.h5"):
        with h5py.File(file) as h5:
            found[file.stem] = (file.parent.name, h5.attrs["patient_id"], h5.attrs["acquisition"])
    assert found == {
        "S1_T1": ("test", "S1", "AXT1"),
        "S1_FL": ("test", "S1", "AXFLAIR"),
        "S2_T1": ("val", "S2", "AXT1"),
        "S2_FL": ("val", "S2", "AXFLAIR"),
        "S10_T1": ("train", "S10", "AXT1"),  # after S2, as people count
        "S10_swi": ("train", "S10", "AXSWI"),
    }


def test_a_zero_padded_head_is_told(tmp_path):
    image = ball(spacing=3.0, shape=(64, 64, 24))
    small = torch.from_numpy(image.get_fdata()).to(torch.complex64).permute(2, 0, 1)
    spectrum = fft2c(small)
    spectrum[:, :12] = spectrum[:, -11:] = 0
    padded = ifft2c(spectrum).abs().permute(1, 2, 0).numpy()
    assert zero_padded_axes(image.get_fdata(dtype=np.float32)) == []
    assert zero_padded_axes(padded) == ["from right to left"]
    nibabel.save(nibabel.Nifti1Image(padded, image.affine), tmp_path / "S1_T1.nii")
    _, warnings = simulate(tmp_path / "out", params(subjects=1, val=0, test=0, heads=str(tmp_path)))
    assert warnings == [
        "S1_T1.nii: its own k-space is zero-padded from right to left; scores on it flatter every method"
    ]


@pytest.mark.skipif(not ANATOMY.is_dir(), reason="no real anatomy beside the checkout")
def test_real_heads():
    real = params(subjects=16, val=2, test=4, heads=str(ANATOMY), size=128, coils=4, slices=6)
    tasks = plan(real)
    assert len({task.patient for task in tasks}) == 16
    assert tasks[0].name == "S1_FL"
    scan, warning = simulate_volume(real, tasks[0])
    assert warning is None
    head = scan.head.numpy() > 0.5
    mask = np.stack([foreground(label, 5e-5) for label in scan.target.numpy()])
    assert (mask & head).sum() / (mask | head).sum() >= 0.9
    volume, voxel = load_head(list_heads(ANATOMY)[0].file)
    assert 0.15 < head_mask(volume).mean() < 0.7
    np.testing.assert_allclose(voxel, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slices": 0}, "simulate.slices: .*greater than or equal to 1, not 0"),
        ({"noise": -0.1}, "simulate.noise: "),
        ({"heads": 3}, "simulate.heads: "),
        ({"val": 2}, r"val \+ test = 3 of 3 subjects leave none to train on"),
        ({"colour": 1}, "simulate.colour: no such parameter"),
    ],
)
def test_bad_params_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        params(**changes)


def test_bad_heads_are_named(heads, tmp_path):
    with pytest.raises(InputError, match="not a folder of NIfTI heads"):
        simulate(tmp_path / "out", params(heads=str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match=r"holds no \*.nii"):
        simulate(tmp_path / "out", params(heads=str(tmp_path)))
    with pytest.raises(InputError, match=r"simulate.subjects: 4 wanted, but .* has only 3"):
        simulate(tmp_path / "out", params(subjects=4, heads=str(heads)))
    (tmp_path / "S1_T1.nii.gz").write_bytes(b"not a head")
    with pytest.raises(InputError, match=r"S1_T1.nii.gz: not a readable NIfTI file"):
        simulate(tmp_path / "out", params(subjects=1, val=0, test=0, heads=str(tmp_path)))
    assert not list((tmp_path / "out").rglob("*.*"))
    nibabel.save(ball(), tmp_path / "S1_T1.nii")
    with pytest.raises(InputError, match="one head twice"):
        list_heads(tmp_path)
