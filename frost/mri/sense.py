"""SENSE with a wavelet prior: the image that agrees with what all coils measured and has few wavelet coefficients.

    minimise over x   1/2 ||M F S x - y||^2 + strength * scale * ||W x||_1

M the mask, F the Fourier transform, S the coil maps, W an orthogonal wavelet transform (Lustig 2007,
doi:10.1002/mrm.21391; Pruessmann 1999, doi:10.1002/(SICI)1522-2594(199911)42:5<952::AID-MRM16>3.0.CO;2-S), by FISTA
(Beck 2009, doi:10.1137/080716542). The image is moved before each shrinkage, every time by another number of pixels, so
that the grid of the wavelets leaves no pattern (cycle spinning; Figueiredo 2003, doi:10.1109/TIP.2003.814255).
"""

import math

import torch
from jaxtyping import Bool, Complex, Float
from pydantic import Field
from torch import Tensor

from frost.mri.coils import combine, expand, rss
from frost.mri.espirit import EspiritParams, espirit_maps
from frost.mri.fourier import fft2c, fft_from_corner, ifft2c, ifft_from_corner, to_corner
from frost.mri.sampling import Centre
from frost.mri.scale import power_of_two
from frost.mri.wavelets import shrink
from frost.pipeline.params import Params


class SenseParams(Params):
    """How strong the prior is, and how long the search for the minimum."""

    strength: float = Field(ge=0)  # of the prior, relative to the scale of the image
    iterations: int = Field(ge=1)
    levels: int = Field(ge=1, le=8)  # of the wavelet transform


class SenseImageParams(SenseParams):
    """All that the image of a scan depends on."""

    maps: EspiritParams


def sense_image(
    kspace: Complex[Tensor, "coil y x"],
    mask: Bool[Tensor, "*y x"],
    acs: Centre,
    params: SenseImageParams,
    start: Complex[Tensor, "coil y x"] | None = None,
) -> Float[Tensor, "y x"]:
    """The root-sum-of-squares of what the coils see of `sense`'s image, by maps from the measured centre `acs`.

    start: coil images that the search begins with, such as GRAPPA's; by default those of the zero-filled k-space.
    """
    unit = power_of_two(torch.where(mask, kspace, 0)[None])  # maps and steps need squares
    kspace = kspace / unit
    sens_maps = espirit_maps(torch.where(mask, kspace, 0), acs, params.maps)
    first = None if start is None else combine(start / unit, sens_maps)
    return rss(expand(sense(kspace, mask, sens_maps, params, first), sens_maps)) * unit


def sense(
    kspace: Complex[Tensor, "coil y x"],
    mask: Bool[Tensor, "*y x"],
    sens_maps: Complex[Tensor, "coil y x"],
    params: SenseParams,
    start: Complex[Tensor, "y x"] | None = None,
) -> Complex[Tensor, "y x"]:
    """The image x of the equation above, in the scale of `kspace`.

    kspace: what it holds where `mask` is False is ignored. mask: of columns, (x), or of samples, (y, x). sens_maps: of
    norm 1 over coils, or 0; else the steps would be too long. start: where the search begins, by default at S' F' y.
    As iterations are few, a better start, such as GRAPPA's image, gives a better end.
    """
    coil_images = ifft2c(torch.where(mask, kspace, 0))
    back = combine(coil_images, sens_maps)
    threshold = params.strength * bright(coil_images)
    image = moving = back if start is None else start
    step = 1.0
    for shift in _shifts(params.iterations, 2**params.levels):
        gradient = sampled(moving, mask, sens_maps) - back
        new = _shrunk(moving - gradient, threshold, shift, params.levels)
        next_step = (1 + math.sqrt(1 + 4 * step**2)) / 2
        moving = new + (step - 1) / next_step * (new - image)
        image, step = new, next_step
    return image


def bright(coil_images: Complex[Tensor, "coil y x"]) -> float:
    """The scale of an image: what only one pixel in a hundred exceeds."""
    return float(rss(coil_images).flatten().sort().values[-1 - coil_images[0].numel() // 100])


def sampled(
    image: Complex[Tensor, "y x"], mask: Bool[Tensor, "*y x"], sens_maps: Complex[Tensor, "coil y x"]
) -> Complex[Tensor, "y x"]:
    """S' F' M F S x: what is left of an image that is measured and put together again.

    Where whole columns are measured the transform along y cancels.
    """
    coil_images = expand(image, sens_maps)
    if mask.ndim == 1:  # a convolution, which does not care where the origin of the image lies
        return combine(ifft_from_corner(fft_from_corner(coil_images) * to_corner(mask)), sens_maps)
    return combine(ifft2c(fft2c(coil_images) * mask), sens_maps)


def _shrunk(image: Tensor, threshold: float, shift: tuple[int, int], levels: int) -> Tensor:
    """`shrink` of the moved image, with zeros around it where its size is no multiple of 2^levels."""
    height, width = image.shape
    block = 2**levels
    padded = torch.nn.functional.pad(image, (0, -width % block, 0, -height % block))
    back = (-shift[0], -shift[1])
    return shrink(padded.roll(shift, (0, 1)), threshold, levels).roll(back, (0, 1))[:height, :width]


def _shifts(n: int, block: int) -> list[tuple[int, int]]:
    """How far the image moves before each shrinkage; the same in every run."""
    drawn = torch.randint(block, (n, 2), generator=torch.Generator().manual_seed(0))
    return [(int(y), int(x)) for y, x in drawn]
