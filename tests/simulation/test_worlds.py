"""Wide worlds: the laws of coils, frames, windows and noise; the same bytes always; bad ranges are refused."""

import hashlib
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import h5py
import nibabel
import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from scipy import ndimage

from frost.errors import InputError
from frost.mri.coils import center_crop, rss
from frost.mri.fourier import fft2c, ifft2c
from frost.pipeline.params import checked
from frost.scans.indexing import MaskParams, volumes_of
from frost.simulation.coils import CoilArray, complex_noise, draw_loops, draw_mixing, head_array
from frost.simulation.filters import WINDOWS, image_taper, kspace_weights, object_mask, unprocessed
from frost.simulation.objects import INTERIORS, draw_implant, object_planes, with_lesions
from frost.simulation.params import SimulateParams
from frost.simulation.planes import Grid, plane_points
from frost.simulation.scanner import PEAK, draw_phase, edited_images, fold, scan_planes, target_of
from frost.simulation.simulate import make_file, plan, simulate, simulate_volume, world_of
from frost.simulation.template import RANDOM, TISSUES, tissue_signals
from frost.simulation.worlds import WIDEST, draw_world
from tests.paths import ROOT

GRID = Grid((96, 80), (250.0, 250.0))
NEVER = dict.fromkeys(
    ("zero_padded_columns", "zero_padded_rows", "partial_columns", "partial_rows", "ellipse", "filtered",
     "tapered_images", "masked_images"), 0.0,
)  # fmt: skip


def merged(base, changes):
    return {
        **base,
        **{key: merged(base[key], new) if isinstance(new, dict) else new for key, new in changes.items()},
    }


def params(**changes):
    """The preset, of few small scans; `world` changes some of what it has."""
    yaml = YAML(typ="safe")
    base = yaml.load((ROOT / "params.yaml").read_text())["simulate"]
    preset = yaml.load((ROOT / "params" / "worlds.yaml").read_text())["simulate"]
    small = {"subjects": 6, "val": 1, "test": 1, "size": [40, 64], "coils": [3, 6], "slices": 2}
    return checked(SimulateParams, merged({**base, **preset, **small}, changes), "params.yaml: simulate")


def only(kind, **processing):
    objects = dict.fromkeys(("head", *INTERIORS), 0.0) | {kind: 1.0}
    return params(world={"objects": objects, "looks": {"implants": 0.0}, "processing": NEVER | processing})


def test_what_a_world_cannot_do_to_nifti_heads_is_told(tmp_path):
    """Their planes are axial, and their contrast is their own: a range of turns would be taken without a word."""
    voxels = 1000 / (1 + np.exp(20 * (np.square(np.indices((24, 24, 24)) / 12 - 1).sum(axis=0) - 0.6)))
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32), np.diag([8.0, 8, 8, 1])), tmp_path / "S1_T1.nii.gz")
    small = {"subjects": 1, "val": 0, "test": 0, "heads": str(tmp_path), "slices": 1, "size": 40}
    plain = {"directions": ["axial"], "turn": 0, "random_contrast": 0.0, "grain": 1}
    line = "simulate.world.looks: directions, turn, random_contrast, grain: no effect on NIfTI heads"
    assert simulate(tmp_path / "wide", params(**small))[1][0].startswith(line)
    _, notes = simulate(tmp_path / "out", params(**small, world={"looks": plain}))
    assert not any("no effect" in note for note in notes)


# ---- draws


def test_the_preset_draws_what_its_ranges_hold():
    wide = params(size=[96, 224], coils=[4, 20])
    worlds = [draw_world(wide, number) for number in range(400)]
    for world in worlds:
        frame, (first, last) = world.frame, world.processing.columns
        assert 4 <= world.array.n_coils <= 20 and 1 <= world.array.n_rows <= 3
        assert all(96 <= n <= 224 for n in frame.crop)
        assert all(crop <= n for crop, n in zip(frame.crop, frame.matrix))
        assert all(covered >= max(side, WIDEST) - 1e-6 for covered, side in zip(frame.grid.extent, frame.fov))
        spacings = [[n / side for n, side in zip(frame.fine, frame.fov)]]
        np.testing.assert_allclose(np.divide(*frame.grid), *spacings)  # pixels are those of the frame
        assert 0 <= first < frame.matrix[1] // 2 < last - 0.05 * frame.matrix[1] <= frame.matrix[1]
    kinds = [world.kind for world in worlds]
    for kind, share in wide.world.objects.model_dump().items():
        assert abs(kinds.count(kind) / len(kinds) - share) < 0.08
    widths = {world.frame.matrix[1] for world in worlds}
    assert any(width % 2 for width in widths) and len(widths) > 50
    assert 0.4 < np.mean([world.noise < 0.25 * wide.noise[1] for world in worlds]) < 0.6  # as its square root is even


def test_a_number_is_a_range_of_one_value_and_needs_no_wide_world():
    simple = params(world=None, coils=[2, 5], size=48, fov=200, noise=0.01)
    worlds = [draw_world(simple, number) for number in range(30)]
    assert {world.array.n_coils for world in worlds} == {2, 3, 4, 5}
    assert {(world.frame.matrix, world.frame.fov, world.noise) for world in worlds} == {
        ((48, 48), (200.0, 200.0), 0.01)
    }


def test_a_world_is_a_function_of_its_number_alone():
    few, more = params(), params(subjects=9)
    assert plan(more)[:6] == plan(few)
    for task in plan(few):
        one, two = world_of(few, task), world_of(more, task)
        assert all(np.array_equal(getattr(one, name), getattr(two, name)) for name in ("frame", "noise", "pose"))


def test_the_number_of_processes_changes_no_byte(tmp_path):
    simulate(tmp_path / "one", params())
    simulate(tmp_path / "two", params(), n_processes=2)
    found = [
        {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*.h5")}
        for folder in (tmp_path / "one", tmp_path / "two")
    ]
    assert len(found[0]) == 6 and found[0] == found[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coils": [6, 4]}, r"simulate\.coils: a range starts with its low end: \[4, 6\]"),
        ({"coils": [0, 4]}, r"simulate\.coils: must lie from 1 to 128"),
        ({"coils": [4.5, 6]}, r"simulate\.coils\.0: .*integer"),
        ({"coils": 0}, r"simulate\.coils: must lie from 1 to 128, not 0"),
        ({"size": [96, 128, 224]}, r"simulate\.size: a range is one number or \[low, high\]"),
        ({"noise": [0.0, 2.0]}, r"simulate\.noise: must lie from 0 to 1"),
        ({"noise": [0.0, float("nan")]}, r"simulate\.noise"),
        ({"fov": "wide"}, r"simulate\.fov"),
        ({"world": {"processing": {"measured": [0.4, 0.9]}}}, r"world\.processing\.measured: must lie from 0\.6 to 1"),
        ({"world": {"processing": {"ellipse": 1.5}}}, r"world\.processing\.ellipse: "),
        ({"world": {"objects": dict.fromkeys(("head", *INTERIORS), 0)}}, r"world\.objects: one weight must be above 0"),
        ({"world": {"looks": {"directions": []}}}, r"world\.looks\.directions: "),
        ({"world": {"looks": {"directions": ["oblique"]}}}, r"world\.looks\.directions\.0: "),
        ({"world": {"frame": {"zoom": 2}}}, r"world\.frame\.zoom: no such parameter"),
    ],
)
def test_ranges_that_are_none_are_refused(changes, message):
    with pytest.raises(InputError, match=message) as error:
        params(**changes)
    assert "\n" not in str(error.value)


# ---- coils and noise


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_noise_has_the_covariance_of_its_mixing(correlation):
    rng = np.random.default_rng(0)
    mixing = draw_mixing(rng, 5, correlation)
    covariance = mixing @ mixing.mH
    torch.testing.assert_close(covariance.diagonal().real, torch.ones(5))
    torch.testing.assert_close(covariance.diagonal(1).abs(), torch.full((4,), correlation))
    torch.testing.assert_close(covariance.diagonal(2).abs(), torch.full((3,), correlation**2))
    noise = complex_noise(rng, (2, 5, 128, 128), mixing).transpose(0, 1).reshape(5, -1)
    torch.testing.assert_close(noise @ noise.mH / noise.shape[1] / 2, covariance, rtol=0, atol=0.02)
    assert noise.mean(dim=1).abs().max() < 0.05


def test_a_partial_array_stands_within_its_arc():
    array = CoilArray(8, n_rows=2, radius=1.2, loops=1.0, arc=np.pi / 2, middle=np.pi / 2)
    centres = draw_loops(np.random.default_rng(0), array)[:, :-1].mean(axis=1)
    angles = np.arctan2(centres[:, 0], centres[:, 1])  # from the front to the right
    assert (np.abs(angles - np.pi / 2) < np.pi / 4 + 0.3).all() and np.ptp(angles) > np.pi / 4
    ring = draw_loops(np.random.default_rng(0), head_array(8))[:, :-1].mean(axis=1)
    assert np.linalg.norm(centres[:, :2], axis=1).mean() > 1.1 * np.linalg.norm(ring[:, :2], axis=1).min()
    assert len(np.unique(np.round(centres[:, 2] / 35))) > 1


# ---- frames


@pytest.mark.parametrize("shape", [(32, 24), (31, 27), (64, 48)])
def test_a_frame_too_small_measures_the_folded_object(shape):
    """Samples of k-space n / N apart: those of a frame n / N as large, whose image is wrapped."""
    wide = torch.randn(2, 2 * shape[0], 3 * shape[1], dtype=torch.complex64)
    every = fft2c(wide)[:, shape[0] % 2 :: 2, _first(3 * shape[1], shape[1]) :: 3]
    scale = (6**0.5,)  # both transforms are orthonormal
    torch.testing.assert_close(fft2c(fold(wide, shape)), every * scale[0], rtol=1e-4, atol=1e-4)


def _first(wide, narrow):
    """The index of the first sample whose distance from zero frequency is a multiple of wide / narrow."""
    return wide // 2 - (narrow // 2) * (wide // narrow)


def test_a_frame_that_is_large_enough_moves_nothing():
    image = torch.randn(1, 9, 10)
    torch.testing.assert_close(fold(image, (9, 10)), image)
    grown = fold(image, (13, 16))
    torch.testing.assert_close(grown[:, 13 // 2 - 9 // 2 :, 16 // 2 - 5 :][:, :9, :10], image)
    assert grown.count_nonzero() == image.count_nonzero()


def test_a_tight_frame_wraps_an_object_as_the_wide_one_folded():
    looks = {"lesions": 0, "implants": 0.0}
    objects = dict.fromkeys(("head", *INTERIORS), 0.0) | {"phantom": 1.0}
    frame = {"narrow": 0.55, "pixel": 1.1, "readout_oversampling": [1]}
    scans = []
    for oversampling in (1, 2):
        world = {"objects": objects, "looks": looks, "processing": NEVER}
        world["frame"] = frame | {"phase_oversampling": [oversampling]}
        drawn = params(noise=0, size=[32, 64], fov=250, slices=1, coils=4, seed=3, world=world)
        scans.append((simulate_volume(drawn, plan(drawn)[0])[0], world_of(drawn, plan(drawn)[0]).frame))
    (tight, narrow), (free, wide) = scans
    assert narrow.matrix[1] * 2 == wide.matrix[1] and narrow.fov[1] < 140 < 270 < wide.fov[1]
    assert free.head[0].amax(dim=0)[[0, -1]].max() > 0.5  # cut from the middle: the object leaves that frame
    every = free.kspace[..., _first(wide.matrix[1], narrow.matrix[1]) :: 2]
    one, two = tight.kspace / tight.kspace.norm(), every / every.norm()
    assert (one - two).norm() < 0.02  # coil maps are interpolated from another coarse grid


# ---- k-space


def test_lines_that_were_not_measured_are_zero_and_the_index_finds_them(tmp_path):
    """fastMRI's padding from the header is exactly the columns that hold zeros."""
    for share in ("zero_padded_columns", "partial_columns"):
        wide = only("phantom", **{share: 1.0}, ellipse=0.0)
        task = plan(wide)[0]
        (tmp_path / task.split).mkdir(exist_ok=True)
        make_file(tmp_path, wide, task)
        file = tmp_path / task.split / f"{task.name}.h5"
        masks = {"kind": "random", "accelerations": [4], "center_fractions": [0.08], "pick": "one"}
        masks = checked(MaskParams, masks | {"masks_per_volume": 1, "seed": 0}, "masks")
        (volume,) = volumes_of(file, masks)[1]
        with h5py.File(file) as h5:
            measured = np.flatnonzero(np.abs(h5["kspace"][()]).sum(axis=(0, 1, 2)))
            width = h5["kspace"].shape[-1]
        left, right = volume.mask.padding
        assert (measured[0], measured[-1] + 1, len(measured)) == (left, right, right - left)
        assert 0.55 * width < right - left < width
        symmetric = abs(left - (width - right)) <= 1
        assert symmetric == (share == "zero_padded_columns")
        assert volume.crop == world_of(wide, task).frame.crop


def test_headers_tell_the_oversampled_matrix_and_the_image(tmp_path):
    oversampled = {"readout_oversampling": [2], "phase_oversampling": [1.25], "narrow": 0.8, "pixel": 1.0}
    wide = params(fov=240, world={"frame": oversampled})
    task = plan(wide)[0]
    (tmp_path / task.split).mkdir()
    make_file(tmp_path, wide, task)
    with h5py.File(next(tmp_path.rglob("*.h5"))) as h5:
        root, shape = ElementTree.fromstring(h5["ismrmrd_header"][()]), h5["kspace"].shape
        crop = h5["reconstruction_rss"].shape[1:]
        torch.testing.assert_close(
            center_crop(rss(ifft2c(torch.from_numpy(h5["kspace"][()]))), crop),
            torch.from_numpy(h5["reconstruction_rss"][()]),
        )

    def numbers(space, what):
        name = "{http://www.ismrm.org/ISMRMRD}"
        found = root.find(f"{name}encoding/{name}{space}/{name}{what}")
        return [float(found.find(name + axis).text) for axis in "xy"]

    assert numbers("encodedSpace", "matrixSize") == list(shape[2:])
    assert numbers("reconSpace", "matrixSize") == list(crop) == [shape[2] / 2, round(shape[3] / 1.25)]
    np.testing.assert_allclose(numbers("encodedSpace", "fieldOfView_mm"), [480, 192 * shape[3] / crop[1]], rtol=1e-3)
    np.testing.assert_allclose(numbers("reconSpace", "fieldOfView_mm"), [240, 192], rtol=1e-3)


def test_an_ellipse_leaves_out_the_corners_alone():
    weights = kspace_weights(replace(unprocessed((64, 48)), ellipse=True), (64, 48))
    assert weights[0, 0] == weights[-1, -1] == weights[0, -1] == 0
    assert weights[32].min() == weights[:, 24].min() == 1
    assert weights.mean().item() == pytest.approx(np.pi / 4, abs=0.02)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_is_even_and_falls_outwards(window):
    weights = kspace_weights(replace(unprocessed((33, 41)), window=window, strength=0.8), (33, 41))
    assert weights.max() == weights[16, 20] > 0.99 and weights.min() >= 0
    torch.testing.assert_close(weights, weights.flip(0, 1))  # conjugate symmetry stays: a real image stays real
    for middle in (weights[16, 20:], weights[16:, 20]):
        assert (middle.diff() <= 1e-7).all() and middle[-1] < 0.5
    image = ifft2c(fft2c(torch.randn(33, 41, dtype=torch.float32).to(torch.complex64)) * weights)
    assert image.imag.abs().max() < 1e-5


def test_nothing_is_done_to_kspace_where_nothing_is_drawn():
    assert (kspace_weights(unprocessed((31, 20)), (31, 20)) == 1).all()


def test_a_masked_scan_has_no_air_and_a_tapered_one_no_edge():
    disc = torch.zeros(64, 64)
    disc[plane_disc(64) < 20] = 1
    air = plane_disc(64) > 30
    mask = object_mask(disc)
    assert mask[plane_disc(64) < 20].min() > 0.98 and mask[air].max() < 1e-3
    noisy = fft2c((disc + 0.02 * torch.randn(1, 2, 64, 64)).to(torch.complex64))
    clean = fft2c(disc.to(torch.complex64).expand(1, 2, 64, 64))
    _, edited = edited_images(clean, noisy, replace(unprocessed((64, 64)), masked=True))
    assert rss(ifft2c(edited))[0][air].max() < 1e-4 < rss(ifft2c(noisy))[0][air].min()
    taper = image_taper((64, 64), 0.1)
    assert taper[32, 32] == 1 and taper[0].max() < 0.02 and torch.equal(taper, taper.flip(0))
    _, edited = edited_images(clean, noisy, replace(unprocessed((64, 64)), taper=0.1))
    torch.testing.assert_close(rss(ifft2c(edited)), rss(ifft2c(noisy)) * taper, rtol=1e-3, atol=1e-5)


def plane_disc(n):
    along = torch.arange(n) - n // 2
    return torch.hypot(along[:, None].float(), along.float())


# ---- objects


@pytest.mark.parametrize("kind", INTERIORS)
@pytest.mark.parametrize("number", range(3))
def test_objects_lie_in_air_and_are_not_empty(kind, number):
    planes = object_planes(np.random.default_rng(number), kind, 2, GRID)
    body = planes.head > 0.5
    assert 0.1 < body.mean() < 0.75
    assert planes.signal[~body].max() == 0 and planes.signal.min() >= 0
    assert np.quantile(planes.signal[body], 0.95) > 0.05
    assert ndimage.label(body[0])[1] == 1
    assert not np.array_equal(*planes.signal) or kind == "phantom"  # some have no parts


def test_phantoms_have_edges_that_ring_and_heads_alone_with_nifti_files():
    scan = simulate_volume(only("phantom"), plan(only("phantom"))[0])[0]
    assert scan.clean_target.max().item() == pytest.approx(PEAK)
    with_heads = only("phantom").model_copy(update={"heads": "somewhere"})
    assert draw_world(with_heads, 0).kind == "head"


def test_lesions_change_the_object_and_nothing_else():
    planes = object_planes(np.random.default_rng(1), "phantom", 2, GRID)
    changed = with_lesions(np.random.default_rng(0), planes, GRID, 4)
    different = changed.signal != planes.signal
    assert all(0 < plane.mean() < 0.4 for plane in different)
    assert not different[planes.head == 0].any() and changed.signal.min() >= 0


def test_an_implant_is_a_void_with_a_dipole_around_it():
    planes = object_planes(np.random.default_rng(1), "phantom", 1, GRID)
    implant = draw_implant(np.random.default_rng(2), planes, GRID, np.eye(3, dtype=np.float32))
    effects = [implant(plane_points(GRID, height)) for height in planes.heights[0] + np.arange(-12.0, 13.0)]
    left = np.abs(np.stack(effects))
    assert left.min() < 0.01 and left.max() <= 1 and 0.95 < left.mean() < 1
    turns = np.angle(np.stack(effects))[left > 0.999]
    assert np.abs(turns).max() > 0.1 and turns.min() < 0 < turns.max()


def test_phase_grows_from_nothing_to_rough():
    points = plane_points(GRID, 10.0)
    deviations = [np.std([draw_phase(np.random.default_rng(i), r)(points) for i in range(8)], axis=(1, 2)).mean()
                  for r in (0.0, 1.0, 3.0)]  # fmt: skip
    assert deviations[0] < 1e-6 and 0.2 < deviations[1] < deviations[2] / 2


def test_random_contrasts_are_those_of_no_sequence():
    draws = np.stack([tissue_signals(np.random.default_rng(i), RANDOM) for i in range(300)])
    assert draws.shape == (300, len(TISSUES)) and 0 < draws.min() < 0.1 < 0.9 < draws.max() <= 1
    alike = np.corrcoef(draws.T) - np.eye(len(TISSUES))
    assert np.abs(alike).max() < 0.3


# ---- whole scans


def test_scans_of_the_preset_are_finite_bright_and_their_own_targets():
    wide = params(subjects=14)
    for task in plan(wide):
        scan, warning = simulate_volume(wide, task)
        world = world_of(wide, task)
        assert warning is None and scan.kspace.shape[1:] == (world.array.n_coils, *world.frame.matrix)
        torch.testing.assert_close(target_of(scan.kspace, world.frame.crop), scan.target)
        assert torch.isfinite(scan.target).all() and scan.target.shape[1:] == world.frame.crop
        assert 0.5 * PEAK < scan.clean_target.max() <= 1.001 * PEAK
        assert (scan.clean_target > 0.03 * PEAK).float().mean() > 0.05


def test_noise_passes_the_same_filter_as_the_signal():
    wide = only("shapes", filtered=1.0, zero_padded_columns=1.0)
    task = plan(wide)[0]
    world = world_of(wide, task)
    planes = object_planes(np.random.default_rng(0), "shapes", 1, world.frame.grid)
    rng = [np.random.default_rng(5), np.random.default_rng(5)]
    quiet, noisy = (scan_planes(r, planes, replace(world, noise=n)).kspace for r, n in zip(rng, (0.0, 0.02)))
    weights = kspace_weights(world.processing, world.frame.matrix)
    noise = torch.view_as_real(noisy - quiet).square().mean(dim=(0, 1, 4)).sqrt() / (0.02 * PEAK)
    assert (noise[weights == 0] == 0).all()
    strong = weights > 0.3
    assert (noise[strong] / weights[strong]).mean().item() == pytest.approx(1, abs=0.1)
