"""The Fourier transform of MRI: centred and orthonormal. The only file that calls torch.fft.

Zero frequency and the image's origin both lie at index n // 2, so the input is moved by `ifftshift` before the
transform and its output by `fftshift` after. (The two shifts agree on even sizes only.) Orthonormal: energy is the
same on both sides, and the adjoint of each transform is the other.
"""

import torch
from jaxtyping import Complex
from torch import Tensor


def fft2c(image: Complex[Tensor, "*batch y x"]) -> Complex[Tensor, "*batch y x"]:
    """Image to k-space over the last two axes."""
    return fftc(image, (-2, -1))


def ifft2c(kspace: Complex[Tensor, "*batch y x"]) -> Complex[Tensor, "*batch y x"]:
    """k-space to image over the last two axes."""
    return ifftc(kspace, (-2, -1))


def fftc(image: Complex[Tensor, "..."], axes: tuple[int, ...]) -> Complex[Tensor, "..."]:
    """Image to k-space over `axes`. Undersampling is along x alone, so a network that keeps y as image needs only x."""
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(image, axes), dim=axes, norm="ortho"), axes)


def ifftc(kspace: Complex[Tensor, "..."], axes: tuple[int, ...]) -> Complex[Tensor, "..."]:
    """k-space to image over `axes`."""
    return torch.fft.fftshift(
        torch.fft.ifftn(torch.fft.ifftshift(kspace, axes), dim=axes, norm="ortho"), axes
    )
