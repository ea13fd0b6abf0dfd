"""Every format: what is written comes back, at the right place in the patient, the same each time, without identity."""

import gzip
import hashlib
import json
import shutil
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path, PurePosixPath

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from frost.errors import InputError
from frost.mri.geometry import Geometry
from frost.outputs import FORMATS
from frost.outputs.contract import Reconstruction, pseudonym
from frost.outputs.dicom import uid
from frost.outputs.scaling import STEPS, scaled_to_16_bits, window_top, windowed

PATIENT = "DOE^JANE 4711"
TURNED = ((-0.36, -0.48, -0.8), (-0.8, 0.6, 0.0), (-0.48, -0.64, 0.6))  # slice, y, x


def geometry(axes=TURNED, nominal=()):
    return Geometry((4.0, 0.9, 0.7), 3.5, axes, (-31.5, 12.25, 60.0), nominal)


def volume(shape=(3, 9, 7), axes=TURNED, nominal=(), seed=0):
    """Noise with one bright voxel: whatever is turned or flipped is found out."""
    images = np.random.default_rng(seed).gamma(2.0, 1e-4, shape).astype(np.float32)
    images[shape[0] - 1, 2, 1] = 3e-3
    facts = [hashlib.sha256(name.encode()).hexdigest() for name in ("scan", f"made by {seed}", "varnet", "rcan")]
    return Reconstruction(images, geometry(axes, nominal), facts[0], facts[1], (facts[2], facts[3]), pseudonym(PATIENT))


def write(name, folder, written, place="scan.h5"):
    path = FORMATS[name].path(folder, PurePosixPath(place))
    FORMATS[name].save(path, written)
    return path


def files(path):
    return sorted(path.iterdir()) if path.is_dir() else [path]


def test_a_sheet_of_very_many_slices_is_known_again(tmp_path, monkeypatch):
    """Pillow takes files that declare so many pixels for an attack, and opens none of them."""
    written = volume()
    sheet = write("png", tmp_path, written)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert FORMATS["png"].is_there(sheet, written.made_by)


def mirrored(axes):
    """The same with slices in the opposite order: a left-handed frame."""
    return (tuple(-part for part in axes[0]), *axes[1:])


def read_dicom(path):
    """Values, and the affine from (slice, y, x) to LPS millimetres, by the standard's own formula (PS3.3 C.7.6.2.1)."""
    slices = [pydicom.dcmread(file) for file in files(path)]
    images = np.stack([s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices])
    row, column = np.reshape(np.array(slices[0].ImageOrientationPatient, float), (2, 3))
    first, last = (np.array(s.ImagePositionPatient, float) for s in (slices[0], slices[-1]))
    step = (last - first) / (len(slices) - 1) if len(slices) > 1 else np.cross(row, column)
    size_y, size_x = map(float, slices[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3] = np.column_stack([step, column * size_y, row * size_x, first])
    return images, affine


def read_nifti(path):
    """The same; NIfTI's own axes are x, y and slice in any direction."""
    image = nibabel.load(path)
    return image.get_fdata().transpose(2, 1, 0), np.diag([-1, -1, 1, 1]) @ image.affine[:, [2, 1, 0, 3]]


def read_mrd(path):
    """The same, by the definition of MRD: `position` is that of x = n // 2 and y = n // 2, x along `read_dir`."""
    with warnings.catch_warnings():  # its import changes the filters
        import ismrmrd
    with ismrmrd.File(str(path), "r") as file:
        found = list(file["dataset/image_0"].images)
    images = np.stack([image.data[0, 0].T for image in found])
    heads = [image.getHead() for image in found]
    read, phase, across = (np.array(getattr(heads[0], f"{name}_dir")) for name in ("read", "phase", "slice"))
    nx, ny, _ = heads[0].matrix_size
    steps = read * heads[0].field_of_view[0] / nx, phase * heads[0].field_of_view[1] / ny
    centres = [np.array(head.position) for head in heads]
    affine = np.eye(4)
    step = (centres[-1] - centres[0]) / (len(found) - 1) if len(found) > 1 else across
    affine[:3] = np.column_stack([step, *steps, centres[0] - nx // 2 * steps[0] - ny // 2 * steps[1]])
    return images, affine


def test_mrd_has_the_shapes_that_ismrmrds_own_programs_write(tmp_path):
    """As `ismrmrd_recon_cartesian_2d` has them: (image, channel, z, y, x), one header and one text an image."""
    written = volume()
    with h5py.File(write("mrd", tmp_path, written)) as file:
        shapes = {name: found.shape for name, found in file["dataset/image_0"].items()}
    assert shapes == {"data": (3, 1, 1, 7, 9), "header": (3,), "attributes": (3,)}


READERS = {"nifti": read_nifti, "dicom": read_dicom, "mrd": read_mrd}
SHAPES = pytest.mark.parametrize("shape", [(3, 9, 7), (4, 8, 6), (1, 5, 8)], ids=str)
HANDS = pytest.mark.parametrize("axes", [TURNED, mirrored(TURNED)], ids=["right", "left"])


@SHAPES
@HANDS
@pytest.mark.parametrize("name", READERS)
def test_a_point_of_the_object_is_at_the_same_millimetres_in_every_format(name, shape, axes, tmp_path):
    written = volume(shape, axes)
    images, affine = READERS[name](write(name, tmp_path, written))
    place = np.unravel_index(images.argmax(), shape)
    expected = written.geometry.position(shape[0] - 1, 2, 1)
    np.testing.assert_allclose((affine @ (*place, 1))[:3], expected, atol=1e-4)
    corner = written.geometry.position(0, shape[1] - 1, shape[2] - 1)  # and the pixel that no flip leaves where it was
    inverse = np.rint(np.linalg.inv(affine) @ (*corner, 1))[:3].astype(int)
    factor = 1 if name == "mrd" else 1e6
    assert images[tuple(inverse)] == pytest.approx(factor * written.images[0, -1, -1], abs=3e-8 * factor)


@SHAPES
@pytest.mark.parametrize("name", ["h5", "mrd"])
def test_floats_come_back_to_the_bit(name, shape, tmp_path):
    written = volume(shape)
    path = write(name, tmp_path, written)
    if name == "mrd":
        images = read_mrd(path)[0]
    else:
        with h5py.File(path) as file:
            images = file["reconstruction"][:]
    np.testing.assert_array_equal(images, written.images)
    assert images.dtype == np.float32


@pytest.mark.parametrize("images", ["usual", "below 0", "empty", "huge", "tiny"])
@pytest.mark.parametrize("name", ["nifti", "dicom"])
def test_16_bits_hold_the_images_to_half_a_step(name, images, tmp_path):
    written = volume()
    changes = {"usual": lambda x: x, "below 0": lambda x: x - 2e-4, "empty": np.zeros_like}
    changes |= {"huge": lambda x: x * 1e35, "tiny": lambda x: x * 1e-30}
    written = replace(written, images=changes[images](written.images))
    path = write(name, tmp_path, written)
    # the rows of our NIfTI run upwards
    found = read_dicom(path)[0] if name == "dicom" else nibabel.load(path).get_fdata()[:, ::-1].transpose(2, 1, 0)
    low, high = min(float(written.images.min()), 0), float(written.images.max())
    factor = scaled_to_16_bits(written.images).factor
    np.testing.assert_allclose(found / factor, written.images, rtol=0, atol=0.51 * (high - low) / STEPS + 1e-7 * high)
    assert found.max() == pytest.approx(factor * high, rel=1e-6) and (high == 0 or 100 <= found.max() < 1e5)


def test_the_16_bits_are_used_to_the_last_and_the_factor_is_a_power_of_1000():
    stored, slope, intercept, factor = scaled_to_16_bits(volume().images)
    assert (stored.max(), intercept, factor) == (STEPS, 0, 1e6) and slope == pytest.approx(3e3 / STEPS, rel=1e-6)
    assert float(np.float32(slope)) == pytest.approx(slope, rel=1e-7)
    factors = [
        scaled_to_16_bits(np.full((1, 1, 1), top, np.float32)).factor for top in (1.1e-4, 0.09, 0.2, 99, 101, 1e6)
    ]
    assert factors == [1e6, 1e6, 1e3, 1e3, 1, 1e-3]


@SHAPES
@HANDS
def test_dcm2niix_makes_our_nifti_of_our_dicom(shape, axes, tmp_path):
    if not (program := shutil.which("dcm2niix")):
        pytest.skip("dcm2niix is not installed")
    written = volume(shape, axes)
    ours = nibabel.load(write("nifti", tmp_path, written))
    folder = write("dicom", tmp_path, written)
    command = [program, "-o", str(tmp_path), "-f", "theirs", "-z", "n", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = nibabel.load(tmp_path / "theirs.nii")
    np.testing.assert_array_equal(theirs.dataobj.get_unscaled(), ours.dataobj.get_unscaled())
    np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-4)
    assert (theirs.dataobj.slope, theirs.dataobj.inter) == (ours.dataobj.slope, ours.dataobj.inter)
    assert theirs.header.get_zooms() == pytest.approx(ours.header.get_zooms())


@SHAPES
@pytest.mark.parametrize("nominal", [(), ("voxel size", "pose")], ids=["measured", "nominal"])
def test_dciodvfy_has_no_error_on_our_dicom(shape, nominal, tmp_path):
    if not (program := shutil.which("dciodvfy")):
        pytest.skip("dciodvfy is not installed")
    for file in files(write("dicom", tmp_path, volume(shape, nominal=nominal))):
        said = subprocess.run([program, str(file)], capture_output=True, text=True, check=False).stderr
        assert "MRImage" in said and "Error" not in said, said


@pytest.mark.parametrize("below", [0, 2e-4])
def test_dcmtk_shows_our_dicom_in_its_window(below, tmp_path):
    if not (program := shutil.which("dcm2pnm")):
        pytest.skip("dcm2pnm of dcmtk is not installed")
    written = volume((1, 20, 30))
    written = replace(written, images=written.images - np.float32(below))
    (file,) = files(write("dicom", tmp_path, written))
    subprocess.run([program, "--write-png", "+Wi", "1", str(file), str(tmp_path / "shown.png")], check=True)
    with Image.open(tmp_path / "shown.png") as image:
        shown = np.asarray(image.convert("L"))
    assert np.abs(shown.astype(int) - windowed(written.images)[0]).max() <= 2


@pytest.mark.parametrize("name", FORMATS)
def test_equal_volumes_are_equal_bytes_and_others_are_not(name, tmp_path):
    first, again, other = (
        [file.read_bytes() for file in files(write(name, tmp_path / str(i), volume(seed=seed)))]
        for i, seed in enumerate((0, 0, 1))
    )
    assert first == again and all(a != b for a, b in zip(first, other))


@pytest.mark.parametrize("name", FORMATS)
def test_no_part_of_the_patients_id_is_in_any_file(name, tmp_path):
    for file in files(write(name, tmp_path, volume())):
        raw = file.read_bytes()
        text = raw + (gzip.decompress(raw) if name == "nifti" else b"")
        assert not any(part in text.upper() for part in (b"DOE", b"JANE", b"4711"))


def test_dicom_is_derived_for_research_and_tells_no_person_and_no_time(tmp_path):
    for i, file in enumerate(files(write("dicom", tmp_path, volume(nominal=("pose",))))):
        found = pydicom.dcmread(file)
        assert found.PatientName == "" and found.PatientID == pseudonym(PATIENT) and len(found.PatientID) == 16
        assert not any(element.value for element in found.iterall() if element.VR in ("DA", "TM", "DT", "PN"))
        assert found.ImageType[:2] == ["DERIVED", "SECONDARY"] and found.InstanceNumber == i + 1
        assert "research only" in found.SeriesDescription and "pose nominal" in found.ImageComments
        assert all(digest[:16] in found.DerivationDescription for digest in volume().networks)
        assert found.SeriesInstanceUID == uid("series", volume().made_by) and found.SOPInstanceUID.is_valid


def test_identifiers_are_those_of_scan_networks_and_pixels(tmp_path):
    scan = volume()
    brighter = replace(scan, images=scan.images + np.float32(1e-4))
    other_networks = replace(scan, made_by="another")
    found = [
        [pydicom.dcmread(file) for file in files(write("dicom", tmp_path / str(i), written))]
        for i, written in enumerate((scan, brighter, other_networks))
    ]
    assert len({one.SOPInstanceUID for series in found for one in series}) == 3 * len(scan.images)
    assert [len({series[0][key].value for series in found}) for key in ("SeriesInstanceUID", "StudyInstanceUID")] == [
        2,
        1,
    ]


def test_scans_of_one_patient_stay_together_and_those_of_two_do_not():
    assert pseudonym("1") == pseudonym("1") != pseudonym("2") and "4711" not in pseudonym(PATIENT)


@pytest.mark.parametrize("nominal", [(), ("pose",), ("voxel size", "pose")], ids=str)
def test_files_say_what_of_their_pose_is_nominal(nominal, tmp_path):
    written = volume(nominal=nominal)
    header = nibabel.load(write("nifti", tmp_path, written)).header
    said = header["descrip"].item().decode()
    assert said == f"{written.remark()}; values x 1e+06" and len(written.remark()) <= 64
    said = written.remark()
    assert said.endswith({0: "research only", 1: "; pose nominal", 2: "; voxel size and pose nominal"}[len(nominal)])
    assert header["sform_code"] == header["qform_code"] == (2 if nominal else 1)
    with h5py.File(write("mrd", tmp_path, written)) as file:
        assert said.encode() in file["dataset/image_0/attributes"][0]
    with Image.open(write("png", tmp_path, written)) as sheet:
        assert said in sheet.info["Comment"]


def test_files_name_the_network_that_ran(tmp_path):
    """Also of the other images of its volume, which were no reconstruction."""
    written = replace(volume(), network="NAFNet", others={"varnet": volume(seed=1).images})
    assert written.label("rcan") == "NAFNet" and written.label("varnet") == "VarNet"
    assert f"networks VarNet {written.networks[0][:16]} and NAFNet {written.networks[1][:16]}" in written.derivation()
    assert "RCAN" not in written.part("varnet").derivation()
    sheets = [
        write("png", tmp_path, one, place)
        for one, place in ((written, "a.h5"), (replace(written, network="RCAN"), "b.h5"))
    ]
    pixels = [np.asarray(Image.open(sheet)) for sheet in sheets]
    assert (pixels[0] != pixels[1])[:32].any() and (pixels[0] == pixels[1])[32:].all()  # the names of the columns


def test_the_sheet_shows_every_slice_in_one_window(tmp_path):
    written = volume((5, 8, 12))
    with Image.open(write("png", tmp_path, written)) as image:
        sheet = np.asarray(image)
    top = window_top(written.images)
    assert (written.images > top).mean() == pytest.approx(0.01, abs=0.002) and top < written.images.max()
    for i, shown in enumerate(written.images):  # 2 columns: about as high as wide
        y, x = 8 * (i // 2), 12 * (i % 2)
        np.testing.assert_array_equal(sheet[y : y + 8, x : x + 12], np.rint(255 * np.clip(shown / top, 0, 1)))
    assert not sheet[16:24, 12:24].any() and sheet[24:].any(), "an empty place, and a line of text"


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_there_is_known_again(name, tmp_path):
    written, kind = volume(), FORMATS[name]
    path = write(name, tmp_path, written, place="a/b.R4.h5")
    assert path == tmp_path / "a" / f"b.R4{kind.ending}" and kind.is_there(path, written.made_by)
    with pytest.raises(InputError, match=r"b\.R4\.\S+: is there already, of another scan"):
        kind.is_there(path, volume(seed=1).made_by)
    assert not kind.is_there(tmp_path / "another", written.made_by)


@pytest.mark.parametrize("content", [b"mine", b"", b"\x1f\x8b\x08\x00junk", b"\x89PNG\r\n\x1a\n"], ids=repr)
@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_others_is_not_taken_for_ours(name, content, tmp_path):
    path = FORMATS[name].path(tmp_path, PurePosixPath("scan.h5"))
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"scan\.\S+: \w+"):
        FORMATS[name].is_there(path, volume().made_by)
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", FORMATS)
def test_a_cut_file_is_not_taken_for_ours(name, tmp_path):
    path = write(name, tmp_path, volume())
    for file in files(path):
        file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(InputError, match=r"scan\.\S+: (is there already|damaged)"):
        FORMATS[name].is_there(path, volume().made_by)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_there_whole_or_not_at_all(name, tmp_path):
    kind = replace(FORMATS[name], write=lambda path, written: (FORMATS[name].write(path, written), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        kind.save(kind.path(tmp_path, PurePosixPath("scan.h5")), volume())
    assert list(tmp_path.iterdir()) == []


def test_formats_never_write_over_each_other():
    assert len({kind.ending.rpartition(".")[2] for kind in FORMATS.values()}) == len(FORMATS)


def test_the_comment_of_a_nifti_file_tells_the_networks(tmp_path):
    header = nibabel.load(write("nifti", tmp_path, volume())).header
    facts = json.loads(header.extensions[0].get_content())
    assert facts == {"made_by": volume().made_by, "derivation": volume().derivation(), "factor": 1e6}
    assert Path(tmp_path / "scan.nii.gz").exists() and header.get_xyzt_units()[0] == "mm"
