"""A scale for each image under which float32 can square its values."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


@torch.no_grad()
def power_of_two(images: Shaped[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """The largest power of two that the largest value of each image reaches, real and complex; 1 for an empty image.

    An image over it has the same digits, and squares that neither vanish nor overflow, as those of float32 do below
    1e-19 and above 1e19. So what is left of a slice that was almost emptied is no brighter than it was.
    """
    parts = torch.view_as_real(images.resolve_conj()) if images.is_complex() else images
    largest = parts.flatten(1).abs().amax(1)  # a fifth of the time of `vector_norm`
    mantissa, _ = torch.frexp(largest)  # from 1/2 to 1
    return torch.where(largest > 0, largest / (2 * mantissa), 1.0)
