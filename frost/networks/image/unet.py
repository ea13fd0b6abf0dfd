"""The U-Net of fastMRI on images: the baseline that every comparison wants (Zbontar 2018, arXiv:1811.08839)."""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from frost.networks.common.unet import Unet
from frost.networks.image.scaling import Residual, improved, n_maps, zero
from frost.pipeline.params import Params


class UNetParams(Params):
    """Sizes of a U-Net. fastMRI's baseline: 256 channels, 4 pools, unshuffle 1, on the zero-filled image alone."""

    channels: int = Field(ge=1, description="features of the first level; twice as many after each pooling")
    pools: int = Field(ge=1, le=6, description="poolings")
    unshuffle: int = Field(ge=1, le=4, description="n x n pixels become channels: n * n times less work")
    residual: Residual


class UNet(nn.Module):
    """Improves the first of its input images with the help of the others."""

    Params = UNetParams

    def __init__(self, params: UNetParams, n_inputs: int) -> None:
        super().__init__()
        self.params = params
        n_pixels = params.unshuffle**2
        n_outputs = n_maps(params.residual, n_inputs) * n_pixels
        self.unet = Unet(n_inputs * n_pixels, n_outputs, params.channels, params.pools)
        if params.residual:
            last: nn.Conv2d = self.unet.up_conv[-1][1]  # type: ignore[index]  # the 1x1 convolution
            zero(last)

    def forward(self, inputs: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch y x"]:
        """The improved image. Under autocast the convolutions alone run in low precision."""
        return improved(inputs, self.layers, self.params.unshuffle, self.params.residual, self.params.pools)

    def layers(self, images: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch pixel y x"]:
        """From images to the maps that `improved` makes an image of."""
        features: Tensor = self.unet(images)
        return features
