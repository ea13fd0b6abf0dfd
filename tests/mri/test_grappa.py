"""GRAPPA on a phantom whose full k-space is known: how near it comes, and the laws that it keeps."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from frost.errors import InputError
from frost.mri.coils import rss
from frost.mri.fourier import fft2c, ifft2c
from frost.mri.grappa import GrappaParams, grappa, source_lines
from frost.mri.sampling import MaskRecord, acs_columns, detect_acs, draw_mask
from frost.pipeline.params import checked

PARAMS = GrappaParams(kernel_lines=2, kernel_points=5, regularisation=0.03, calibration="slice")
HEIGHT, WIDTH, N_COILS = 70, 81, 6


def phantom(noise: float = 0.0, seed: int = 0) -> torch.Tensor:
    """k-space (coil, y, x) of ellipses, seen by smooth coils around them; odd width, no whole bands."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    image = np.zeros((HEIGHT, WIDTH))
    for value, cx, cy, a, b in [(1, 0, 0, 0.8, 0.85), (-0.5, 0, 0, 0.7, 0.75), (0.4, -0.3, 0.1, 0.2, 0.3)] + [
        (rng.uniform(-0.3, 0.4), *rng.uniform(-0.45, 0.45, 2), *rng.uniform(0.05, 0.25, 2)) for _ in range(12)
    ]:
        radius = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2
        image += value / (1 + np.exp(np.clip(40 * min(a, b) * (radius - 1), -60, 60)))
    angles = np.arange(N_COILS)[:, None, None] * 2 * np.pi / N_COILS
    coils = np.exp(-((x - 1.1 * np.cos(angles)) ** 2 + (y - 1.1 * np.sin(angles)) ** 2) / 1.3 + 1j * angles)
    coil_images = coils * image * np.exp(1j * (0.5 * x - 0.3 * y))
    coil_images = coil_images + noise * (rng.normal(size=coils.shape) + 1j * rng.normal(size=coils.shape))
    return fft2c(torch.from_numpy(coil_images).to(torch.complex64)) * 1e-4


def sample(kind: str, acceleration: float, n_low: int = 12) -> tuple[torch.Tensor, slice]:
    values = {
        "kind": kind,
        "acceleration": acceleration,
        "center_fraction": n_low / WIDTH,
        "seed": 3,
        "padding": (0, WIDTH),
    }
    return torch.from_numpy(draw_mask(MaskRecord.model_validate(values), WIDTH)), acs_columns(WIDTH, n_low)


def ssim(kspace: torch.Tensor, truth: torch.Tensor) -> float:
    image, target = rss(ifft2c(kspace)).numpy(), rss(ifft2c(truth)).numpy()
    return float(structural_similarity(target, image, data_range=target.max()))


def error(kspace: torch.Tensor, truth: torch.Tensor) -> float:
    image, target = rss(ifft2c(kspace)), rss(ifft2c(truth))
    return float((image - target).norm() / target.norm())


def test_nearly_exact_at_two_without_noise():
    truth = phantom()
    mask, acs = sample("equispaced", 2, 20)
    params = PARAMS.model_copy(update={"regularisation": 0.0})
    assert error(grappa(truth * mask, mask, acs, params), truth) < 0.001 < 0.05 < error(truth * mask, truth)


@pytest.mark.parametrize(
    ("kind", "acceleration", "ours", "zero_filled"),
    [
        ("equispaced", 4, 0.87, 0.72),
        ("equispaced", 5, 0.82, 0.78),
        ("equispaced_fraction", 3, 0.85, 0.75),
        ("magic", 4, 0.90, 0.77),
        ("random", 3, 0.82, 0.70),
    ],
)
def test_better_than_zero_filled(kind, acceleration, ours, zero_filled):
    truth = phantom(noise=0.003)
    mask, acs = sample(kind, acceleration)
    filled = grappa(truth * mask, mask, acs, PARAMS)
    assert ssim(filled, truth) > ours > zero_filled > ssim(truth * mask, truth)
    assert error(filled, truth) < 0.65 * error(truth * mask, truth)


@pytest.mark.parametrize("noise", [0.003, 0.03])
@pytest.mark.parametrize("kind", ["equispaced", "random"])
def test_never_worse_than_zero_filled_at_eight(kind, noise):
    truth = phantom(noise)
    mask, acs = sample(kind, 8, 7)
    for regularisation in (0.01, 0.3):
        filled = grappa(truth * mask, mask, acs, PARAMS.model_copy(update={"regularisation": regularisation}))
        assert ssim(filled, truth) > ssim(truth * mask, truth)


@pytest.mark.parametrize("kernel_lines", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["equispaced", "random"])
def test_measured_samples_stay_and_the_scale_passes_through(kind, kernel_lines):
    kspace = phantom(0.003)
    mask, acs = sample(kind, 4)
    params = PARAMS.model_copy(update={"kernel_lines": kernel_lines})
    filled = grappa(kspace * mask, mask, acs, params)
    assert torch.equal(filled[..., mask], kspace[..., mask])
    assert torch.equal(grappa(kspace, mask, acs, params), filled)  # what was not measured is not looked at
    for a in (1e-30, 1e-12, 1e-6, 3.7, 1e6, 1e12, 1e30, 2 - 1j):
        scaled = grappa(a * kspace * mask, mask, acs, params)
        torch.testing.assert_close(scaled / a, filled, rtol=1e-3, atol=1e-5 * float(filled.abs().max()))


def test_rows_without_signal_and_no_regularisation():
    kspace, (mask, acs) = phantom(), sample("equispaced", 4)
    kspace[:, :16] = 0
    filled = grappa(kspace, mask, acs, PARAMS.model_copy(update={"regularisation": 0.0}))
    assert filled.isfinite().all() and not filled[:, :8].any()


@pytest.mark.parametrize("regularisation", [0.0, 0.03, 1.0])
@pytest.mark.parametrize("kind", ["equispaced", "random"])
def test_coils_of_zeros_change_nothing_and_stay_empty(kind, regularisation):
    kspace, (mask, acs) = phantom(0.003), sample(kind, 4)
    params = PARAMS.model_copy(update={"regularisation": regularisation})
    padded = torch.cat([kspace[:2], torch.zeros_like(kspace[:3]), kspace[2:]])
    filled = grappa(padded, mask, acs, params)
    alone = grappa(kspace, mask, acs, params)
    assert not filled[2:5].any()
    torch.testing.assert_close(filled[[0, 1, *range(5, 9)]], alone, rtol=1e-3, atol=1e-5 * float(alone.abs().max()))


def test_an_empty_slice_of_a_volume_stays_empty_and_moves_no_other():
    together = PARAMS.model_copy(update={"calibration": "volume"})
    kspace, (mask, acs) = phantom(0.003) * sample("equispaced", 4)[0], sample("equispaced", 4)
    filled = grappa(torch.stack([torch.zeros_like(kspace), kspace]), mask, acs, together)
    assert not filled[0].any() and torch.equal(filled[1], grappa(kspace, mask, acs, PARAMS))
    assert not grappa(torch.zeros_like(kspace), mask, acs, PARAMS).any()


def test_where_the_centre_holds_nothing_what_was_measured_stays():
    kspace, (mask, acs) = phantom(0.003), sample("equispaced", 4)
    kspace[..., acs] = 0
    assert torch.equal(grappa(kspace, mask, acs, PARAMS), kspace * mask)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_constant_image_and_one_in_a_single_pixel(scale):
    mask, acs = sample("equispaced", 4)
    sensitivities = torch.tensor([1.0, 0.5j, -0.2])[:, None, None]
    one = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.complex64)
    one[:, HEIGHT // 2, WIDTH // 2] = scale
    constant, pixel = sensitivities * one, sensitivities * fft2c(one)
    assert torch.equal(grappa(constant, mask, acs, PARAMS), constant)
    inside = (..., slice(2, -2), slice(int(mask.nonzero()[0]), int(mask.nonzero()[-1]) + 1))
    filled = grappa(pixel, mask, acs, PARAMS)  # a plane wave: each sample follows from others, but for the ridge
    torch.testing.assert_close(filled[inside], pixel[inside], rtol=1e-2, atol=0)


def test_slices_share_nothing_but_code():
    volume = torch.stack([phantom(0.003, seed) for seed in range(3)] + [torch.zeros(N_COILS, HEIGHT, WIDTH)])
    mask, acs = sample("equispaced", 4)
    volume = volume * mask
    filled = grappa(volume, mask, acs, PARAMS)
    for one, expected in zip(volume, filled):
        assert torch.equal(grappa(one, mask, acs, PARAMS), expected)
    assert torch.equal(grappa(volume.flip(0), mask, acs, PARAMS).flip(0), filled)
    assert torch.equal(grappa(volume[None], mask, acs, PARAMS)[0], filled)
    assert not filled[-1].any()


def test_one_calibration_for_the_volume():
    together = PARAMS.model_copy(update={"calibration": "volume"})
    truth = torch.stack([phantom(0.003, seed) for seed in range(2)])
    mask, acs = sample("equispaced", 4)
    filled = grappa(truth * mask, mask, acs, together)
    assert not torch.equal(filled, grappa(truth * mask, mask, acs, PARAMS))
    for one, zero_filled, full in zip(filled, truth * mask, truth):
        assert ssim(one, full) > 0.85 > 0.8 > ssim(zero_filled, full)
    twice = torch.stack([truth[0], truth[0]]) * mask
    alone = grappa(truth[0] * mask, mask, acs, PARAMS)
    torch.testing.assert_close(grappa(twice, mask, acs, together)[1], alone, rtol=1e-3, atol=1e-9)


def test_columns_that_the_scanner_never_went_to_stay_zero():
    truth = phantom(0.003)
    mask, acs = sample("equispaced", 4)
    mask[:15], mask[-12:] = False, False
    measured = mask.nonzero().flatten()
    filled = grappa(truth * mask, mask, acs, PARAMS)
    assert not filled[..., : measured[0]].any() and not filled[..., measured[-1] + 1 :].any()
    assert filled[..., measured[0] : measured[-1]].any(0).any(0).all()


def test_fully_sampled_is_returned():
    truth = phantom()
    mask = torch.ones(WIDTH, dtype=torch.bool)
    assert torch.equal(grappa(truth, mask, detect_acs(mask.numpy()), PARAMS), truth)


def test_source_lines_are_the_nearest_that_the_centre_can_fit():
    mask = torch.zeros(40, dtype=torch.bool)
    mask[[2, 6, 10, 14, 30, 34]] = True
    mask[18:26] = True
    missing, lines = source_lines(mask, 8, 2)
    found = dict(zip(missing.tolist(), lines.tolist()))
    assert found[3] == [-1, 3] and found[5] == [1, -3] and found[4] == [-2, 2]
    assert 0 not in found and 1 not in found and 35 not in found  # outside the outermost measured columns
    _, four = source_lines(mask, 8, 4)
    assert four[missing == 11].tolist() == [[-1, 3, 0, 0]]  # a third line would leave one place of eight
    mask[20:26] = False
    assert source_lines(mask, 2, 2)[0].tolist() == [3, 5, 7, 9, 11, 13, 15, 17, 20, 29, 31, 33]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel_points": 4}, "grappa.kernel_points: must be odd"),
        ({"kernel_lines": 0}, "grappa.kernel_lines"),
        ({"regularisation": -1.0}, "grappa.regularisation"),
        ({"calibration": "none"}, "grappa.calibration"),
    ],
)
def test_wrong_params_are_one_line(change, message):
    with pytest.raises(InputError, match=message) as raised:
        checked(GrappaParams, PARAMS.model_dump() | change, "grappa")
    assert "\n" not in str(raised.value)


def test_wrong_masks_are_one_line():
    kspace = phantom()
    mask, acs = sample("equispaced", 4)
    with pytest.raises(InputError, match="has 81 columns, must have the 80"):
        grappa(kspace[..., :-1], mask, acs, PARAMS)
    with pytest.raises(InputError, match="must all be measured"):
        grappa(kspace, mask, slice(acs.start, acs.stop + 3), PARAMS)
    with pytest.raises(InputError, match="at least 2 centre lines"):
        grappa(kspace, mask, slice(acs.start, acs.start + 1), PARAMS)
    with pytest.raises(InputError, match="must not exceed the 3 rows of k-space"):
        grappa(kspace[:, :3], mask, acs, PARAMS)
