"""What every image network needs around it: a scale from its inputs, a start for its output, a size it can halve."""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from frost.mri.scale import power_of_two

Residual = Annotated[
    bool | Literal["blend"],
    Field(description="added to the output: the first input, or `blend`, a mean of all with weights at each pixel"),
]


def n_maps(residual: bool | Literal["blend"], n_inputs: int) -> int:
    """Maps that `layers` of `improved` end in: what is added, and with `blend` a weight for each input."""
    return 1 + n_inputs if residual == "blend" else 1


def improved(
    inputs: Float[Tensor, "batch channel y x"],
    layers: Callable[[Tensor], Tensor],
    unshuffle: int,
    residual: bool | Literal["blend"],
    halvings: int = 0,
) -> Float[Tensor, "batch y x"]:
    """What `layers` make of the inputs, in the scale and size of these.

    Added to the first input where `residual`; with `blend` to a weighted mean of all inputs, whose weights `layers`
    give at each pixel. Where the first is a bad image of a scan, as of a kind that stage 1 was not trained on, the
    weights turn to the others. Zeros where the first is zeros, whatever the others hold: nothing was measured there.

    layers:    features (batch, channel * unshuffle**2, h, w) to (batch, n_maps * unshuffle**2, h, w), values about 1
    unshuffle: n x n pixels become channels, n * n times less work
    halvings:  how often `layers` halve the size of what they get
    """
    height, width = inputs.shape[-2:]
    scale = input_scale(inputs)
    images = inputs / torch.where(scale > 0, scale, 1.0)
    padded = pad_to_multiple(images, unshuffle * 2**halvings)
    features = layers(functional.pixel_unshuffle(padded, unshuffle))
    maps = functional.pixel_shuffle(features.to(images.dtype), unshuffle)[..., :height, :width]
    output = maps[:, :1]
    if residual == "blend":
        output = output + (maps[:, 1:].softmax(dim=1) * images).sum(dim=1, keepdim=True)
    elif residual:
        output = output + images[:, :1]
    measured = inputs[:, :1].any(dim=(-2, -1), keepdim=True)
    return torch.where(measured, output * scale, 0)[:, 0]


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with zeros as its weights: a residual network then starts as the identity, which it need not learn."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def input_scale(inputs: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch 1 1 1"]:
    """Root mean square of all inputs of a slice together; 0 for an empty slice.

    From the inputs alone, because the target is not known for a new scan. One number a slice keeps the inputs
    comparable with each other, makes the network's answer exactly proportional to its input, and is the same in a
    batch of any size.
    """
    unit = power_of_two(inputs)[:, None, None, None]
    return (inputs / unit).square().mean(dim=(1, 2, 3), keepdim=True).sqrt() * unit


def pad_to_multiple(images: Float[Tensor, "batch channel y x"], multiple: int) -> Float[Tensor, "batch channel h w"]:
    """Repeat the last row and column until both sizes are multiples; crop the result back with `[..., :y, :x]`."""
    height, width = images.shape[-2:]
    return functional.pad(images, (0, -width % multiple, 0, -height % multiple), mode="replicate")
