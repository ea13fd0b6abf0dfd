"""Coil images: combining is the adjoint of expanding, rss has a gradient everywhere, crops are centred."""

import pytest
import torch

from frost.mri.coils import center_crop, combine, expand, rss
from tests import laws


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
