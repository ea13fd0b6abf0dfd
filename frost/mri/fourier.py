"""The Fourier transform of MRI: centred and orthonormal. The only file that calls torch.fft.

Zero frequency and the image's origin both lie at index n // 2, so the input is moved by `ifftshift` before the
transform and its output by `fftshift` after. (The two shifts agree on even sizes only.) Orthonormal: energy is the
same on both sides, and the adjoint of each transform is the other.
"""

import torch
from jaxtyping import Complex, Shaped
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
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(kspace, axes), dim=axes, norm="ortho"), axes)


def fft_from_corner(image: Complex[Tensor, "*batch y x"]) -> Complex[Tensor, "*batch y x"]:
    """Image to k-space along x, both with their origin at index 0: `fftc` between `to_corner` and `to_centre`."""
    return torch.fft.fft(image, norm="ortho")


def ifft_from_corner(kspace: Complex[Tensor, "*batch y x"]) -> Complex[Tensor, "*batch y x"]:
    """k-space to image along x, both with their origin at index 0."""
    return torch.fft.ifft(kspace, norm="ortho")


def to_corner(centred: Shaped[Tensor, "*batch x"]) -> Shaped[Tensor, "*batch x"]:
    """The origin of the last axis moved from the centre to index 0."""
    return torch.fft.ifftshift(centred, -1)


def to_centre(cornered: Shaped[Tensor, "*batch x"]) -> Shaped[Tensor, "*batch x"]:
    """The inverse of `to_corner`."""
    return torch.fft.fftshift(cornered, -1)
