"""The Fourier transform: fastMRI's numbers, the laws, an image whose transform is known."""

import math
import re

import numpy as np
import pytest
import torch

from frost.mri.fourier import fft2c, fft_from_corner, fftc, ifft2c, ifft_from_corner, ifftc, to_centre, to_corner
from tests import laws
from tests.paths import ROOT, SHARED

FROST = ROOT / "frost"
REFERENCE = SHARED / "reference" / "fastmri_fft.npz"
SHAPES = [(1, 1), (7, 10), (10, 7), (9, 5), (8, 8)]  # odd and even: swapped shifts show at odd sizes only


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference vectors are not here")
@pytest.mark.parametrize("transform", [fft2c, ifft2c])
def test_equals_fastmri(transform):
    with np.load(REFERENCE) as reference:
        x, expected = (torch.from_numpy(reference[name]) for name in ("x", transform.__name__))
    torch.testing.assert_close(transform(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_laws(shape):
    x, y = draw(2, *shape), draw(2, *shape, seed=1)
    laws.adjoint(fft2c, ifft2c, x, y)
    laws.unitary(fft2c, ifft2c, x)
    laws.linear(fft2c, x, y)
    laws.linear(ifft2c, x, y)


@pytest.mark.parametrize("shape", SHAPES)
def test_zero_frequency_and_origin_are_in_the_middle(shape):
    middle = tuple(size // 2 for size in shape)
    point = torch.zeros(shape, dtype=torch.complex128)
    point[middle] = 1
    flat = torch.full(shape, 1 / math.sqrt(math.prod(shape)), dtype=torch.complex128)
    torch.testing.assert_close(fft2c(point), flat)
    torch.testing.assert_close(fft2c(flat), point)
    torch.testing.assert_close(ifft2c(point), flat)


@pytest.mark.parametrize("n", [48, 49])
def test_gaussian(n):
    """exp(-pi (r/s)^2) transforms to s^2/n exp(-pi (s f/n)^2), orthonormally, and a shift to a phase."""
    s, shift = 6.0, 3
    grid = torch.arange(n, dtype=torch.float64) - n // 2
    line = torch.exp(-math.pi * (grid / s) ** 2)
    moved = torch.exp(-math.pi * ((grid - shift) / s) ** 2)
    expected = s / math.sqrt(n) * torch.exp(-math.pi * (s * grid / n) ** 2).to(torch.complex128)
    ramp = torch.exp(-2j * math.pi * shift * grid / n)
    image = torch.outer(line, moved).to(torch.complex128)
    torch.testing.assert_close(fft2c(image), torch.outer(expected, expected * ramp), rtol=0, atol=1e-9)


def test_one_axis_after_the_other():
    x = draw(3, 7, 10)
    torch.testing.assert_close(fftc(fftc(x, (-1,)), (-2,)), fft2c(x))
    torch.testing.assert_close(ifftc(ifftc(x, (-2,)), (-1,)), ifft2c(x))


@pytest.mark.parametrize("width", [7, 10])
def test_from_the_corner_it_is_the_same_along_x(width):
    x = draw(3, 5, width)
    torch.testing.assert_close(to_centre(to_corner(x)), x)
    torch.testing.assert_close(to_centre(fft_from_corner(to_corner(x))), fftc(x, (-1,)))
    torch.testing.assert_close(to_centre(ifft_from_corner(to_corner(x))), ifftc(x, (-1,)))


def test_only_fourier_calls_torch_fft():
    calls = re.compile(r"torch\.fft|from torch import .*\bfft\b|(np|numpy|scipy)\.fft")
    users = {file.name for file in FROST.rglob("*.py") if calls.search(file.read_text())}
    assert users == {"fourier.py", "raw.py"}  # raw.py: of numpy arrays, where the index does without torch
