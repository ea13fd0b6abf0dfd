"""What every image network needs around it: a scale from its inputs, and a size that it can halve."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def input_scale(inputs: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch 1 1 1"]:
    """Root mean square of all inputs of a slice together; 1 for an empty slice.

    From the inputs alone, because the target is not known for a new scan. One number a slice keeps the inputs comparable
    with each other, makes the network's answer exactly proportional to its input, and is the same in a batch of any size.
    """
    scale = inputs.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return torch.where(scale > 0, scale, 1.0)


def pad_to_multiple(images: Float[Tensor, "batch channel y x"], multiple: int) -> Float[Tensor, "batch channel h w"]:
    """Repeat the last row and column until both sizes are multiples; crop the result back with `[..., :y, :x]`."""
    height, width = images.shape[-2:]
    return functional.pad(images, (0, -width % multiple, 0, -height % multiple), mode="replicate")
