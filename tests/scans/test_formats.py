"""Every format keeps the contract; the same k-space comes out of all of them; and the traps of each."""

import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

from frost.errors import InputError
from frost.mri.coils import rss
from frost.mri.fourier import ifft2c
from frost.mri.raw import mean_of_averages, measured_mask
from frost.scans.formats import FORMATS, recognise
from frost.scans.formats.contract import Found
from frost.scans.reader import VolumeReader
from tests.indexes import index_of
from tests.scans import examples
from tests.scans.conformance import check_format
from tests.scans.examples import COILS, COLUMNS, ROWS


@pytest.fixture(scope="module")
def kspace(make_kspace):
    return make_kspace(2, COILS, ROWS, COLUMNS, noise=0.004).numpy()


@pytest.fixture
def files(tmp_path, kspace):
    return examples.write_examples(tmp_path, kspace)


def header_of(file, layout=None):
    format = recognise(file)[0] if layout is None else FORMATS[layout]
    return format.header(Found("test", "", file, None))


def read(file, i=0):
    scan = recognise(file)[0].open(file, None)
    try:
        return scan.kspace(i)
    finally:
        scan.close()


def refused(file, message):
    with pytest.raises(InputError, match=message) as caught:
        header_of(file)
        read(file)
    assert file.stem in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", FORMATS)
def test_every_format_keeps_the_contract_and_gives_the_same_kspace(layout, files, kspace):
    file, image_file = files[layout]
    check_format(FORMATS[layout], file, image_file)
    scan = FORMATS[layout].open(file, image_file)
    changed = {"fastmri_singlecoil": kspace[:, :1], "calgary_campinas": examples.twelve_coils(kspace)}
    expected = changed.get(layout, kspace)
    np.testing.assert_allclose(np.stack([scan.kspace(i) for i in range(2)]), expected, rtol=0, atol=1e-9)
    scan.close()


def test_a_folder_of_many_formats_is_one_index(tmp_path, make_kspace):
    for number, split in enumerate(("train", "val")):
        files = examples.write_examples(
            tmp_path / "files" / split, make_kspace(2, COILS, ROWS, COLUMNS, number).numpy()
        )
        (tmp_path / "source" / split).mkdir(parents=True)
        for layout, (file, image_file) in files.items():
            if image_file is None:
                for path in FORMATS[layout].files(file, None):
                    shutil.copyfile(path, tmp_path / "source" / split / f"{layout}{path.suffix}")
    shutil.rmtree(tmp_path / "files")
    for split in ("train", "val"):  # its name is what tells M4Raw
        folder = tmp_path / "source" / split
        (folder / "m4raw.h5").rename(folder / "2022061003_T101.h5")
    said = []
    index = index_of(tmp_path / "source", masks={"center_fractions": [0.2]}, note=said.append)
    others = sorted(layout for layout in FORMATS if not layout.startswith("snu"))
    assert said[0] == f"{' and '.join(others)} layout (detected): 16 volumes"
    assert sorted(volume.layout for volume in index["train"]) == others
    for volume in index["train"]:
        with VolumeReader(tmp_path / "source", volume) as reader:
            assert reader.target(1).shape == volume.crop and reader.mask()[COLUMNS // 2]


def test_formats_wait_for_no_torch():
    code = "import sys, frost.scans.formats; assert not {'torch', 'zarr', 'ismrmrd'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_ending_of_no_format(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"x")
    with pytest.raises(InputError, match=r"a\.dcm: no format has this ending; \.cfl, \.h5"):
        recognise(tmp_path / "a.dcm")


# ---- BART


def test_bart_phantom_and_its_image_by_bart(tmp_path):
    if shutil.which("bart") is None:
        pytest.skip("bart is not installed")
    for words in ("phantom -k -s 4 -x 48 k", "fft -iu 3 k i", "rss 8 i r"):
        subprocess.run(["bart", *words.split()], cwd=tmp_path, check=True, capture_output=True)
    check_format(FORMATS["bart"], tmp_path / "k.cfl")
    expected = np.fromfile(tmp_path / "r.cfl", np.complex64).reshape(48, 48, order="F").real
    image = rss(ifft2c(torch.from_numpy(read(tmp_path / "k.cfl")))).numpy()
    assert np.abs(image - image.T).max() > 0.1 * image.max()  # swapped axes would show
    np.testing.assert_allclose(image, expected, atol=1e-5 * expected.max())


def test_bart_takes_what_is_not_zero_for_the_mask(tmp_path, kspace):
    mask = np.zeros(COLUMNS, bool)
    mask[::3] = mask[9:15] = True
    header = header_of(examples.write_bart(tmp_path / "a.cfl", *examples.bart_values(kspace * mask)))
    scan = FORMATS["bart"].open(tmp_path / "a.cfl", None)
    assert header.has_mask and header.target == "none" and np.array_equal(scan.mask(COLUMNS), mask)
    check_format(FORMATS["bart"], tmp_path / "a.cfl")


def test_bart_frames_and_slices_are_slices_and_averages_are_averaged(tmp_path, kspace):
    values = np.zeros((ROWS, COLUMNS, 1, COILS, *[1] * 6, 3, 1, 1, 2, 2), np.complex64)  # 10: frames, 13, 14
    for number in range(2):
        for frame in range(3):
            for average in range(2):
                scaled = kspace[number] * (1 + frame) * (1 + 2 * average)
                values[:, :, 0, :, 0, 0, 0, 0, 0, 0, frame, 0, 0, number, average] = scaled.transpose(1, 2, 0)
    sizes = {0: ROWS, 1: COLUMNS, 3: COILS, 10: 3, 13: 2, 14: 2}
    file = examples.write_bart(tmp_path / "a.cfl", values, sizes)
    assert header_of(file).shape == (6, COILS, ROWS, COLUMNS)
    for i in range(6):
        np.testing.assert_allclose(read(file, i), kspace[i // 3] * (1 + i % 3) * 2, atol=1e-9)


def test_bart_refuses_in_one_sentence(tmp_path, kspace):
    values, sizes = examples.bart_values(kspace)
    radial = np.add.outer(np.arange(ROWS), np.arange(COLUMNS)) % 2 == 0  # alternates: no two measured lie side by side
    cases = [
        (values, sizes | {2: 2}, "3-D, phase encoding in two directions"),
        (values, sizes | {4: 2}, "dimension 4 has 2 entries"),
        (values[:-1], sizes, r"bytes; its \.hdr declares 32 x 24 x 4 x 2 complex64"),
        (values, sizes | {0: 10**6}, "no scan is so large"),
        (0 * values, sizes, "all samples are zero"),
        (
            examples.bart_values(kspace * ~radial)[0],
            sizes,
            r"the centre of k-space was not measured; samples of rows 15 and 16 in lines 11 and 12",
        ),
        (examples.bart_values(kspace)[0].reshape(1, ROWS, COLUMNS, -1), {1: ROWS, 2: COLUMNS, 3: 8}, "not Cartesian"),
        (examples.bart_values(kspace * (np.arange(COLUMNS) % 5 == 0))[0], sizes, "the centre of k-space was not"),
    ]
    for k, (array, dimensions, message) in enumerate(cases):
        refused(examples.write_bart(tmp_path / f"{k}.cfl", array, dimensions), message)
    (tmp_path / "0.hdr").write_text("nothing")
    refused(tmp_path / "0.cfl", "`# Dimensions` and a line of up to 16 sizes")
    (tmp_path / "0.hdr").unlink()
    refused(tmp_path / "0.cfl", r"0\.hdr: no such file")


# ---- fastMRI's others, M4Raw, CMRxRecon


def test_the_single_coil_target_is_esc_and_test_files_are_told_by_their_folder(tmp_path, kspace, make_mask):
    esc = examples.images(kspace[:, :1])
    file = examples.write_h5(tmp_path / "a.h5", kspace=kspace[:, 0], reconstruction_esc=esc)
    assert np.array_equal(FORMATS["fastmri_singlecoil"].open(file, None).image("target", 1), esc[1])
    mask = make_mask(COLUMNS).numpy()
    test = examples.write_h5(tmp_path / "singlecoil_test" / "b.h5", kspace=kspace[:, 0] * mask, mask=mask)
    assert recognise(test)[0].layout == "fastmri_singlecoil"
    assert header_of(test).has_mask and header_of(test).target == "none"
    refused(examples.write_h5(tmp_path / "c.h5", kspace=kspace[:, 0]), "an axis of 1 coil for single-coil files")


def test_averages_of_the_prostate_are_merged_line_by_line(kspace):
    averages = examples.averages_of_prostate(kspace)[:, 0]
    averages[2] *= 3
    merged = mean_of_averages(averages)
    np.testing.assert_allclose(merged[..., ::2], kspace[0, ..., ::2])
    np.testing.assert_allclose(merged[..., 1::2], 2 * kspace[0, ..., 1::2], rtol=1e-6)


def test_m4raw_has_one_patient_a_subject_measured_columns_and_the_mean_of_repetitions(tmp_path, kspace):
    kspace = kspace.copy()
    kspace[..., :3] = kspace[..., 22:] = 0
    target = examples.images(kspace)
    for name, factor in (("7_T101", 1), ("7_T102", 2), ("7_T103", 6), ("7_T201", 50), ("8_T101", 90)):
        examples.write_h5(
            tmp_path / f"{name}.h5", kspace=kspace, reconstruction_rss=factor * target, ismrmrd_header=b"no XML"
        )
    file = tmp_path / "7_T101.h5"
    header = header_of(file)
    assert recognise(file)[0].layout == "m4raw" and header.padding == (3, 22)
    assert (header.patient, header.acquisition) == ("7", "T1")
    scan = FORMATS["m4raw"].open(file, None)
    np.testing.assert_allclose(scan.image("target", 1), 3 * target[1], rtol=1e-6)
    assert [path.stem for path in FORMATS["m4raw"].files(file, None)] == ["7_T101", "7_T102", "7_T103"]


def test_cmrxrecon_axes_masks_and_patients(tmp_path, kspace):
    """The phase direction comes before the readout; frames are slices."""
    mask = np.zeros(COLUMNS, bool)
    mask[::4] = mask[8:16] = True
    file = examples.write_h5(tmp_path / "P012" / "cine.mat", kspace_sub04=examples.matlab(kspace * mask, 2))
    header = header_of(file)
    assert header.shape == kspace.shape and header.has_mask and header.acceleration == 4 and header.patient == "P012"
    np.testing.assert_array_equal(read(file, 1), kspace[1] * mask)
    frames = kspace * np.stack([mask, np.roll(mask, 1)])[:, None, None]
    refused(examples.write_h5(tmp_path / "frames.mat", kus=examples.matlab(frames, 2)), "slice 1 was measured on other")
    with h5py.File(tmp_path / "none.mat", "w") as h5:
        h5["mask04"] = mask
    refused(tmp_path / "none.mat", "`kspace_full`: no such dataset")


def test_an_empty_slice_tells_nothing_of_the_mask(kspace):
    mask = np.zeros(COLUMNS, bool)
    mask[::2] = True
    assert np.array_equal(measured_mask([0 * kspace[0], kspace[0] * mask]), mask)
