"""The wavelet transform: orthogonal, blind to what is smooth, and its shrinkage is the prox of the 1-norm."""

import pytest
import torch

from frost.mri.wavelets import analyse, shrink, synthesise
from tests import laws


def draw(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(height, width, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (16, 10)])
def test_one_step_is_unitary_and_linear(size):
    height, width = size
    image = draw(height, width)
    bands = analyse(image)
    assert bands.shape == (4, height // 2, width // 2)
    torch.testing.assert_close(synthesise(bands), image)
    torch.testing.assert_close(bands.norm(), image.norm())
    laws.adjoint(analyse, synthesise, draw(height, width, 1), analyse(draw(height, width, 2)))
    laws.linear(analyse, image, draw(height, width, 1))


def test_details_are_0_where_an_image_is_linear():
    y, x = torch.arange(16.0, dtype=torch.float64)[:, None], torch.arange(20.0, dtype=torch.float64)
    bands = analyse(torch.complex(3 + 2 * y + 0 * x, 1 - x + 0 * y))
    inside = bands[1:, :-1, :-1]  # the last ones reach over the edge
    assert float(inside.abs().max()) < 1e-12
    assert float(bands[1:].abs().max()) > 1


def test_the_bands_are_in_their_order():
    y, x = torch.arange(8)[:, None], torch.arange(8)
    along_x, along_y = ((-1.0) ** x + 0 * y).to(torch.complex128), ((-1.0) ** y + 0 * x).to(torch.complex128)
    for band, image in ((1, along_x), (2, along_y), (3, along_x * along_y)):
        energy = analyse(image).abs().square().sum((1, 2))
        assert int(energy.argmax()) == band and float(energy[band]) == pytest.approx(64)


def test_the_filter_is_the_one_of_the_paper():
    row = torch.tensor([1.0, 4, 2, 8, 5, 7, 1, 3], dtype=torch.complex128)
    coarse, fine = analyse(row.repeat(2, 1))[:2, 0] / 2**0.5
    taps = torch.tensor([0.4829629131445341, 0.8365163037378079, 0.2241438680420134, -0.1294095225512604]).double()
    windows = torch.stack([row.roll(-2 * n)[:4].real for n in range(4)])
    torch.testing.assert_close(coarse.real, windows @ taps, atol=1e-6, rtol=0)
    mirrored = taps.flip(0) * torch.tensor([1.0, -1, 1, -1])
    torch.testing.assert_close(fine.real, windows @ mirrored, atol=1e-6, rtol=0)


@pytest.mark.parametrize("levels", [1, 3])
def test_shrink_is_the_prox_of_the_norm_of_the_details(levels):
    image, threshold = draw(16, 24), 0.7

    def details(one: torch.Tensor, steps: int) -> torch.Tensor:
        bands = analyse(one)
        rest = details(bands[0], steps - 1) if steps > 1 else bands.new_zeros(0)
        return torch.cat([bands[1:].flatten(), rest])

    def cost(one: torch.Tensor) -> float:
        return float(0.5 * (one - image).norm() ** 2 + threshold * details(one, levels).abs().sum())

    best = shrink(image, threshold, levels)
    assert cost(best) < cost(image)
    for seed in range(1, 9):
        assert cost(best) <= cost(best + 1e-3 * draw(16, 24, seed))
    small = details(image, levels).abs() < threshold
    assert float(details(best, levels)[small].abs().max()) < 1e-12


def test_shrink_by_nothing_gives_the_image_back():
    image = draw(16, 16).to(torch.complex64)
    torch.testing.assert_close(shrink(image, 0.0, 3), image)
    assert torch.equal(shrink(torch.zeros_like(image), 0.5, 3), torch.zeros_like(image))
