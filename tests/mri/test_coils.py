"""Coil images: combining is the adjoint of expanding, rss has a gradient everywhere, crops are centred."""

import pytest
import torch

from frost.mri.coils import center_crop, centre_maps, combine, expand, rss
from frost.mri.fourier import fft2c
from tests import laws
from tests.conftest import make_phantom, make_sens_maps


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def test_combine_is_the_adjoint_of_expand():
    sens_maps, image, coil_images = draw(2, 3, 7, 10), draw(2, 7, 10, seed=1), draw(2, 3, 7, 10, seed=2)
    laws.adjoint(lambda x: expand(x, sens_maps), lambda y: combine(y, sens_maps), image, coil_images)
    laws.linear(lambda x: expand(x, sens_maps), image, draw(2, 7, 10, seed=3))


def test_combine_undoes_expand_for_unit_maps():
    sens_maps = draw(4, 7, 10)
    sens_maps = sens_maps / rss(sens_maps)
    image = draw(7, 10, seed=1)
    torch.testing.assert_close(combine(expand(image, sens_maps), sens_maps), image)
    torch.testing.assert_close(rss(expand(image, sens_maps)), image.abs())


def test_rss_and_its_gradient_where_coils_are_empty():
    coil_images = torch.zeros(2, 1, 2, dtype=torch.complex64)
    coil_images[:, 0, 0] = torch.tensor([3.0, 4.0j])
    coil_images.requires_grad_()
    image = rss(coil_images)
    assert image.tolist() == [[5.0, 0.0]]
    image.sum().backward()
    assert coil_images.grad is not None and coil_images.grad.isfinite().all()


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("exponent", [-115, -70, -40, 50, 110])
def test_rss_of_values_whose_squares_float32_does_not_hold(batch, exponent):
    coil_images = draw(*batch, 4, 6, 5).to(torch.complex64)
    scaled = coil_images * 2.0**exponent
    assert torch.equal(rss(scaled), rss(coil_images) * 2.0**exponent)
    both = rss(torch.stack([scaled, torch.zeros_like(scaled), coil_images]))  # a slice depends on no other one
    assert torch.equal(both[0], rss(scaled)) and not both[1].any() and torch.equal(both[2], rss(coil_images))


@pytest.mark.parametrize("have", [6, 7])
@pytest.mark.parametrize("want", [3, 4, 9, 10])
def test_crop_and_pad_keep_the_start_that_fastmri_has(have, want):
    image = torch.arange(1.0, have + 1).expand(2, have).T[None]
    (cut,) = center_crop(image, (want, 2))
    column = cut[:, 0].tolist()
    if want <= have:
        assert column == [(have - want) // 2 + 1 + i for i in range(want)]
    else:
        before = (want - have) // 2
        assert column == [0] * before + list(range(1, have + 1)) + [0] * (want - have - before)


def test_crop_undoes_pad_of_equal_parity():
    image = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(center_crop(center_crop(image, (9, 10)), (5, 6)), image)


def test_centre_maps_are_those_of_smooth_coils_and_of_norm_one():
    image, maps = make_phantom(48, 45), make_sens_maps(5, 48, 45)
    kspace = fft2c(expand(image, maps))[None]
    acs = torch.zeros(1, 45, dtype=torch.bool)
    acs[:, 18:27] = True
    found = centre_maps(kspace, acs)[0]
    assert torch.allclose(torch.linalg.vector_norm(found, dim=0), torch.ones(48, 45), atol=1e-5)
    inside = image.abs() > 0.3 * image.abs().max()
    aligned = (found * maps.conj()).sum(0).abs()  # 1 where both are one map up to the phase of the image
    assert aligned[inside].min() > 0.97 and aligned[inside].mean() > 0.995


def test_centre_maps_give_nothing_to_a_coil_without_signal_and_read_the_centre_alone():
    kspace = torch.randn(2, 4, 20, 18, dtype=torch.complex64)
    kspace[:, 2] = 0
    acs = torch.zeros(2, 18, dtype=torch.bool)
    acs[0, 6:12], acs[1, 5:13] = True, True
    maps = centre_maps(kspace, acs)
    assert not maps[:, 2].any() and maps.isfinite().all()
    for one in range(2):  # each slice of a batch has its own centre
        alone = centre_maps(kspace[one : one + 1] * acs[one], acs[one : one + 1])[0]
        assert torch.allclose(maps[one], alone, atol=1e-6)
    assert not centre_maps(torch.zeros_like(kspace), acs).any()
