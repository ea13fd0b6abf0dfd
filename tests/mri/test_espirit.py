"""ESPIRiT: maps of simulated coils come back, and nothing breaks where there is little or no signal."""

import pytest
import torch

from frost.mri.coils import combine, expand, rss
from frost.mri.espirit import EspiritParams, espirit_maps, signal_kernels
from frost.mri.fourier import fft2c, ifft2c
from frost.mri.sampling import acs_columns

PARAMS = EspiritParams(kernel=6, rows=24, threshold=0.02, grid=32)


def smooth_maps(n_coils: int, height: int, width: int) -> torch.Tensor:
    """Coils around the frame, each with a phase of its own, of norm 1 together."""
    y = torch.linspace(-1, 1, height)[:, None]
    x = torch.linspace(-1, 1, width)
    angles = torch.arange(n_coils) * (2 * torch.pi / n_coils)
    far = [(y - 1.5 * a.sin()) ** 2 + (x - 1.5 * a.cos()) ** 2 for a in angles]
    maps = torch.stack([torch.polar((-d / 2).exp(), 0.5 * d + a) for d, a in zip(far, angles)])
    return maps / rss(maps)


def disc(height: int, width: int) -> torch.Tensor:
    """An object with two edges and a phase."""
    y = torch.linspace(-1, 1, height)[:, None]
    x = torch.linspace(-1, 1, width)
    far = (y / 0.8) ** 2 + (x / 0.7) ** 2
    return torch.polar((far < 1) + 0.5 * (far < 0.3), 0.6 * y + 0.4 * x)


def scan(n_coils: int = 5, height: int = 48, width: int = 56) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """k-space, image and maps."""
    image, maps = disc(height, width), smooth_maps(n_coils, height, width)
    return fft2c(expand(image, maps)), image, maps


def alike(maps: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """|<s, s0>| of each pixel, 1 where both are the same up to a phase."""
    return combine(maps, truth).abs()


@pytest.mark.parametrize(("height", "width", "n_acs"), [(48, 56, 16), (49, 57, 16), (48, 57, 8), (20, 18, 8)])
def test_maps_of_known_coils_come_back(height, width, n_acs):
    kspace, image, truth = scan(height=height, width=width)
    maps = espirit_maps(kspace, acs_columns(width, n_acs), PARAMS)
    assert maps.shape == truth.shape and maps.dtype == torch.complex64
    inside = image.abs() > 0
    assert float(alike(maps, truth)[inside].mean()) > 0.99
    left = (rss(ifft2c(kspace) - expand(combine(ifft2c(kspace), maps), maps))[inside] ** 2).sum().sqrt()
    assert float(left / rss(ifft2c(kspace))[inside].norm()) < 0.06  # one set of maps explains the coil images


def test_maps_have_norm_1_and_the_phase_of_the_strongest_combination_of_coils():
    kspace, image, _ = scan()
    acs = acs_columns(56, 16)
    maps = espirit_maps(kspace, acs, PARAMS)
    torch.testing.assert_close(rss(maps), torch.ones(48, 56))
    turned = espirit_maps(kspace * torch.polar(torch.tensor(3.0), torch.tensor(1.0)), acs, PARAMS)
    torch.testing.assert_close(turned.abs(), maps.abs(), atol=1e-3, rtol=0)  # the scale of the data is nothing
    steps = (maps[:, :, 1:] * maps[:, :, :-1].conj()).sum(0)
    inside = (image.abs() > 0)[:, 1:] & (image.abs() > 0)[:, :-1]
    assert float(steps.real[inside].min()) > 0.95  # neighbours have like maps, phase included


def test_maps_depend_on_the_centre_alone():
    kspace, _, _ = scan()
    acs = acs_columns(56, 16)
    other = kspace * 7
    other[..., acs] = kspace[..., acs]
    assert torch.equal(espirit_maps(kspace, acs, PARAMS), espirit_maps(other, acs, PARAMS))


def test_a_coil_without_signal_has_the_map_0_and_changes_no_other():
    kspace, _, _ = scan()
    acs = acs_columns(56, 16)
    silent = torch.cat([kspace[:2], torch.zeros_like(kspace[:1]), kspace[2:]])
    maps = espirit_maps(silent, acs, PARAMS)
    assert float(maps[2].abs().max()) < 1e-6
    rest = torch.cat([maps[:2], maps[3:]])
    assert float(alike(rest, espirit_maps(kspace, acs, PARAMS)).min()) > 0.999


def test_data_without_signal_give_maps_of_0():
    maps = espirit_maps(torch.zeros(3, 20, 22, dtype=torch.complex64), acs_columns(22, 8), PARAMS)
    assert torch.equal(maps, torch.zeros_like(maps))


def test_one_coil_has_a_map_of_norm_1():
    kspace, _, _ = scan(n_coils=1)
    torch.testing.assert_close(rss(espirit_maps(kspace, acs_columns(56, 16), PARAMS)), torch.ones(48, 56))


@pytest.mark.parametrize("rows", [8, 40])  # fewer and more patches than samples in one
def test_kernels_are_orthonormal_and_hold_the_centre(rows):
    kspace, _, _ = scan(n_coils=3)
    centre = kspace[:, 24 - rows // 2 : 24 + rows // 2, acs_columns(56, 16)]
    kernels = signal_kernels(centre, PARAMS).flatten(1)
    torch.testing.assert_close(kernels @ kernels.mH, torch.eye(len(kernels), dtype=kernels.dtype), atol=2e-3, rtol=0)
    patch = centre[:, :6, 3:9].flatten()
    projected = (kernels.conj() @ patch) @ kernels
    assert float((projected - patch).norm() / centre.norm()) < 0.05
