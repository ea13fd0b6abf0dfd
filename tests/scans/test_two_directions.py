"""Masks of samples from files to slices: what tells them, what they must agree with, and what the formats refuse."""

import json
import shutil
import subprocess

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from frost.errors import InputError
from frost.mri.coils import rss
from frost.mri.fourier import ifft2c
from frost.mri.raw import measured_mask
from frost.mri.sampling import MaskRecord, draw_mask
from frost.scans.formats import FORMATS, recognise
from frost.scans.formats.contract import Found
from frost.scans.inspection import described, inspect
from frost.scans.reader import VolumeReader
from frost.scans.volumes import read_index, write_index
from tests.indexes import index_of
from tests.scans import examples
from tests.scans.conformance import check_format
from tests.scans.examples import COILS, COLUMNS, ROWS
from tests.scans.test_formats import header_of, refused

POISSON = MaskRecord(kind="poisson", acceleration=3, center_fraction=0.3, seed=1, padding=(0, COLUMNS))


@pytest.fixture(scope="module")
def kspace(make_kspace):
    return make_kspace(2, COILS, ROWS, COLUMNS, noise=0.004).numpy()


@pytest.fixture(scope="module")
def mask():
    return draw_mask(POISSON, COLUMNS, ROWS)


def radial(spokes=6):
    """Lines through the centre on the grid, and a full disc around it."""
    y, x = np.mgrid[:ROWS, :COLUMNS] - np.array([ROWS // 2, COLUMNS // 2])[:, None, None]
    angles = np.pi * np.arange(spokes) / spokes
    return (np.abs(np.sin(angles)[:, None, None] * x - np.cos(angles)[:, None, None] * y) < 0.5).any(0) | (
        np.hypot(y, x) < 5
    )


def tree(folder, kspace, masks):
    """Files of fastMRI's form in train, val and test, undersampled with their mask; those of None are complete."""
    for split, mask in masks.items():
        values = {"kspace": kspace} if mask is None else {"kspace": kspace * mask, "mask": mask.astype(np.uint8)}
        if split != "test":
            values["reconstruction_rss"] = examples.images(kspace)
        examples.write_h5(folder / split / f"{split}.h5", **values)
    return folder


def test_a_mask_of_samples_goes_through_the_index_to_the_slices(tmp_path, kspace, mask):
    source = tree(tmp_path / "scans", kspace, {"train": mask, "val": radial(), "test": mask})
    write_index(tmp_path / "index", index_of(source, test={"when": "never"}))
    for split, expected in (("train", mask), ("val", radial()), ("test", mask)):
        (volume,) = read_index(tmp_path / "index" / f"{split}.json")
        assert volume.mask.kind == "file_2d" and volume.mask.of_samples
        with VolumeReader(source, volume) as reader:
            assert np.array_equal(reader.mask(), expected)
            centre = reader.centre_lines()
            assert centre.shape == (ROWS, COLUMNS) and reader.mask()[centre].all() and centre[ROWS // 2, COLUMNS // 2]
            rows, columns = reader.acs()
            assert min(rows.stop - rows.start, columns.stop - columns.start) >= 6
            assert torch.equal(reader.kspace(1), torch.from_numpy(kspace[1] * expected))
            assert reader.attributes()["effective_acceleration"] == expected.size / expected.sum()


def test_drawn_masks_of_samples_are_those_of_the_record(tmp_path, kspace):
    source = tree(tmp_path, kspace, {"train": None, "val": None, "test": None})
    masks = {"kind": "poisson", "accelerations": [3], "center_fractions": [0.3]}
    (volume,) = index_of(source, masks=masks, test={"when": "never"})["train"]
    with VolumeReader(source, volume) as reader:
        assert np.array_equal(reader.mask(), draw_mask(volume.mask, COLUMNS, ROWS))
        assert reader.acs() == (slice(11, 21), slice(9, 16)) and reader.mask()[reader.acs()].all()
    with pytest.raises(
        InputError, match=r"index\.masks: train/train\.h5: mask\.center_fraction: a centre of .* samples"
    ):
        index_of(source, masks={**masks, "accelerations": [20]}, test={"when": "never"})


def test_a_mask_of_samples_that_has_whole_columns_is_one_of_columns(tmp_path, kspace):
    columns = np.zeros(COLUMNS, bool)
    columns[::3] = columns[8:16] = True
    repeated = np.tile(columns, (ROWS, 1))
    one = examples.write_h5(tmp_path / "a.h5", kspace=kspace * columns, mask=columns.astype(np.uint8))
    two = examples.write_h5(tmp_path / "b.h5", kspace=kspace * columns, mask=repeated.astype(np.uint8))
    assert header_of(one) == header_of(two) and not header_of(two).of_samples
    assert np.array_equal(FORMATS["fastmri"].open(two, None).mask(COLUMNS), columns)


def test_a_mask_of_samples_must_agree_with_the_data(tmp_path, kspace, mask):
    def fault(name, mask_of_file, mask_of_data):
        values = {"kspace": kspace * mask_of_data}
        if mask_of_file is not None:
            values["mask"] = mask_of_file.astype(np.uint8)
        file = examples.write_h5(tmp_path / name / "test" / "a.h5", **values)
        return inspect(file)[0].refused

    assert fault("right", mask, mask) is None
    assert fault("on full", mask, np.ones_like(mask)) is None
    assert "`mask`: is 1 where `kspace` is 0 in all coils, at " in fault("moved", np.roll(mask, 1, 0) | radial(), mask)
    less = mask.copy()
    less[3][np.flatnonzero(mask[3])[0]] = False
    assert "is 0 where `kspace`, undersampled, was measured, at 1 samples, [3, " in fault("less", less, mask)
    assert "missing in both directions, and there is no `mask` dataset" in fault("none", None, mask)
    columns = mask.any(axis=0)
    assert "missing in both directions, and there is a `mask` of columns" in fault("columns", columns, mask)
    assert "the centre of k-space was not measured; samples of rows 15 and 16 in lines 11 and 12" in fault(
        "centre", ~radial(), ~radial()
    )
    assert "has shape (31, 24); one value for each of the (32, 24) samples" in fault("size", mask[1:], mask)
    assert "values other than 0 and 1" in fault("values", 2 * mask.astype(int), mask)


def test_corners_that_the_scanner_left_out_are_no_mask(kspace):
    y, x = np.ogrid[-1 : 1 : ROWS * 1j, -1 : 1 : COLUMNS * 1j]
    ellipse = y**2 + x**2 < 1.05
    assert measured_mask([kspace[0] * ellipse]).shape == (COLUMNS,)
    assert np.array_equal(measured_mask([kspace[0] * radial(), kspace[1] * radial()]), radial())


def test_inspection_tells_of_both_directions(tmp_path, kspace, mask):
    (found,) = inspect(examples.write_h5(tmp_path / "a.h5", kspace=kspace * mask, mask=mask.astype(np.uint8)))
    assert (found.directions, found.lines, found.sampling) == (2, int(mask.sum()), "undersampled")
    assert found.effective_acceleration == pytest.approx(3, rel=0.01) and found.centre_lines == 6
    assert f"undersampled: {mask.sum()} samples in two directions, a centre of 6" in "\n".join(described(found))
    json.dumps(found.__dict__)


# ---- formats whose data tell the mask


def test_bart_takes_samples_that_are_not_zero_for_the_mask(tmp_path, kspace, mask):
    file = examples.write_bart(tmp_path / "a.cfl", *examples.bart_values(kspace * mask))
    check_format(FORMATS["bart"], file)
    header = header_of(file)
    assert header.of_samples and header.target == "none"
    assert np.array_equal(FORMATS["bart"].open(file, None).mask(COLUMNS), mask)


@pytest.mark.parametrize("old", [False, True])
def test_cmrxrecon_of_any_version_and_mask(tmp_path, kspace, old):
    """Phase before readout in h5py's order, which is the reverse of MATLAB's; frames are slices."""
    for name, mask in (("full", np.ones((ROWS, COLUMNS), bool)), ("gaussian", draw_mask(POISSON, COLUMNS, ROWS)),
                       ("radial", radial())):  # fmt: skip
        measured = kspace * mask
        if old:
            file = tmp_path / f"{name}.mat"
            scipy.io.savemat(file, {"kspace_full": examples.matlab_order(measured)}, do_compression=name == "radial")
        else:
            file = examples.write_h5(tmp_path / f"{name}.mat", kspace_full=examples.matlab(measured, 2))
        check_format(FORMATS["cmrxrecon"], file)
        header, scan = header_of(file), FORMATS["cmrxrecon"].open(file, None)
        assert header.shape == kspace.shape and header.of_samples == (name != "full")
        assert np.array_equal(scan.kspace(1), measured[1])
        assert recognise(file)[1] == "array `kspace_full` in a MATLAB file"
        if name != "full":
            assert np.array_equal(scan.mask(COLUMNS), mask)


@pytest.mark.parametrize("old", [False, True])
def test_cmrxrecon_takes_the_mask_that_the_file_holds(tmp_path, kspace, mask, old):
    def write(name, kus, stored):
        file = tmp_path / f"{name}.mat"
        if old:
            scipy.io.savemat(file, {"kus": examples.matlab_order(kus), "mask": stored.T})
            return file
        return examples.write_h5(file, kus=examples.matlab(kus, 2), mask=stored)

    stored = mask.T.astype(float)  # (ny, nx) in h5py's order
    file = write("one", kspace * mask, stored)
    check_format(FORMATS["cmrxrecon"], file)
    assert np.array_equal(FORMATS["cmrxrecon"].open(file, None).mask(COLUMNS), mask)
    assert header_of(write("frames", kspace * mask, np.stack([stored] * 2))).of_samples
    refused(write("moving", kspace, np.stack([stored, np.roll(stored, 1, 1)])), "`mask`: differs from frame to frame")
    refused(write("numbers", kspace, 2 * stored), "`mask`: holds float64; 0 and 1 are needed")
    refused(write("size", kspace, stored[1:]), r"`mask`: has shape \(23, 32\); that of `kus`, \(24, 32\), is needed")
    refused(write("middle", kspace, np.roll(stored, 12, 0)), "the centre of k-space was not measured")


def test_old_matlab_files_of_strangers_are_refused_in_one_line(tmp_path, kspace):
    file = tmp_path / "a.mat"
    scipy.io.savemat(file, {"kspace_full": examples.matlab_order(kspace)}, do_compression=True)
    content = file.read_bytes()
    generator = np.random.default_rng(0)
    broken = tmp_path / "broken.mat"
    for _ in range(60):
        changed = bytearray(content)
        for place in generator.integers(0, min(len(content), 300), 4):
            changed[place] = generator.integers(256)
        broken.write_bytes(changed)
        try:
            scan = FORMATS["cmrxrecon"].open(broken, None)
            scan.kspace(scan.shape()[0] - 1)
        except InputError as error:
            assert "broken.mat" in str(error) and "\n" not in str(error)
    for name, values, message in (
        ("real", examples.matlab_order(kspace.real), "holds float32 of shape .*; complex numbers are needed"),
        ("flat", kspace[0, 0], r"has shape \(24, 32\); \(frame, slice, coil, y, x\) is needed"),
        ("text", "no numbers", r"`kspace_full`: has shape \(\)"),
    ):
        scipy.io.savemat(tmp_path / f"{name}.mat", {"kspace_full": values})
        refused(tmp_path / f"{name}.mat", message)
    scipy.io.savemat(tmp_path / "bomb.mat", {"kspace_full": np.zeros((4, 3, 2), complex)})
    declared = bytearray((tmp_path / "bomb.mat").read_bytes())
    place = declared.index(np.array([4, 3, 2], "<i4").tobytes())
    declared[place : place + 12] = np.array([8000, 8000, 500], "<i4").tobytes()
    (tmp_path / "bomb.mat").write_bytes(declared)
    refused(tmp_path / "bomb.mat", r"declares shape \(500, 8000, 8000\); no scan in such a file is so large")


def test_masks_beside_cmrxrecon_scans_are_no_volumes(tmp_path, kspace):
    for split in ("train", "val", "test"):
        examples.write_h5(tmp_path / split / f"cine_{split}.mat", kspace_full=examples.matlab(kspace, 2))
        for name in (f"cine_{split}_mask.mat", f"cine_{split}_mask_Uniform4.mat"):
            examples.write_h5(tmp_path / split / name, mask04=np.ones(COLUMNS))
    index = index_of(tmp_path, masks={"center_fractions": [0.2]}, test={"when": "never"})
    assert [volume.name for volume in index["train"] + index["val"]] == ["cine_train", "cine_val"]


# ---- Calgary-Campinas


@pytest.fixture(scope="module")
def brain(kspace):
    return examples.twelve_coils(kspace)


def test_calgary_images_are_the_plain_inverse_transform_of_the_file(tmp_path, brain):
    """As its publishers reconstruct it: interleaved parts, no shift, zeros from ceil(0.85 * kz) on."""
    values = examples.calgary(brain)
    assert values.dtype == np.float32 and values.shape == (2, ROWS, COLUMNS, 24)
    values[:, :, 21:] = 1e-5  # what lies there counts for nothing
    file = examples.write_h5(tmp_path / "e1.h5", kspace=values)
    parts = values.astype(np.float64)
    parts[:, :, 21:] = 0
    expected = np.abs(np.fft.ifft2(parts[..., ::2] + 1j * parts[..., 1::2], axes=(1, 2), norm="ortho"))
    scan = FORMATS["calgary_campinas"].open(file, None)
    images = rss(ifft2c(torch.from_numpy(scan.kspace(1)))).numpy()
    np.testing.assert_allclose(images, np.linalg.norm(expected[1], axis=-1), atol=1e-6 * images.max())
    header = header_of(file)
    assert header.padding == (0, 21) and not header.has_mask and header.target == "computed"
    assert recognise(file)[1].endswith("12 coils")
    twice = examples.write_h5(tmp_path / "e32.h5", kspace=np.tile(values[..., :8], 8))
    assert header_of(twice).shape == (2, 32, ROWS, COLUMNS)
    check_format(FORMATS["calgary_campinas"], twice)


def test_calgary_masks_are_files_beside_or_zeros_in_the_data(tmp_path, brain):
    mask = draw_mask(POISSON, COLUMNS, ROWS)
    mask[:, 21:] = False
    test = examples.write_h5(tmp_path / "test" / "e1.h5", kspace=examples.calgary(brain * mask))
    check_format(FORMATS["calgary_campinas"], test)
    header, scan = header_of(test), FORMATS["calgary_campinas"].open(test, None)
    assert header.of_samples and header.target == "none" and np.array_equal(scan.mask(COLUMNS), mask)
    for split in ("train", "val"):
        file = examples.write_h5(tmp_path / split / f"{split}.h5", kspace=examples.calgary(brain))
        np.save(tmp_path / split / f"R5_{ROWS}x{COLUMNS}.npy", np.stack([mask] * 3))
        np.save(tmp_path / split / "R5_218x170.npy", np.ones((218, 170)))
    check_format(FORMATS["calgary_campinas"], file)
    (volume,) = index_of(tmp_path, test={"when": "never"})["train"]
    assert volume.mask.kind == "file_2d" and volume.mask.acceleration == 5 and volume.target == "computed"
    with VolumeReader(tmp_path, volume) as reader:
        assert np.array_equal(reader.mask(), mask)
        full = rss(ifft2c(torch.from_numpy(brain[1])))
        torch.testing.assert_close(reader.target(1), full, rtol=1e-4, atol=1e-5 * float(full.max()))


def test_calgary_refuses_in_one_sentence(tmp_path, brain):
    values = examples.calgary(brain)
    for name, array, message in (
        ("magnitudes", values[..., :8], "holds float32; complex numbers|holds float32 of shape"),
        ("odd", values[:, 1:], "31 x 24; even sides are needed, as the sign alternates"),
        ("nan", np.full_like(values, np.nan), "slice 0 has NaN or infinite values"),
        ("nothing", 0 * values, "all samples are zero"),
    ):
        refused(examples.write_h5(tmp_path / f"{name}.h5", kspace=array), message)
    file = examples.write_h5(tmp_path / "masks" / "e.h5", kspace=values)
    beside = tmp_path / "masks" / f"R5_{ROWS}x{COLUMNS}.npy"
    for array, message in (
        (np.ones((ROWS, 3)), r"npy: has shape \(32, 3\); masks of shape \(32, 24\) are needed"),
        (np.full((ROWS, COLUMNS), 2), "npy: holds values other than 0 and 1"),
        (~radial(), "npy: the centre of k-space was not measured"),
        (np.array([{}]), "npy: damaged or no NumPy array"),
    ):
        np.save(beside, array, allow_pickle=True)
        with pytest.raises(InputError, match=message):
            header_of(file)
    np.save(beside, np.ones((ROWS, COLUMNS)))
    np.save(tmp_path / "masks" / f"R10_{ROWS}x{COLUMNS}.npy", np.ones((ROWS, COLUMNS)))
    with pytest.raises(InputError, match=r"R10_32x24\.npy and R5_32x24\.npy beside it are both masks of its size"):
        header_of(file)


# ---- what is refused


def test_what_a_header_says_of_other_trajectories_and_of_3d_is_refused(tmp_path, kspace, header):
    plain = header((ROWS, COLUMNS), (ROWS, COLUMNS)).decode()
    second = "</kspace_encoding_step_1><kspace_encoding_step_2><maximum>15</maximum></kspace_encoding_step_2>"
    for name, changed, message in (
        ("radial", plain.replace("</encoding>", "<trajectory>radial</trajectory></encoding>"), "only Cartesian scans"),
        ("spiral", plain.replace("</encoding>", "<trajectory>spiral</trajectory></encoding>"), "only Cartesian scans"),
        (
            "epi",
            plain.replace("</encoding>", "<trajectory>epi</trajectory></encoding>"),
            "its ghosts must be corrected",
        ),
        ("volume", plain.replace("</kspace_encoding_step_1>", second), "3-D, phase encoding in two directions"),
    ):
        assert changed != plain
        for layout, values in (
            ("fastmri", {"kspace": kspace}),
            ("fastmri_singlecoil", {"kspace": kspace[:, 0], "reconstruction_esc": examples.images(kspace[:, :1])}),
            (
                "fastmri_prostate",
                {"kspace": examples.averages_of_prostate(kspace), "calibration_data": kspace[..., :4]},
            ),
        ):
            file = examples.write_h5(tmp_path / layout / f"{name}.h5", ismrmrd_header=changed.encode(), **values)
            assert recognise(file)[0].layout == layout
            refused(file, message)
    cartesian = plain.replace("</encoding>", "<trajectory>cartesian</trajectory></encoding>")
    file = examples.write_h5(tmp_path / "plain.h5", ismrmrd_header=cartesian.encode(), kspace=kspace)
    assert header_of(file).crop == (ROWS, COLUMNS)


def test_skm_tea_and_the_radial_breast_are_refused_in_one_sentence(tmp_path, kspace):
    knee = kspace.transpose(0, 2, 3, 1)[:, :, :, None]  # (x, ky, kz, echo, coil)
    refused(examples.write_h5(tmp_path / "skm.h5", kspace=knee, maps=knee, target=knee), "SKM-TEA's; .* filled by ARC")
    breast = np.stack([kspace.real, kspace.imag])  # (part, slice, coil, spoke, sample)
    refused(examples.write_h5(tmp_path / "breast.h5", kspace=breast), "complex numbers are needed")


def test_a_volume_whose_mask_changed_its_form_is_another(tmp_path, kspace, mask):
    source = tree(tmp_path, kspace, {"train": mask, "val": mask, "test": mask})
    (volume,) = index_of(source, test={"when": "never"})["test"]
    with h5py.File(source / volume.file, "r+") as file:
        del file["mask"]
        file["mask"] = np.ones(COLUMNS)
    with VolumeReader(source, volume) as reader, pytest.raises(InputError, match="run `dvc repro`"):
        reader.mask()
    assert FORMATS["fastmri"].header(Found("test", "", source / volume.file, None)).has_mask


def test_a_poisson_mask_of_bart_is_read_from_its_file(tmp_path):
    if shutil.which("bart") is None:
        pytest.skip("bart is not installed")
    for words in ("phantom -k -s 4 -x 48 k", "poisson -Y 48 -Z 48 -y 1.6 -z 1.6 -C 12 p", "reshape 7 48 48 1 p m"):
        subprocess.run(["bart", *words.split()], cwd=tmp_path, check=True, capture_output=True)
    subprocess.run(["bart", "fmac", "k", "m", "u"], cwd=tmp_path, check=True, capture_output=True)
    pattern = np.fromfile(tmp_path / "m.cfl", np.complex64).reshape(48, 48, order="F").real > 0
    check_format(FORMATS["bart"], tmp_path / "u.cfl")
    header, scan = header_of(tmp_path / "u.cfl"), FORMATS["bart"].open(tmp_path / "u.cfl", None)
    assert header.of_samples and pattern.mean() < 0.6 and np.array_equal(scan.mask(48), pattern)
