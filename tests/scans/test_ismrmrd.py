"""ISMRMRD: images of foreign programs, and a test for each thing that a raw file may hold beside image lines."""

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
from frost.mri.raw import remove_oversampling, whitening
from frost.scans.formats import FORMATS
from frost.scans.formats.contract import Found
from frost.scans.reader import VolumeReader
from tests.indexes import index_of
from tests.scans import mrd
from tests.scans.conformance import check_format

FORMAT = FORMATS["ismrmrd"]
COILS, ROWS, COLUMNS = 3, 32, 24


def header_of(file):
    return FORMAT.header(Found("test", "", file, None))


def read(file, i=0):
    scan = FORMAT.open(file, None)
    try:
        return scan.kspace(i), scan.remarks()
    finally:
        scan.close()


def image_of(kspace):
    return rss(ifft2c(torch.from_numpy(kspace))).numpy()


def relative(image, expected):
    return float(np.abs(image - expected).max() / np.abs(expected).max())


@pytest.fixture
def kspace(make_kspace):
    """Full k-space with 2-fold oversampling: complex64 (coil, 64, 24)."""
    return make_kspace(1, COILS, 2 * ROWS, COLUMNS, noise=0.004)[0].numpy() * 1e3


def lines_of(kspace, columns=range(COLUMNS), **more):
    return [mrd.line(kspace[..., x], x, **more) for x in columns]


def xml(**more):
    return mrd.header((2 * ROWS, COLUMNS), (ROWS, COLUMNS), **more)


# ---- foreign programs


@pytest.mark.parametrize(
    ("acceleration", "oversampling", "repetitions", "noise_scan"),
    [(1, 1, 1, False), (1, 2, 1, True), (2, 2, 1, False), (4, 2, 2, True), (2, 1, 2, False)],
)
def test_the_image_is_that_of_the_foreign_reconstruction(tmp_path, acceleration, oversampling, repetitions, noise_scan):
    """Which averages nothing and prewhitens nothing: it gets a copy in which numpy has done so."""
    options = {"a": acceleration, "O": oversampling, "r": repetitions, "n": 0.05} | ({"C": True} if noise_scan else {})
    file = mrd.generate(tmp_path / "a.h5", **options)
    kspace, remarks = read(file)
    header = header_of(file)
    assert not header.has_mask and header.target == "computed" and header.shape[1:] == kspace.shape

    def prepared(lines):
        is_noise = (lines["head"]["flags"] & (1 << 18)) != 0
        assert is_noise.any() == noise_scan
        matrix = np.eye(4)
        if noise_scan:
            noise = lines[is_noise][0]["data"].view(np.complex64).reshape(4, -1)
            matrix = np.linalg.inv(np.linalg.cholesky(noise @ noise.conj().T / noise.shape[1]))
        lines = lines[~is_noise]
        ky = lines["head"]["idx"]["kspace_encode_step_1"]
        kept = [np.flatnonzero(ky == k)[0] for k in range(64)]
        for k in kept:
            mean = np.mean([lines["data"][j].view(np.complex64) for j in np.flatnonzero(ky == ky[k])], axis=0)
            whitened = (matrix @ mean.reshape(4, -1)).astype(np.complex64)
            lines["data"][k] = np.ascontiguousarray(whitened).view(np.float32).ravel()
        return lines[kept]

    shutil.copyfile(file, tmp_path / "copy.h5")
    expected = mrd.foreign_image(mrd.edit(tmp_path / "copy.h5", prepared), tmp_path / "scratch.h5")
    image = image_of(kspace)
    assert image.shape == expected.shape and np.abs(image - image[::-1]).max() > 0.1 * image.max()  # flips would show
    scale = np.vdot(image, expected) / np.vdot(image, image)  # its Fourier transform is not orthonormal
    assert relative(scale * image, expected) < 1e-5
    assert any("prewhitened by" in remark for remark in remarks) == noise_scan
    assert any("measured different lines" in remark for remark in remarks) == (acceleration > 1)


def test_the_image_is_that_of_bart(tmp_path):
    if shutil.which("bart") is None:
        pytest.skip("bart is not installed")
    file = mrd.generate(tmp_path / "a.h5", n=0.05)
    with h5py.File(file) as h5:
        lines = h5["dataset/data"][()]
    full = np.zeros((128, 64, 1, 4), np.complex64)
    for head, _, values in lines:
        full[:, head["idx"]["kspace_encode_step_1"], 0] = values.view(np.complex64).reshape(4, -1).T
    (tmp_path / "k.hdr").write_text("# Dimensions\n128 64 1 4\n")
    full.ravel(order="F").tofile(tmp_path / "k.cfl")
    for words in (["fft", "-iu", "3", "k", "i"], ["rss", "8", "i", "r"]):
        subprocess.run(["bart", *words], cwd=tmp_path, check=True, capture_output=True)
    expected = np.fromfile(tmp_path / "r.cfl", np.complex64)[: 128 * 64].reshape(128, 64, order="F").real[32:96]
    assert relative(image_of(read(file)[0]), expected) < 1e-5


def test_no_byte_and_no_time_of_a_source_file_changes(tmp_path, write_fastmri_tree):
    file = mrd.generate(tmp_path / "train" / "a.h5", n=0.05, C=True)
    check_format(FORMAT, file)  # reads everything, and compares bytes and times
    before = file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_ctime_ns
    index_of(write_fastmri_tree(tmp_path, (2, 1, 1), prefix=""), test={"when": "never"})
    assert (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_ctime_ns) == before


# ---- what a file may hold


def test_prewhitened_noise_is_independent_and_of_variance_one():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(4, 4)) + 1j * rng.normal(size=(4, 4))
    noise = mixing @ (rng.normal(size=(4, 20000)) + 1j * rng.normal(size=(4, 20000)))
    white = whitening(noise[:, :10000].astype(np.complex64)) @ noise[:, 10000:]
    np.testing.assert_allclose(white @ white.conj().T / 10000, np.eye(4), atol=0.05)


@pytest.mark.parametrize(("n", "height"), [(64, 32), (65, 32), (64, 31), (65, 31), (64, 64)])
def test_oversampling_goes_and_the_middle_of_the_image_stays(n, height):
    rng = np.random.default_rng(0)
    kspace = (rng.normal(size=(2, n, 9)) + 1j * rng.normal(size=(2, n, 9))).astype(np.complex64)
    image, cropped = (ifft2c(torch.from_numpy(k)) for k in (kspace, remove_oversampling(kspace, height)))
    start = n // 2 - height // 2
    torch.testing.assert_close(cropped, image[:, start : start + height], atol=1e-5, rtol=1e-5)


def test_noise_of_an_earlier_group_in_the_order_of_its_coils_and_at_its_dwell_time(tmp_path, kspace):
    rng = np.random.default_rng(0)
    mixing = np.array([[3, 1j, 0], [0, 2, 1], [0, 0, 1]])
    noise = (mixing @ (rng.normal(size=(3, 4096)) + 1j * rng.normal(size=(3, 4096)))).astype(np.complex64)

    def labels(names, more=""):
        coils = "".join(f"<coilLabel><coilNumber>{i}</coilNumber><coilName>{n}</coilName></coilLabel>"
                        for i, n in enumerate(names))  # fmt: skip
        return f"<acquisitionSystemInformation>{more}{coils}</acquisitionSystemInformation>"

    file = tmp_path / "a.h5"
    bandwidth = "<relativeReceiverNoiseBandwidth>0.79</relativeReceiverNoiseBandwidth>"
    mrd.write(file, xml(more=labels("CAB")), [mrd.line(noise[[2, 0, 1]], 0, (19,), sample_time_us=20)], "dataset_2")
    mrd.write(file, xml(more=labels("ABC", bandwidth)), lines_of(kspace), "dataset_10")
    expected = whitening(noise) * np.sqrt(5 / 20 * 0.79)
    found, remarks = read(file)
    plain = remove_oversampling(np.einsum("ab,byx->ayx", expected, kspace).astype(np.complex64), ROWS)
    assert relative(found, plain) < 1e-5
    assert any("4096 samples of noise of group `dataset_2`" in remark for remark in remarks)


def test_lines_that_are_of_no_image_stay_out(tmp_path, kspace):
    others = [mrd.line(kspace[..., 3] * 100, 3, (flag,)) for flag in (23, 24, 26, 27, 28, 29)]
    body_coil = [mrd.line(kspace[:2, :, 5] * 100, 5)]
    found, remarks = read(mrd.write(tmp_path / "a.h5", xml(), others + lines_of(kspace) + body_coil))
    assert relative(found, remove_oversampling(kspace, ROWS)) < 1e-6
    assert any("1 lines of other than 3 coils" in remark for remark in remarks)


def test_averages_and_repetitions_are_averaged_and_slices_phases_and_contrasts_are_slices(tmp_path, kspace):
    lines = []
    for contrast in (0, 1):
        for number in (1, 0):  # not in the order of time
            for average, factor in ((0, 1), (1, 3)):
                scaled = kspace * factor * (1 + number + 10 * contrast)
                lines += lines_of(scaled, slice=number, average=average, contrast=contrast)
    file = mrd.write(tmp_path / "a.h5", xml(), lines)
    assert header_of(file).shape == (4, COILS, ROWS, COLUMNS)
    plain = remove_oversampling(kspace, ROWS)
    for i, factor in enumerate((1, 2, 11, 12)):
        assert relative(read(file, i)[0], 2 * factor * plain) < 1e-6


@pytest.mark.parametrize("mode", ["embedded", "interleaved", None, "separate"])
def test_prospective_undersampling_gives_the_mask_that_was_measured(tmp_path, kspace, mode):
    outer, centre = [x for x in range(COLUMNS) if x % 2 == 0], range(8, 16)
    lines = lines_of(kspace, outer) + lines_of(kspace, centre, flags=(20,))  # with some that were measured as image
    file = mrd.write(tmp_path / "test" / "a.h5", xml(calibration=mode), lines)
    if mode == "separate":
        with pytest.raises(InputError, match=r"a\.h5.*lines 11 and 12 are needed; .*scan of their own \(separate\)"):
            header_of(file)
        return
    header = header_of(file)
    assert header.has_mask and header.target == "none" and header.acceleration == 2
    expected = np.zeros(COLUMNS, bool)
    expected[[*outer, *centre]] = True
    found, _ = read(file)
    assert np.array_equal(np.abs(found).max(axis=(0, 1)) > 0, expected)
    assert relative(found, remove_oversampling(kspace * expected, ROWS)) < 1e-6
    check_format(FORMAT, file)


def test_calibration_lines_beside_the_image_lines_are_not_mixed_into_them(tmp_path, kspace):
    lines = lines_of(kspace) + lines_of(100 * kspace, range(8, 16), flags=(20,))
    found, _ = read(mrd.write(tmp_path / "a.h5", xml(calibration="embedded"), lines))
    assert relative(found, remove_oversampling(kspace, ROWS)) < 1e-6


def test_flag_21_is_calibration_and_image(tmp_path, kspace):
    lines = lines_of(kspace, range(8)) + lines_of(kspace, range(8, COLUMNS), flags=(21,))
    assert not header_of(mrd.write(tmp_path / "a.h5", xml(), lines)).has_mask


def test_partial_fourier_is_zeros_and_padding(tmp_path, kspace):
    """Lines 0 to 16 are columns 7 to 23: their centre is 5, not 12."""
    lines = [mrd.line(kspace[..., ky + 7], ky) for ky in range(17)]
    file = mrd.write(tmp_path / "a.h5", xml(centre=5, limits=(0, 16)), lines)
    header = header_of(file)
    assert header.padding == (7, 24) and not header.has_mask and header.target == "computed"
    kspace[..., :7] = 0
    assert relative(read(file)[0], remove_oversampling(kspace, ROWS)) < 1e-6


def test_a_partial_echo_and_discarded_samples_are_placed_by_the_centre(tmp_path, kspace):
    """48 of 64 samples from 16 on, the first 2 and last 3 of them discarded."""
    lines = [mrd.line(kspace[:, 16:, x], x, centre=16, discard_pre=2, discard_post=3) for x in range(COLUMNS)]
    found, _ = read(mrd.write(tmp_path / "a.h5", xml(), lines))
    kspace[:, :18] = kspace[:, 61:] = 0
    assert relative(found, remove_oversampling(kspace, ROWS)) < 1e-6


def test_phase_oversampling_is_cropped_in_the_image(tmp_path, kspace):
    file = mrd.write(tmp_path / "a.h5", mrd.header((2 * ROWS, COLUMNS), (ROWS, 16)), lines_of(kspace))
    assert header_of(file).shape[2:] == (ROWS, COLUMNS) and header_of(file).crop == (ROWS, 16)


def test_a_patient_id_becomes_a_digest(tmp_path, kspace):
    more = "<subjectInformation><patientID>Jane Doe</patientID></subjectInformation>"
    patients = {header_of(mrd.write(tmp_path / f"{n}.h5", xml(more=more), lines_of(kspace))).patient for n in "ab"}
    assert len(patients) == 1 and "Jane" not in patients.pop()


def test_what_is_not_read_is_refused_in_one_sentence(tmp_path, kspace):
    full = lines_of(kspace)
    slices = full + lines_of(kspace, range(0, COLUMNS, 2), slice=1)
    volumes = full + lines_of(kspace, kspace_encode_step_2=1)
    reverse = full + lines_of(kspace, [1], flags=(22,))
    mixed = full + lines_of(kspace, encoding_space_ref=1)
    dead = [mrd.line(np.vstack([kspace[:2, :, 0], 0 * kspace[:1, :, 0]]), 0, (19,)), *full]
    cases = [
        (xml(trajectory="radial"), full, "trajectory 'radial'; only Cartesian"),
        (xml(trajectory="spiral"), full, "trajectory 'spiral'; only Cartesian"),
        (xml(trajectory="epi"), full, "EPI, lines read in both directions"),
        (xml(), reverse, "EPI, lines read in both directions"),
        (xml(), volumes, "3-D, phase encoding in two directions"),
        (xml(), slices, r"slice 1 was measured on other lines than slice 0 \(12 and 24\)"),
        (xml(), mixed, "image lines of 2 encodings"),
        (xml(centre=0), full, "lies outside the encoded 64 x 24"),
        (xml(), lines_of(kspace, range(0, COLUMNS, 4)), "the centre of k-space was not measured"),
        (xml(), lines_of(kspace, flags=(19,)), "24 acquisitions, none of an image"),
        ("<ismrmrdHeader/>", full, "matrixSize x of encodedSpace"),
        ("no XML", full, "not XML"),
        (xml(), dead, "noise scan: coil 2 has no noise"),
    ]
    for k, (text, lines, message) in enumerate(cases):
        file = mrd.write(tmp_path / f"{k}.h5", text, lines)
        with pytest.raises(InputError, match=rf"{k}\.h5.*{message}") as caught:
            header_of(file)
            read(file)
        assert "\n" not in str(caught.value)


def test_nan_and_a_line_of_another_length_than_declared(tmp_path, kspace):
    kspace[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="slice 0 has NaN"):
        read(mrd.write(tmp_path / "a.h5", xml(), lines_of(kspace)))
    head, trajectory, values = mrd.line(kspace[..., 1], 1)
    short = [*lines_of(kspace, range(2, COLUMNS)), (head, trajectory, values[:-2])]
    with pytest.raises(InputError, match=r"acquisition 22 has 382 numbers, not 3 coils of 64 samples"):
        read(mrd.write(tmp_path / "b.h5", xml(), short))


def test_a_folder_of_ismrmrd_files_is_an_index(tmp_path, make_kspace):
    for k, split in enumerate(["train", "train", "val", "test"]):
        full = make_kspace(1, COILS, 2 * ROWS, COLUMNS, seed=k)[0].numpy()
        columns = [x for x in range(COLUMNS) if x % 2 == 0 or 8 <= x < 16] if split == "test" else range(COLUMNS)
        mrd.write(tmp_path / split / f"scan{k}.h5", xml(), lines_of(full, columns))
    said = []
    index = index_of(tmp_path, masks={"center_fractions": [0.2]}, test={"when": "never"}, note=said.append)
    assert said[0] == "ismrmrd layout (detected): 4 volumes"
    volume, test = index["train"][0], index["test"][0]
    assert (volume.layout, volume.mask.kind, volume.target) == ("ismrmrd", "equispaced", "computed")
    assert (test.mask.kind, test.target, test.mask.acceleration) == ("file", "none", 2)
    with VolumeReader(tmp_path, volume) as reader:
        assert reader.target(0).shape == (ROWS, COLUMNS) and reader.target(0).max() > 0
    with VolumeReader(tmp_path, test) as reader:
        assert torch.equal(reader.mask(), reader.kspace(0).abs().amax((0, 1)) > 0)
    (tmp_path / "test" / "scan3.h5").rename(tmp_path / "val" / "scan3.h5")
    with pytest.raises(InputError, match=r"scan3\.h5: a val volume without target"):
        index_of(tmp_path)


def test_a_damaged_type_is_refused_before_it_ends_the_process(tmp_path, kspace):
    """The exponent of `sample_time_us` is changed: h5py then takes it for a longer number, over its neighbour."""
    file = mrd.write(tmp_path / "a.h5", xml(), lines_of(kspace))
    content = file.read_bytes()
    floating = bytes.fromhex("11201f000400000000002000170800177f000000")
    assert floating in content
    file.write_bytes(content.replace(floating, floating[:-4] + bytes([187, 0, 0, 0]), 1))
    code = "import sys; from pathlib import Path; from frost.scans.inspection import inspect; "
    code += "print(inspect(Path(sys.argv[1]))[0].refused)"
    done = subprocess.run([sys.executable, "-c", code, str(file)], check=True, capture_output=True, text=True)
    assert "acquisitions of ISMRMRD are needed" in done.stdout
