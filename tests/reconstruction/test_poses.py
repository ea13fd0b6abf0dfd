"""One oblique ISMRMRD scan through `frost reconstruct`: every format has the pose of its headers."""

import shutil
import subprocess
import warnings

import nibabel
import numpy as np
import pydicom
import pytest
import torch

from frost.reconstruction.live import load_models, reconstruct_folder
from tests.scans import mrd

with warnings.catch_warnings():  # its import changes the filters
    import ismrmrd

SLICE, READ, PHASE = np.array([[-0.48, -0.64, 0.6], [-0.8, 0.6, 0.0], [0.36, 0.48, 0.8]])
FRAME, GAP = (32, 28), 6.5  # the header's slices are 5 mm thick, its voxels of 1 mm
START = np.array([-31.5, 12.25, 60.0])


@pytest.fixture(params=[GAP, -GAP], ids=["right-handed", "left-handed"])
def folder(request, tmp_path, workspace, make_kspace):
    """What is written of a scan of three slices; the readout is measured twice as long."""
    kspace = make_kspace(3, 4, 2 * FRAME[0], FRAME[1], noise=0.004).numpy()
    directions = {"slice_dir": SLICE, "read_dir": READ, "phase_dir": PHASE}
    lines = [
        mrd.line(kspace[i, ..., x], x, slice=i, position=START + i * request.param * SLICE, **directions)
        for i in range(3)
        for x in range(FRAME[1])
    ]
    file = mrd.write(tmp_path / "scan.h5", mrd.header((2 * FRAME[0], FRAME[1]), FRAME), lines)
    models = load_models(workspace.root / "models", torch.device("cpu"))
    output = tmp_path / "out"
    done = reconstruct_folder(models, file, output, 2.0, 0.3, "none", formats=["nifti", "dicom", "mrd"])
    assert not done.failed
    return output, request.param


def test_dcm2niix_makes_our_nifti_of_our_dicom_of_an_oblique_scan(folder, tmp_path):
    if not (program := shutil.which("dcm2niix")):
        pytest.skip("dcm2niix is not installed")
    command = [program, "-o", str(tmp_path), "-f", "theirs", "-z", "n", str(folder[0] / "scan.dicom")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    theirs, ours = nibabel.load(tmp_path / "theirs.nii"), nibabel.load(folder[0] / "scan.nii.gz")
    np.testing.assert_array_equal(theirs.dataobj.get_unscaled(), ours.dataobj.get_unscaled())
    np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-4)
    assert ours.header["sform_code"] == 1 and "nominal" not in ours.header["descrip"].item().decode()
    expected = np.abs(np.stack([PHASE * 1, READ * 1, SLICE * GAP], axis=1))
    np.testing.assert_allclose(np.abs(ours.affine[:3, :3]), expected, atol=1e-5)


def test_dciodvfy_has_no_error_on_an_oblique_scan(folder):
    if not (program := shutil.which("dciodvfy")):
        pytest.skip("dciodvfy is not installed")
    for file in sorted((folder[0] / "scan.dicom").iterdir()):
        said = subprocess.run([program, str(file)], capture_output=True, text=True, check=False).stderr
        assert "MRImage" in said and "Error" not in said, said


def test_dicom_and_mrd_have_the_pose_that_the_acquisitions_have(folder):
    """MRD's position is that of voxel n // 2; DICOM's is that of the first voxel, its row along the phase direction."""
    output, gap = folder
    with ismrmrd.File(str(output / "scan.mrd"), "r") as file:
        images = list(file["dataset/image_0"].images)
    for i, image in enumerate(images):
        centre = START + i * gap * SLICE
        np.testing.assert_allclose(image.position, centre, atol=1e-4)
        for name, axis in (("read_dir", READ), ("phase_dir", PHASE), ("slice_dir", SLICE)):
            np.testing.assert_allclose(getattr(image, name), axis, atol=1e-6)
        np.testing.assert_allclose(image.field_of_view, (*FRAME, 5))
        one = pydicom.dcmread(output / "scan.dicom" / f"{i + 1:04d}.dcm")
        np.testing.assert_allclose(one.ImageOrientationPatient, [*PHASE, *READ], atol=1e-6)
        first = centre - FRAME[0] // 2 * READ - FRAME[1] // 2 * PHASE
        np.testing.assert_allclose(one.ImagePositionPatient, first, atol=1e-4)
        assert one.SliceThickness == 5 and float(one.SpacingBetweenSlices) == pytest.approx(GAP, abs=1e-5)
        assert "nominal" not in one.ImageComments
