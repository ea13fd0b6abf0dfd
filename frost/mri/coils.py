"""Coil images: their root-sum-of-squares, their sensitivities, and the centre of a frame."""

import torch
from jaxtyping import Bool, Complex, Float, Shaped
from torch import Tensor

from frost.mri.fourier import ifft2c
from frost.mri.scale import power_of_two

FAINT, BRIGHT = 1e-12, 1e17  # maxima of images between which float32 can square all that counts, and sum it over coils


def rss(coil_images: Complex[Tensor, "*batch coil y x"]) -> Float[Tensor, "*batch y x"]:
    """Root-sum-of-squares over coils, the fastMRI target definition (Roemer 1990, doi:10.1002/mrm.1910160203).

    With gradients a vector norm, not sqrt(sum(abs**2)): its gradient is 0, not nan, where all coils are empty. Without,
    the latter, which takes a twentieth of the time, over a power of two where the squares would vanish or overflow.
    """
    if coil_images.requires_grad:
        return torch.linalg.vector_norm(coil_images, dim=-3)
    image = _root_of_squares(coil_images)
    largest = image.flatten(-2).amax(-1) if image.numel() else image.new_ones(())
    if ((largest > FAINT) & (largest < BRIGHT)).all():
        return image
    unit = power_of_two(coil_images.reshape(-1, *coil_images.shape[-3:])).view(*largest.shape, 1, 1)
    return _root_of_squares(coil_images / unit.unsqueeze(-3)) * unit


def _root_of_squares(coil_images: Complex[Tensor, "*batch coil y x"]) -> Float[Tensor, "*batch y x"]:
    return torch.view_as_real(coil_images.resolve_conj()).square().sum(-4).sum(-1).sqrt()


def expand(
    image: Complex[Tensor, "*batch y x"], sens_maps: Complex[Tensor, "*batch coil y x"]
) -> Complex[Tensor, "*batch coil y x"]:
    """What every coil sees of one image: S x."""
    return image.unsqueeze(-3) * sens_maps


def combine(
    coil_images: Complex[Tensor, "*batch coil y x"], sens_maps: Complex[Tensor, "*batch coil y x"]
) -> Complex[Tensor, "*batch y x"]:
    """One image from what every coil sees, the adjoint of `expand`: S' y = sum over coils of conj(S_c) y_c."""
    return (coil_images * sens_maps.conj()).sum(dim=-3)


def over_coils(mask: Bool[Tensor, "batch *y x"]) -> Bool[Tensor, "batch 1 rows x"]:
    """Masks of columns or of samples with axes for coils and rows, so that they broadcast against k-space."""
    return mask[:, None, None] if mask.ndim == 2 else mask[:, None]


def centre_maps(
    kspace: Complex[Tensor, "batch coil y x"], acs: Bool[Tensor, "batch *y x"]
) -> Complex[Tensor, "batch coil y x"]:
    """Sensitivities from the measured centre alone: coil images of low resolution over their root-sum-of-squares.

    The centre is cut out by a Hann window, as wide as the centre lines and twice as high, so that no edge of it rings,
    and no higher than the box that was measured where the centre is one of samples.
    In air the maps are those of the noise, in which a root-sum-of-squares image has its floor. The norm over coils is 1
    in every pixel; a coil without signal has the map 0 (McKenzie 2002, doi:10.1002/mrm.10087).
    """
    height = kspace.shape[-2]
    columns = acs if acs.ndim == 2 else acs.any(-2)
    n_rows = (2 * columns.sum(-1, keepdim=True)).clamp(16, height)
    place = torch.arange(height, device=acs.device) - (height // 2 - n_rows // 2)
    rows = (place >= 0) & (place < n_rows)
    if acs.ndim == 3:
        rows = rows & acs.any(-1)
    images = ifft2c(kspace * (_hann(rows)[:, None, :, None] * _hann(columns)[:, None, None, :]))
    return images / rss(images).unsqueeze(-3).clamp_min(torch.finfo(torch.float32).tiny)


def _hann(inside: Bool[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """A Hann window on the samples that are True, which lie beside each other."""
    return torch.sin(torch.pi * inside.cumsum(-1) / (inside.sum(-1, keepdim=True) + 1)).square() * inside


def center_crop(images: Shaped[Tensor, "*batch y x"], shape: tuple[int, int]) -> Shaped[Tensor, "*batch h w"]:
    """The middle `shape` of each frame, as fastMRI cuts it, (n - size) // 2 from the start; zeros around a smaller."""
    for axis, size in zip((-2, -1), shape):
        have = images.shape[axis]
        if have >= size:
            images = images.narrow(axis, (have - size) // 2, size)
        else:
            before = (size - have) // 2
            after = size - have - before
            images = torch.nn.functional.pad(images, (0, 0, before, after) if axis == -2 else (before, after))
    return images
