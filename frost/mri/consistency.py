"""An image and the k-space that was measured: how far apart they are, and the nearest image that agrees.

RCAN makes a magnitude; k-space needs coil images with phase. So its magnitude scales those of VarNet, pixel by pixel,
unchanged outside the crop: c' = c * rcan / rss(c). All that follows therefore depends on VarNet's phase and coil
weighting.
"""

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn

from frost.errors import InputError
from frost.mri.coils import center_crop, rss
from frost.mri.fourier import fft2c, ifft2c
from frost.mri.scale import power_of_two


def varnet_coil_images(
    varnet: nn.Module,
    device: torch.device,
    measured: Complex[Tensor, "coil y x"],
    mask: Bool[Tensor, "*y x"],
    acs: Bool[Tensor, "*y x"],
) -> Complex[Tensor, "coil y x"]:
    """What VarNet says that every coil sees, on the whole frame."""
    if not hasattr(varnet, "coil_images"):
        raise InputError("the first network gives no coil images, which data consistency needs; `varnet` does")
    coil_images = varnet.coil_images(*(part[None].to(device) for part in (measured, mask, acs)))  # type: ignore[operator]
    return coil_images[0].cpu()


def scale_coil_images(
    coil_images: Complex[Tensor, "coil y x"], magnitude: Float[Tensor, "h w"]
) -> Complex[Tensor, "coil y x"]:
    """The coil images whose root-sum-of-squares is `magnitude` inside its crop, and what it was outside.

    Where they are empty there is no phase to give, so they stay empty.
    """
    old = rss(coil_images)
    new = old.clone()
    (height, width), (h, w) = old.shape, magnitude.shape
    top, left = max(height - h, 0) // 2, max(width - w, 0) // 2
    inside = center_crop(magnitude, (min(height, h), min(width, w))).clamp_min(0)
    new[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return coil_images * torch.where(old > 0, new / old, 0)


def residual(
    coil_images: Complex[Tensor, "coil y x"], measured: Complex[Tensor, "coil y x"], mask: Bool[Tensor, "*y x"]
) -> float:
    """||M(F c) - y|| / ||y||; 0, and not 0 / 0, for empty images of an empty slice."""
    unit = power_of_two(measured[None])
    difference = torch.linalg.vector_norm((fft2c(coil_images) * mask - measured) / unit)
    return float(difference / torch.linalg.vector_norm(measured / unit)) if difference != 0 else 0.0


def residual_image(
    coil_images: Complex[Tensor, "coil y x"], measured: Complex[Tensor, "coil y x"], mask: Bool[Tensor, "*y x"]
) -> Float[Tensor, "y x"]:
    """Where in the image the residual lies: root-sum-of-squares of the inverse transform of M(F c) - y.

    Undersampling spreads what is wrong in one place over its aliases, as in a zero-filled image.
    """
    return rss(ifft2c(fft2c(coil_images) * mask - measured))


def project(
    coil_images: Complex[Tensor, "coil y x"], measured: Complex[Tensor, "coil y x"], mask: Bool[Tensor, "*y x"]
) -> Complex[Tensor, "coil y x"]:
    """The nearest coil images whose k-space is the measured one where something was measured."""
    return ifft2c(torch.where(mask, measured, fft2c(coil_images)))


def consistent_image(
    magnitude: Float[Tensor, "h w"],
    coil_images: Complex[Tensor, "coil y x"],
    measured: Complex[Tensor, "coil y x"],
    mask: Bool[Tensor, "*y x"],
) -> Float[Tensor, "y x"]:
    """The full-frame image after the measured samples were put back into what `magnitude` says of k-space."""
    return rss(project(scale_coil_images(coil_images, magnitude), measured, mask))
