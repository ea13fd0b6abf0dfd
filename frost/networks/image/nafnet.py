"""NAFNet, a U-Net whose only nonlinearity is a product of features (Chen 2022, arXiv:2204.04676).

The usual winner of this seat in later challenges. Against RCAN it sees far, because it works at several resolutions.
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from frost.networks.image.scaling import Residual, improved, n_maps, zero
from frost.pipeline.params import Params


class NAFNetParams(Params):
    """Sizes of a NAFNet. The paper's for denoising: width 32, encoder 2 2 4 8, middle 12, decoder 2 2 2 2."""

    width: int = Field(ge=1, description="features at the first level; twice as many at each level below")
    encoder_blocks: list[int] = Field(min_length=1, description="blocks at each level on the way down")
    middle_blocks: int = Field(ge=0, description="blocks at the bottom")
    decoder_blocks: list[int] = Field(min_length=1, description="blocks at each level on the way up, the lowest first")
    unshuffle: int = Field(ge=1, le=4, description="n x n pixels become channels: n * n times less work")
    residual: Residual
    checkpointing: Literal["none", "level"] = Field(
        description="what the backward pass recomputes: nothing, or all blocks of a level"
    )

    @model_validator(mode="after")
    def _levels(self) -> "NAFNetParams":
        if len(self.encoder_blocks) != len(self.decoder_blocks):
            raise ValueError("encoder_blocks and decoder_blocks must have one number for each level")
        return self


class NAFNet(nn.Module):
    """Improves the first of its input images with the help of the others."""

    Params = NAFNetParams

    def __init__(self, params: NAFNetParams, n_inputs: int) -> None:
        super().__init__()
        self.params = params
        n_pixels = params.unshuffle**2
        widths = [params.width * 2**level for level in range(len(params.encoder_blocks))]
        self.head = nn.Conv2d(n_inputs * n_pixels, params.width, kernel_size=3, padding=1)
        self.encoders = nn.ModuleList(_blocks(n, width) for n, width in zip(params.encoder_blocks, widths))
        self.downs = nn.ModuleList(nn.Conv2d(width, 2 * width, kernel_size=2, stride=2) for width in widths)
        self.middle = _blocks(params.middle_blocks, 2 * widths[-1])
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * width, 4 * width, kernel_size=1, bias=False), nn.PixelShuffle(2))
            for width in reversed(widths)
        )
        self.decoders = nn.ModuleList(_blocks(n, width) for n, width in zip(params.decoder_blocks, reversed(widths)))
        self.tail = nn.Conv2d(params.width, n_maps(params.residual, n_inputs) * n_pixels, kernel_size=3, padding=1)
        if params.residual:
            zero(self.tail)

    def forward(self, inputs: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch y x"]:
        """The improved image. Under autocast what is added to the features is in low precision, and they are not."""
        halvings = len(self.params.encoder_blocks)
        return improved(inputs, self.layers, self.params.unshuffle, self.params.residual, halvings)

    def layers(self, images: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch pixel y x"]:
        """Down, across and up again, each level with a skip to the one that has its size."""
        features = self.head(images).to(images.dtype)
        skips = []
        for blocks, down in zip(self.encoders, self.downs):
            features = self._run(blocks, features)
            skips.append(features)
            features = down(features).to(images.dtype)
        features = self._run(self.middle, features)
        for blocks, up, skip in zip(self.decoders, self.ups, reversed(skips)):
            features = self._run(blocks, up(features) + skip)
        return self.tail(features)

    def _run(self, blocks: nn.Module, features: Tensor) -> Tensor:
        if self.params.checkpointing == "level" and torch.is_grad_enabled():
            return checkpoint(blocks, features, use_reentrant=False)
        return blocks(features)


def _blocks(n: int, width: int) -> nn.Sequential:
    return nn.Sequential(*(Block(width) for _ in range(n)))


class Block(nn.Module):
    """Two residual steps, the first between pixels and the second between features; both start at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spatial = nn.Sequential(
            ChannelNorm(width),
            nn.Conv2d(width, 2 * width, kernel_size=1),
            nn.Conv2d(2 * width, 2 * width, kernel_size=3, padding=1, groups=2 * width),
            Gate(),
            ChannelAttention(width),
            nn.Conv2d(width, width, kernel_size=1),
        )
        self.channels = nn.Sequential(
            ChannelNorm(width),
            nn.Conv2d(width, 2 * width, kernel_size=1),
            Gate(),
            nn.Conv2d(width, width, kernel_size=1),
        )
        self.share = nn.Parameter(torch.zeros(2, width, 1, 1))

    def forward(self, features: Float[Tensor, "batch feature y x"]) -> Float[Tensor, "batch feature y x"]:
        """The input, and a learned share of each step."""
        features = features + self.share[0] * self.spatial(features)
        return features + self.share[1] * self.channels(features)


class ChannelNorm(nn.Module):
    """Layer normalisation over the features of each pixel (Ba 2016, arXiv:1607.06450)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width, 1, 1))
        self.offset = nn.Parameter(torch.zeros(width, 1, 1))

    def forward(self, features: Float[Tensor, "batch feature y x"]) -> Float[Tensor, "batch feature y x"]:
        """Mean 0 and variance 1 at each pixel, then a gain and an offset for each feature."""
        variance, mean = torch.var_mean(features, dim=1, correction=0, keepdim=True)
        return (features - mean) * torch.rsqrt(variance + 1e-6) * self.gain + self.offset


class Gate(nn.Module):
    """One half of the features times the other: what this network has instead of an activation."""

    def forward(self, features: Float[Tensor, "batch twice y x"]) -> Float[Tensor, "batch feature y x"]:
        """Half as many features."""
        one, other = features.chunk(2, dim=1)
        return one * other


class ChannelAttention(nn.Module):
    """Weighs each feature map by a linear function of the means of all of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(width, width, kernel_size=1)

    def forward(self, features: Float[Tensor, "batch feature y x"]) -> Float[Tensor, "batch feature y x"]:
        """The same maps, each times a number."""
        return features * self.weigh(features.mean(dim=(-2, -1), keepdim=True))
