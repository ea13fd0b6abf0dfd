"""Voxel sizes are those of the scan's header, and a point of the object is where its k-space says."""

import h5py
import numpy as np
import pytest
import torch

from frost.mri.coils import center_crop
from frost.mri.fourier import ifft2c
from frost.scans.formats import ismrmrd
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


# ---- measured poses

SLICE, READ, PHASE = (-0.48, -0.64, 0.6), (-0.8, 0.6, 0.0), (0.36, 0.48, 0.8)  # oblique in both ways
FRAME, FOV = (48, 44), (96.0, 66.0)  # of the image; the readout is measured twice as long
PLACE = (14.0, -9.0)  # of the point in each slice, millimetres along the readout and the phase direction


def point(place=PLACE):
    """k-space (3 coils) of a point: exp(-2 pi i k r), sampled every 1 / field of view."""
    ky, kx = ((np.arange(n) - n // 2) / size for n, size in zip((2 * FRAME[0], FRAME[1]), (2 * FOV[0], FOV[1])))
    one = np.exp(-2j * np.pi * (ky[:, None] * place[0] + kx * place[1]))
    return one * np.array([1, 1j, 0.5])[:, None, None]


def oblique(file, centres, axes=(SLICE, READ, PHASE), kspace=None):
    """A scan of such points, slice by slice, with poses."""
    kspace = point() if kspace is None else kspace
    text = header(
        encoded_matrix=(2 * FRAME[0], FRAME[1]), encoded_fov=(2 * FOV[0], FOV[1]),
        recon_matrix=(FRAME[0], 30), recon_fov=(FOV[0], 45.0),
    ).decode()  # fmt: skip
    several = axes if isinstance(axes, list) else [axes] * len(centres)
    lines = [
        mrd.line(kspace[..., x], x, slice=i, position=centre, slice_dir=own[0], read_dir=own[1], phase_dir=own[2])
        for i, (centre, own) in enumerate(zip(centres, several))
        for x in range(FRAME[1])
    ]
    return mrd.write(file, text, lines)


def stack(n, distance=4.5, start=(-31.5, 12.25, 60.0)):
    return [tuple(np.add(start, i * distance * np.array(SLICE))) for i in range(n)]


def read_back(file, tmp_path):
    root, (volume,) = volumes_of(file, params_of(tmp_path).masks)
    with VolumeReader(root, volume) as reader:
        images = [reader.crop(ifft2c(reader.kspace(i))).abs().sum(0) for i in range(volume.n_slices)]
        return reader.geometry(), images


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("hand", [1, -1], ids=["right", "left"])
def test_a_point_of_an_oblique_scan_is_where_its_kspace_and_its_pose_say(tmp_path, n, hand):
    centres = stack(n, hand * 4.5)
    geometry, images = read_back(oblique(tmp_path / "a.h5", centres), tmp_path)
    assert geometry.nominal == () and geometry.voxel_size == pytest.approx((4.5 if n > 1 else 3.5, 2.0, 1.5))
    assert geometry.thickness == 3.5
    for i, (centre, image) in enumerate(zip(centres, images)):
        y, x = divmod(int(image.argmax()), image.shape[1])
        expected = np.array(centre) + PLACE[0] * np.array(READ) + PLACE[1] * np.array(PHASE)
        np.testing.assert_allclose(geometry.position(i, y, x), expected, atol=1e-4)
        np.testing.assert_allclose(geometry.of_slice(i).position(0, y, x), expected, atol=1e-4)


def test_slices_that_form_no_stack_keep_their_own_poses_and_the_stack_is_nominal(tmp_path):
    turned = [(SLICE, READ, PHASE), (READ, PHASE, SLICE), (PHASE, SLICE, READ)]
    same, uneven, shifted = [stack(1)[0]] * 3, stack(3), stack(3)
    uneven[1] = stack(2, 4.0)[1]
    shifted[1] = tuple(np.add(shifted[1], READ))
    for k, (centres, axes) in enumerate(
        [(stack(3), turned), (same, turned[0]), (uneven, turned[0]), (shifted, turned[0])]
    ):
        geometry, images = read_back(oblique(tmp_path / f"{k}.h5", centres, axes), tmp_path)
        assert geometry.nominal == ("pose",) and geometry.voxel_size == pytest.approx((3.5, 2.0, 1.5))
        for i, (centre, image) in enumerate(zip(centres, images)):
            one = geometry.of_slice(i)
            _, read, phase = axes[i] if isinstance(axes, list) else axes
            y, x = divmod(int(image.argmax()), image.shape[1])
            expected = np.array(centre) + PLACE[0] * np.array(read) + PLACE[1] * np.array(phase)
            assert one.nominal == ()
            np.testing.assert_allclose(one.position(0, y, x), expected, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"axes": ((0, 0, 0),) * 3},
        {"axes": (SLICE, READ, READ)},
        {"axes": (SLICE, READ, (np.nan, 0, 0))},
        {"centres": [(np.inf, 0, 0)] * 2},
    ],
    ids=["zeros", "not at right angles", "nan", "infinite"],
)
def test_numbers_that_are_no_pose_are_not_taken_for_one(tmp_path, changes):
    geometry, _ = read_back(oblique(tmp_path / "a.h5", **({"centres": stack(2)} | changes)), tmp_path)
    assert geometry.nominal == ("pose",) and geometry.voxel_size == pytest.approx((3.5, 2.0, 1.5))


def test_a_file_is_opened_once_and_its_noise_is_not_read_for_the_pose(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(ismrmrd, "open_h5", lambda path, real=ismrmrd.open_h5: (opened.append(path), real(path))[1])
    file = oblique(tmp_path / "a.h5", stack(2))
    root, (volume,) = volumes_of(file, params_of(tmp_path).masks)
    opened.clear()
    monkeypatch.setattr(ismrmrd, "_whitening", lambda *_: pytest.fail("the noise was read"))
    with VolumeReader(root, volume) as reader:
        assert reader.geometry().nominal == () and reader.mask().any()
    assert opened == [file]
