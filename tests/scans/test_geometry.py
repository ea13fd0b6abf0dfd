"""Voxel sizes are those of the scan's header, and a point of the object is where its k-space says."""

import h5py
import numpy as np
import pytest
import torch

from frost.mri.coils import center_crop
from frost.mri.fourier import ifft2c
from frost.scans.indexing import volumes_of
from frost.scans.reader import VolumeReader
from tests.indexes import params_of
from tests.scans import examples, mrd

PARTS = {
    "encoded_matrix": (48, 44), "encoded_fov": (96.0, 66.0), "recon_matrix": (32, 30), "recon_fov": (64.0, 45.0),
    "thickness": 3.5, "n_z": 1,
}  # fmt: skip


def header(**changes):
    """An ISMRMRD header with fields of view; x is the readout."""
    part = PARTS | changes
    space = (
        "<{0}><matrixSize><x>{1[0]}</x><y>{1[1]}</y><z>{4}</z></matrixSize>"
        "<fieldOfView_mm><x>{2[0]}</x><y>{2[1]}</y><z>{3}</z></fieldOfView_mm></{0}>"
    )
    spaces = (
        space.format(
            f"{name}Space", part[f"{name}_matrix"], part[f"{name}_fov"], part["thickness"] * part["n_z"], part["n_z"]
        )
        for name in ("encoded", "recon")
    )
    text = "".join(spaces)
    return f'<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>{text}</encoding></ismrmrdHeader>'.encode()


@pytest.fixture
def geometry_of(tmp_path, write_fastmri):
    """The pose of a scan with a header, and the volume."""

    def read(text, **more):
        file = tmp_path / "scan.h5"
        write_fastmri(file, **more)
        with h5py.File(file, "a") as h5:
            del h5["ismrmrd_header"]
            if text is not None:
                h5["ismrmrd_header"] = text
        root, (volume,) = volumes_of(file, params_of(tmp_path).masks)
        return VolumeReader(root, volume).geometry(), volume

    return read


def test_voxels_are_those_of_the_header_and_the_pose_is_nominal(geometry_of):
    geometry, volume = geometry_of(header(), shape=(3, 4, 48, 44), recon=(32, 30))
    assert volume.crop == (32, 30)
    assert geometry.voxel_size == (3.5, 2.0, 1.5) and geometry.thickness == 3.5 and geometry.nominal == ("pose",)
    np.testing.assert_allclose(geometry.slice_centre(1, volume.crop), (0, 0, 0), atol=1e-12)
    np.testing.assert_allclose(np.cross(geometry.axes[2], geometry.axes[1]), geometry.axes[0])


@pytest.mark.parametrize(
    ("changes", "shape", "voxel_size"),
    [
        ({"encoded_matrix": (48, 40)}, (48, 44), (3.5, 2.0, 1.5)),  # zeros beside the columns make them finer
        ({"encoded_matrix": (96, 44), "encoded_fov": (192.0, 66.0)}, (48, 44), (3.5, 2.0, 1.5)),  # oversampling is gone
        ({"encoded_matrix": (40, 44), "encoded_fov": (96.0, 66.0)}, (48, 44), (3.5, 2.0, 1.5)),
        ({"n_z": 4}, (48, 44), (3.5, 2.0, 1.5)),
        ({"encoded_matrix": (47, 45), "encoded_fov": (94.0, 67.5)}, (47, 45), (3.5, 2.0, 1.5)),
    ],
)
def test_voxels_are_those_of_the_image_and_not_of_the_encoding(geometry_of, changes, shape, voxel_size):
    geometry, _ = geometry_of(header(**changes), shape=(1, 4, *shape), recon=(32, 30))
    assert geometry.voxel_size == pytest.approx(voxel_size)


@pytest.mark.parametrize(
    "text",
    [None, *(header(encoded_fov=(fov, 66.0)) for fov in ("", 0.0, "nan", "wide", -96.0, "1e30"))],
    ids=["none", "empty", "zero", "nan", "word", "negative", "too large"],
)
def test_what_no_header_tells_is_nominal(geometry_of, text):
    geometry, _ = geometry_of(text, shape=(1, 4, 48, 44), recon=(32, 30))
    assert geometry.voxel_size == (1, 1, 1) and geometry.nominal == ("voxel size", "pose")


def test_challenge_files_have_no_header(write_snu_tree, tmp_path):
    root, volumes = volumes_of(write_snu_tree(tmp_path, 2026), params_of(tmp_path).masks)
    assert {VolumeReader(root, volume).geometry().nominal for volume in volumes} == {("voxel size", "pose")}


def test_every_format_has_voxels(tmp_path, make_kspace):
    """Those of ISMRMRD are its header's; M4Raw's header is no XML, and the others here have none."""
    found = examples.write_examples(tmp_path, make_kspace(2, 4, 48, 44).numpy())
    with h5py.File(found["m4raw"][0], "a") as h5:
        h5["ismrmrd_header"] = b"no XML"
    for layout, (file, image_file) in found.items():
        if image_file is None:
            root, (volume,) = volumes_of(file, params_of(tmp_path).masks)
            geometry = VolumeReader(root, volume).geometry()
            assert volume.layout == layout and geometry.voxel_size == ((5, 1, 1) if layout == "ismrmrd" else (1, 1, 1))
            assert geometry.nominal == (("pose",) if layout == "ismrmrd" else ("voxel size", "pose"))


def test_voxels_of_ismrmrd_are_those_of_the_encoding_of_its_image_lines(tmp_path, make_kspace):
    """The first encoding is of other lines, as of a noise scan."""
    kspace = make_kspace(1, 4, 96, 44).numpy()
    lines = [mrd.line(kspace[0, ..., x], x, encoding_space_ref=1) for x in range(44)]
    begin, end = "<encoding>", "</encoding>"
    text = mrd.header((96, 44), (48, 44))
    own = text[text.index(begin) : text.index(end) + len(end)]
    other = own.replace("<z>5</z>", "<z>7</z>")
    file = mrd.write(tmp_path / "scan.h5", text.replace(own, other + own), lines)
    root, (volume,) = volumes_of(file, params_of(tmp_path).masks)
    assert volume.height == 48 and VolumeReader(root, volume).geometry().voxel_size == (5, 1, 1)


@pytest.mark.parametrize(("frame", "crop"), [((48, 44), (32, 30)), ((47, 45), (32, 30)), ((48, 44), (31, 33))], ids=str)
def test_a_point_is_at_the_millimetres_that_its_kspace_says(geometry_of, frame, crop):
    """The k-space of a point at r is exp(-2 pi i k r), sampled every 1 / field of view."""
    fov = (2.0 * frame[0], 1.5 * frame[1])
    text = header(encoded_matrix=frame, encoded_fov=fov, recon_matrix=crop)
    geometry, volume = geometry_of(text, shape=(1, 4, *frame), recon=crop)
    back, left = 8.0, -10.5
    ky, kx = ((torch.arange(n, dtype=torch.float64) - n // 2) / size for n, size in zip(frame, fov))
    kspace = torch.exp(-2j * torch.pi * (ky[:, None] * back + kx * left))
    image = center_crop(ifft2c(kspace).abs(), volume.crop)
    y, x = divmod(int(image.argmax()), image.shape[1])
    np.testing.assert_allclose(geometry.position(0, y, x), (left, back, 0), atol=1e-9)
