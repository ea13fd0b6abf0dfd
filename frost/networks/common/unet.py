"""The U-Net of fastMRI, and the same one for complex images of any scale.

The names of modules and their places in each Sequential are those of the public fastMRI weights, which load strictly:
do not rename them. Reference: Ronneberger 2015, doi:10.1007/978-3-319-24574-4_28; Zbontar 2018, arXiv:1811.08839.
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional


class InstanceNorm(nn.Module):
    """Every channel of every image to mean 0 and variance 1 (Ulyanov 2016, arXiv:1607.08022).

    Without gradients on a CPU it works in place and in any memory layout. Convolutions there are two to four times as
    fast in channels-last as in the usual layout, but torch's own function would change the layout back.
    """

    def forward(self, image: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch channel y x"]:
        """The same shape; nobody else may need `image`."""
        if torch.is_grad_enabled() or image.device.type != "cpu" or image.dtype == torch.bfloat16:
            return functional.instance_norm(image)
        image -= image.mean((-2, -1), keepdim=True)
        variance = image.square().mean((-2, -1), keepdim=True)
        return image.mul_((variance + 1e-5).rsqrt())


class ConvBlock(nn.Module):
    """Two 3x3 convolutions, each with instance normalisation and leaky ReLU; the convolutions stand at 0 and 4."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_from in (n_in, n_out):
            # Identity stands where fastMRI has its dropout, which is 0 in all public weights: it keeps the numbering.
            layers += [
                nn.Conv2d(n_from, n_out, kernel_size=3, padding=1, bias=False),
                InstanceNorm(),
                nn.LeakyReLU(negative_slope=0.2, inplace=True),
                nn.Identity(),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch out y x"]:
        """The same size, `n_out` channels."""
        return self.layers(image)


class TransposeConvBlock(nn.Module):
    """Twice the size by a 2x2 transposed convolution, with instance normalisation and leaky ReLU."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(n_in, n_out, kernel_size=2, stride=2, bias=False),
            InstanceNorm(),
            nn.LeakyReLU(negative_slope=0.2, inplace=True),
        )

    def forward(self, image: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch out h w"]:
        """Twice the size, `n_out` channels."""
        return self.layers(image)


class Unet(nn.Module):
    """Real channels in, real channels out, the same size.

    `channels` after the first block, twice as many after each of the `pools` poolings.
    """

    def __init__(self, n_in: int, n_out: int, channels: int, pools: int) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(pools + 1)]
        self.down_sample_layers = nn.ModuleList(
            ConvBlock(n_from, n_to) for n_from, n_to in zip([n_in, *widths], widths[:-1])
        )
        self.conv = ConvBlock(widths[-2] if pools else n_in, widths[-1])
        upward = list(zip(widths[::-1], widths[-2::-1]))
        self.up_transpose_conv = nn.ModuleList(TransposeConvBlock(n_from, n_to) for n_from, n_to in upward)
        self.up_conv = nn.ModuleList(ConvBlock(n_from, n_to) for n_from, n_to in upward)
        self.up_conv[-1] = nn.Sequential(self.up_conv[-1], nn.Conv2d(channels, n_out, kernel_size=1))

    def forward(self, image: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch out y x"]:
        """One step down and one step up per pooling, joined at every size."""
        skipped = []
        for block in self.down_sample_layers:
            image = block(image)
            skipped.append(image)
            image = functional.avg_pool2d(image, kernel_size=2)
        image = self.conv(image)
        for transpose, join in zip(self.up_transpose_conv, self.up_conv):
            fine = skipped.pop()
            image = transpose(image)
            missing = (fine.shape[-1] - image.shape[-1], fine.shape[-2] - image.shape[-2])
            if any(missing):  # an odd size lost its last line in the pooling
                image = functional.pad(image, (0, missing[0], 0, missing[1]), mode="reflect")
            image = join(torch.cat([image, fine], dim=1))
        return image


class NormUnet(nn.Module):
    """A U-Net for one complex image of any scale: real and imaginary part are its two channels.

    Each part is brought to mean 0 and standard deviation 1, padded to a multiple of 16, and brought back after. So a
    constant part, with deviation 0, comes back as it was: an empty coil stays empty. With `unshuffle` n the U-Net works
    on n x n pixels as channels, at 1/n of the size: n * n times less work a feature map. Under autocast only the U-Net
    runs in low precision.
    """

    def __init__(self, channels: int, pools: int, unshuffle: int = 1) -> None:
        super().__init__()
        self.unshuffle = unshuffle
        self.multiple = max(16, unshuffle * 2**pools)
        self.unet = Unet(2 * unshuffle**2, 2 * unshuffle**2, channels, pools)

    def forward(self, image: Complex[Tensor, "batch y x"]) -> Complex[Tensor, "batch y x"]:
        """The image that the U-Net makes of it, in the scale of the input."""
        # The two channels beside each other: that is how complex numbers lie in memory.
        parts = torch.view_as_real(image).permute(0, 3, 1, 2)
        mean = parts.mean(dim=(-2, -1), keepdim=True)
        std = parts.std(dim=(-2, -1), keepdim=True)
        normal = (parts - mean) / torch.where(std > 0, std, 1.0)  # zeros, and not 0 / 0, for a constant part
        height, width = parts.shape[-2:]
        extra = (-height % self.multiple, -width % self.multiple)
        top, left = extra[0] // 2, extra[1] // 2
        padded = functional.pad(normal, (left, extra[1] - left, top, extra[0] - top))
        if self.unshuffle == 1:
            padded = self.unet(padded).to(std.dtype)
        else:
            shuffled = functional.pixel_unshuffle(padded, self.unshuffle)
            padded = functional.pixel_shuffle(self.unet(shuffled).to(std.dtype), self.unshuffle)
        parts = padded[..., top : top + height, left : left + width] * std + mean
        return torch.view_as_complex(parts.permute(0, 2, 3, 1).contiguous())
