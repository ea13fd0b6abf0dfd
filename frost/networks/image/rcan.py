"""RCAN, residual channel attention network (Zhang 2018, doi:10.1007/978-3-030-01234-2_18), for images of one size.

The form is that of the 2022 challenge entry: bottleneck blocks (He 2016, doi:10.1109/CVPR.2016.90), residual scaling
(Lim 2017, doi:10.1109/CVPRW.2017.151), ReLU in place, and activations that the backward pass computes again (Chen 2016,
arXiv:1604.06174); where to place those checkpoints is in docs/memory.md.
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from frost.networks.image.scaling import Residual, improved, n_maps, zero
from frost.pipeline.params import Params


class RCANParams(Params):
    """Sizes of an RCAN. The 2022 entry: 160 features, 4 groups of 25 bottleneck blocks, unshuffle 1, direct output."""

    features: int = Field(ge=1)
    groups: int = Field(ge=1, description="residual groups; the unit of `checkpointing: group`")
    blocks: int = Field(ge=1, description="residual blocks in each group")
    block: Literal["plain", "bottleneck"] = Field(description="two 3x3 convolutions, or 1x1, 3x3, 1x1 at a quarter")
    reduction: int | None = Field(ge=1, description="features over the width of channel attention; null: none")
    residual_scaling: float = Field(gt=0, le=1, description="share of a block's output that is added; 2022: 0.125")
    unshuffle: int = Field(ge=1, le=4, description="n x n pixels become channels: n * n times less work")
    residual: Residual
    checkpointing: Literal["none", "group", "segment", "nested"] = Field(
        description="what the backward pass recomputes: nothing, groups, parts of groups, or parts within groups"
    )
    segments: int = Field(ge=1, description="parts of a group with `checkpointing: segment` or `nested`")


class RCAN(nn.Module):
    """Improves the first of its input images with the help of the others."""

    Params = RCANParams

    def __init__(self, params: RCANParams, n_inputs: int) -> None:
        super().__init__()
        self.params = params
        n_pixels = params.unshuffle**2
        self.head = nn.Conv2d(n_inputs * n_pixels, params.features, kernel_size=3, padding=1)
        self.groups = nn.ModuleList(ResidualGroup(params) for _ in range(params.groups))
        self.tail = nn.Conv2d(params.features, n_maps(params.residual, n_inputs) * n_pixels, kernel_size=3, padding=1)
        if params.residual:
            zero(self.tail)

    def forward(self, inputs: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch y x"]:
        """The improved image. Under autocast what is added to the features is in low precision, and they are not."""
        return improved(inputs, self.layers, self.params.unshuffle, self.params.residual)

    def layers(self, images: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch pixel y x"]:
        """From images to the maps that `improved` makes an image of."""
        return self.tail(self.trunk(self.head(images).to(images.dtype)))

    def trunk(self, head: Float[Tensor, "batch feature y x"]) -> Float[Tensor, "batch feature y x"]:
        """All residual groups, and the skip around them."""
        features = head
        for group in self.groups:
            if self.params.checkpointing in ("group", "nested") and torch.is_grad_enabled():
                features = checkpoint(group, features, use_reentrant=False)
            else:
                features = group(features)
        return head + features


class ResidualGroup(nn.Module):
    """Residual blocks and a convolution, with a skip around both."""

    def __init__(self, params: RCANParams) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualBlock(params) for _ in range(params.blocks)))
        self.tail = nn.Conv2d(params.features, params.features, kernel_size=3, padding=1)
        in_parts = params.checkpointing in ("segment", "nested")
        self.segment = -(-params.blocks // params.segments) if in_parts else None

    def forward(self, features: Float[Tensor, "batch feature y x"]) -> Float[Tensor, "batch feature y x"]:
        """Where checkpoints are nested this runs segment by segment three times: the second for the group alone."""
        inner = features
        if self.segment is not None and torch.is_grad_enabled():
            for start in range(0, len(self.blocks), self.segment):
                inner = checkpoint(self.blocks[start : start + self.segment], inner, use_reentrant=False)
        else:
            inner = self.blocks(inner)
        return features + self.tail(inner)


class ResidualBlock(nn.Module):
    """Convolutions and channel attention, scaled and added to the input."""

    def __init__(self, params: RCANParams) -> None:
        super().__init__()
        n, narrow = params.features, max(1, params.features // 4)
        if params.block == "bottleneck":
            self.body = nn.Sequential(
                nn.Conv2d(n, narrow, kernel_size=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(narrow, narrow, kernel_size=3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(narrow, n, kernel_size=1),
            )
        else:
            self.body = nn.Sequential(
                nn.Conv2d(n, n, kernel_size=3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(n, n, kernel_size=3, padding=1),
            )
        self.attention = ChannelAttention(n, params.reduction) if params.reduction else nn.Identity()
        self.scaling = params.residual_scaling

    def forward(self, features: Float[Tensor, "batch feature y x"]) -> Float[Tensor, "batch feature y x"]:
        """The input and a share of what the block makes of it."""
        return features + self.scaling * self.attention(self.body(features))


class ChannelAttention(nn.Module):
    """Weighs each feature map by a function of the means of all of them (Hu 2018, doi:10.1109/CVPR.2018.00745)."""

    def __init__(self, features: int, reduction: int) -> None:
        super().__init__()
        narrow = max(1, features // reduction)
        self.weigh = nn.Sequential(
            nn.Conv2d(features, narrow, kernel_size=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, features, kernel_size=1),
            nn.Sigmoid(),
        )

    def forward(self, features: Float[Tensor, "batch feature y x"]) -> Float[Tensor, "batch feature y x"]:
        """The same maps, each times a number between 0 and 1."""
        return features * self.weigh(features.mean(dim=(-2, -1), keepdim=True))
