"""NIfTI heads: files of strangers, whose headers are checked before their voxels are read."""

import zlib

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frost.errors import InputError
from frost.simulation.heads import load_head

HEADER = 348  # bytes of NIfTI-1's


def write(file, voxels=None, **fields):
    """A head of 8 x 9 x 10 voxels of 2 mm, where neither `voxels` nor fields of the header have it otherwise."""
    voxels = np.arange(720, dtype=np.float32).reshape(8, 9, 10) if voxels is None else voxels
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2.0, 2, 2, 1])), file)
    content = bytearray(file.read_bytes())
    header = nibabel.Nifti1Header(bytes(content[:HEADER]), check=False)
    for name, value in fields.items():
        header[name] = value
    file.write_bytes(header.binaryblock + content[HEADER:])
    return file


def sizes(*millimetres):
    return {"pixdim": [1, *millimetres, 0, 0, 0, 0], "sform_code": 0, "qform_code": 0}


def shape(*voxels):
    return {"dim": [3, *voxels, 1, 1, 1, 1]}


def test_a_head_is_turned_to_right_anterior_superior(tmp_path):
    voxels = np.arange(720, dtype=np.float32).reshape(8, 9, 10)
    image = nibabel.Nifti1Image(voxels, np.diag([-1.0, 2, 3, 1]))
    nibabel.save(image, tmp_path / "S1_T1.nii.gz")
    volume, voxel = load_head(tmp_path / "S1_T1.nii.gz")
    assert np.array_equal(volume, voxels[::-1]) and volume.dtype == np.float32
    assert np.array_equal(voxel, [1, 2, 3])


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (shape(1025, 8, 8), r"has shape \(1025, 8, 8\); a head is a 3-D volume of 8 to 1024 voxels a side"),
        (shape(1024, 1024, 257), r"has shape .* at most 268435456 in all"),
        (shape(32767, 32767, 32767), "has shape"),
        (shape(8, 9, 7), "has shape"),
        (shape(-8, 9, 10), "has shape"),
        ({"dim": [2, 24, 30, 1, 1, 1, 1, 1]}, r"has shape \(24, 30\)"),
        (sizes(0, 2, 2), "has voxels of 0, 2, 2 mm; a head's are 0.1 to 20 mm"),
        (sizes(2, -2, 2), "has voxels of 2, -2, 2 mm"),
        (sizes(2, 2, np.nan), "has voxels of 2, 2, nan mm"),
        (sizes(2, np.inf, 2), "has voxels of 2, inf, 2 mm"),
        (sizes(1e10, 2, 2), r"has voxels of 1e\+10, 2, 2 mm"),
        (sizes(0.002, 0.002, 0.002), "has voxels of 0.002, 0.002, 0.002 mm"),  # metres, and it does not say so
        (sizes(2, 2, 2) | {"xyzt_units": 1}, "has voxels of 2000, 2000, 2000 mm"),
        ({"srow_x": [4, 0, 0, 0]}, "pixdim and the affine disagree on the size of a voxel"),
        ({"srow_x": [0, 0, 0, 0]}, "has voxels of 0, 2, 2 mm"),
        ({"srow_y": [0, np.nan, 0, 0]}, "has voxels of 2, nan, 2 mm"),
        ({"datatype": 32, "bitpix": 64}, "holds complex64; a head's intensities are real numbers"),
        ({"datatype": 128, "bitpix": 24}, "intensities are real numbers"),
        ({"datatype": 9999}, "not a readable NIfTI file: data code 9999 not recognized"),
        ({"scl_slope": 1, "scl_inter": np.inf}, "not a readable NIfTI file: Valid slope but invalid intercept"),
        ({"vox_offset": 1e30}, "not a readable NIfTI file"),
        ({"magic": b"n"}, "not a readable NIfTI file"),
    ],
)
def test_a_bad_header_is_one_line_before_any_voxel_is_read(tmp_path, capfd, fields, says):
    file = write(tmp_path / "S1_T1.nii", **fields)
    file.write_bytes(file.read_bytes()[:500])  # most voxels are missing, which whoever read them would tell
    one_line(file, says, capfd)


@pytest.mark.parametrize(("unit", "size"), [("meter", 0.002), ("micron", 2000), ("mm", 2), ("unknown", 2)])
def test_voxels_are_in_the_unit_of_the_header(tmp_path, unit, size):
    image = nibabel.Nifti1Image(np.ones((8, 9, 10), np.float32), np.diag([size, size, size, 1]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "S1_T1.nii.gz")
    assert np.allclose(load_head(tmp_path / "S1_T1.nii.gz")[1], 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 1e39])
def test_intensities_are_finite_and_some_above_zero(tmp_path, value):
    file = write(tmp_path / "S1_T1.nii", np.full((8, 9, 10), value))
    with pytest.raises(InputError, match=r"S1_T1\.nii: a head's intensities are finite and some are above zero"):
        load_head(file)


def test_a_file_that_ends_too_early(tmp_path, capfd):
    file = write(tmp_path / "S1_T1.nii")
    for n_bytes, says in ((1000, "Expected 2880 bytes, got 648"), (100, "Cannot work out"), (0, "Empty file")):
        file.write_bytes(file.read_bytes()[:n_bytes])
        one_line(file, f"not a readable NIfTI file: {says}", capfd)


def test_damage_in_a_compressed_file(tmp_path, capfd):
    content, packer = write(tmp_path / "S1_T1.nii").read_bytes(), zlib.compressobj(wbits=31)
    whole = packer.compress(content[:1000]) + packer.flush(zlib.Z_FULL_FLUSH)
    (tmp_path / "S1_T1.nii.gz").write_bytes(whole + b"\xff" * 100)  # no kind of block that there is
    one_line(tmp_path / "S1_T1.nii.gz", "not a readable NIfTI file: Error -3 while decompressing", capfd)


def test_too_little_memory(tmp_path, capfd, monkeypatch):
    def exhausted(image):
        raise MemoryError

    monkeypatch.setattr(nibabel, "as_closest_canonical", exhausted)
    one_line(write(tmp_path / "S1_T1.nii"), "not a readable NIfTI file: MemoryError", capfd)


def test_another_kind_of_image(tmp_path, capfd):
    axes = [nibabel.cifti2.SeriesAxis(0, 1, 9), nibabel.cifti2.ScalarAxis(list("abcdefgh"))]
    image = nibabel.Cifti2Image(np.zeros((9, 8), np.float32), axes)
    nibabel.save(image, tmp_path / "S1_T1.dscalar.nii")
    one_line(tmp_path / "S1_T1.dscalar.nii", "not a readable NIfTI file: Cifti2Image", capfd)


def one_line(file, says, capfd):
    with pytest.raises(InputError, match=says) as caught:
        load_head(file)
    assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), packed=st.booleans())
def test_random_damage_is_an_input_error_or_nothing(tmp_path, data, packed):
    """Any byte of a header, or of a compressed file, may be anything."""
    file = tmp_path / ("S1_T1.nii.gz" if packed else "S1_T1.nii")
    content = bytearray(write(tmp_path / "whole.nii").read_bytes())
    if packed:
        packer = zlib.compressobj(wbits=31)
        content = bytearray(packer.compress(bytes(content)) + packer.flush())
    for _ in range(data.draw(st.integers(1, 4), "n_bytes")):
        where = data.draw(st.integers(0, len(content) - 1 if packed else HEADER + 3), "where")
        content[where] = data.draw(st.integers(0, 255), "byte")
    file.write_bytes(content)
    try:
        volume, voxel = load_head(file)
    except InputError as error:
        assert str(error).startswith(f"{file}: ")
    else:
        assert volume.ndim == 3 and np.isfinite(volume).all() and np.isfinite(voxel).all() and (voxel > 0).all()
