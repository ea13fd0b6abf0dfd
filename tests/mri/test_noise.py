"""The estimate of noise, on k-space whose noise is known."""

import pytest
import torch

from frost.mri.consistency import residual
from frost.mri.fourier import fft2c
from frost.mri.noise import noise_share


def test_noise_share_is_the_residual_of_the_truth():
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(4, 256, 64, dtype=torch.complex64)
    image[:, 64:192, 16:48] = torch.hann_window(128)[:, None] * torch.hann_window(32)  # smooth: no signal far out
    noise = 0.02 * torch.randn(image.shape, generator=generator, dtype=torch.complex64)
    mask = torch.arange(64) % 3 == 0
    measured = (fft2c(image) + noise) * mask
    assert noise_share(measured, mask) == pytest.approx(residual(image, measured, mask), rel=0.05)
    assert noise_share(mask * fft2c(image), mask) < 1e-3
    assert noise_share(0 * measured, mask) == 0
