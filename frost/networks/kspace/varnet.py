"""The end-to-end variational network (Sriram 2020, doi:10.1007/978-3-030-59713-9_7, arXiv:2004.06688)."""

from typing import Literal

import torch
from jaxtyping import Bool, Complex, Float
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from frost.mri.coils import center_crop, centre_maps, combine, expand, over_coils, rss
from frost.mri.fourier import fft2c, fft_from_corner, fftc, ifft2c, ifft_from_corner, ifftc, to_centre, to_corner
from frost.mri.scale import power_of_two
from frost.networks.common.unet import NormUnet
from frost.pipeline.params import Params

READOUT = -2  # y, which is undersampled in masks of samples only


class VarNetParams(Params):
    """Sizes of a VarNet. With `unshuffle: 1` and `sens_size: null` it has fastMRI's form, and loads its weights."""

    cascades: int = Field(ge=1, description="unrolled steps of gradient descent; the public networks have 12")
    channels: int = Field(ge=1, description="features of each cascade's U-Net at full size; public: 18")
    pools: int = Field(ge=1, le=6, description="poolings of each cascade's U-Net; public: 4")
    unshuffle: int = Field(ge=1, le=4, description="the U-Nets see n x n pixels as channels; public: 1")
    sens_maps: Literal["network", "centre"] = Field(
        default="network",  # what networks of before had, whose config does not name it
        description="coil sensitivities by a network, or smoothed from the centre lines of the scan itself",
    )
    sens_channels: int = Field(ge=1, description="features of the sensitivity network; public: 8")
    sens_pools: int = Field(ge=1, le=6, description="poolings of the sensitivity network; public: 4")
    sens_size: int | None = Field(ge=8, description="side of the central k-space it sees; null: all, as public")
    coils_at_once: int | None = Field(ge=1, description="coils per pass of the sensitivity network; null: all")
    checkpointing: bool = Field(description="recompute each cascade in the backward pass: less memory, more time")


class VarNet(nn.Module):
    """Masked k-space of all coils in, root-sum-of-squares image out.

    The names `sens_net`, `cascades`, `norm_unet`, `model`, `unet`, `dc_weight` are those of the public weights.

    The transforms along the readout y commute with everything that a cascade does in k-space, because a mask of columns
    does not depend on y. So k-space is brought to the image domain along y once, and every cascade transforms along x
    alone. A mask of samples does depend on y, and is applied in k-space of both directions. All that has coils keeps
    the origin of x at index 0, where transforms need no shift; only the image that the U-Net sees is centred.
    """

    Params: type[VarNetParams] = VarNetParams

    def __init__(self, params: VarNetParams) -> None:
        super().__init__()
        self.params = params
        self.sens_net = SensitivityNetwork(params) if params.sens_maps == "network" else CentreMaps()
        self.cascades = nn.ModuleList(Cascade(params) for _ in range(params.cascades))

    def forward(
        self,
        masked_kspace: Complex[Tensor, "batch coil y x"],
        mask: Bool[Tensor, "batch *y x"],
        acs: Bool[Tensor, "batch *y x"],
    ) -> Float[Tensor, "batch y x"]:
        """The magnitude image, uncropped, in the scale of the k-space."""
        unit = power_of_two(masked_kspace)[:, None, None, None]
        return rss(self.unrolled(masked_kspace / unit, mask, acs)) * unit[:, 0]

    def coil_images(
        self,
        masked_kspace: Complex[Tensor, "batch coil y x"],
        mask: Bool[Tensor, "batch *y x"],
        acs: Bool[Tensor, "batch *y x"],
    ) -> Complex[Tensor, "batch coil y x"]:
        """What the network says that every coil sees, phase included."""
        unit = power_of_two(masked_kspace)[:, None, None, None]
        return self.unrolled(masked_kspace / unit, mask, acs) * unit

    def unrolled(
        self,
        masked_kspace: Complex[Tensor, "batch coil y x"],
        mask: Bool[Tensor, "batch *y x"],
        acs: Bool[Tensor, "batch *y x"],
    ) -> Complex[Tensor, "batch coil y x"]:
        """The coil images for k-space whose largest value is about 1: one cascade after the other."""
        sens_maps = to_corner(self.sens_net(masked_kspace, acs))
        measured = to_corner(ifftc(masked_kspace, (READOUT,)))
        start = self.start(masked_kspace, mask, acs)
        hybrid = measured if start is None else to_corner(ifftc(start, (READOUT,)))  # (y image, x k-space)
        mask = to_corner(mask)
        for cascade in self.cascades:
            if self.params.checkpointing and torch.is_grad_enabled():
                hybrid = checkpoint(cascade, hybrid, measured, mask, sens_maps, use_reentrant=False)
            else:
                hybrid = cascade(hybrid, measured, mask, sens_maps)
        return to_centre(ifft_from_corner(hybrid))

    def start(
        self,
        masked_kspace: Complex[Tensor, "batch coil y x"],
        mask: Bool[Tensor, "batch *y x"],
        acs: Bool[Tensor, "batch *y x"],
    ) -> Complex[Tensor, "batch coil y x"] | None:
        """The k-space that the first cascade gets; None: what was measured, zeros where nothing was."""
        return None


class Cascade(nn.Module):
    """One step of gradient descent: k - w M (k - k_measured) - F S G(S' F' k), with a learned w and regulariser G."""

    def __init__(self, params: VarNetParams) -> None:
        super().__init__()
        self.model = NormUnet(params.channels, params.pools, params.unshuffle)
        self.dc_weight = nn.Parameter(torch.ones(1))

    def forward(
        self,
        hybrid: Complex[Tensor, "batch coil y x"],
        measured: Complex[Tensor, "batch coil y x"],
        mask: Bool[Tensor, "batch *y x"],
        sens_maps: Complex[Tensor, "batch coil y x"],
    ) -> Complex[Tensor, "batch coil y x"]:
        """The next k-space, in the image domain along y as the given one is; origins of x at index 0."""
        image = to_centre(combine(ifft_from_corner(hybrid), sens_maps))
        correction = fft_from_corner(expand(to_corner(self.model(image)), sens_maps))
        weight = (self.dc_weight * over_coils(mask)).to(hybrid.dtype)
        if mask.ndim == 2:
            return hybrid.lerp(measured, weight) - correction  # k - w M (k - k_measured) - ...
        return hybrid + ifftc(weight * fftc(measured - hybrid, (READOUT,)), (READOUT,)) - correction


class CentreMaps(nn.Module):
    """Coil sensitivities without anything learned: they fit whatever coils the scan had."""

    def forward(
        self, masked_kspace: Complex[Tensor, "batch coil y x"], acs: Bool[Tensor, "batch *y x"]
    ) -> Complex[Tensor, "batch coil y x"]:
        """The maps, at the size of the k-space."""
        return centre_maps(masked_kspace, acs)


class SensitivityNetwork(nn.Module):
    """Coil sensitivities from the fully sampled centre lines; the sum of their squares is 1 at every pixel."""

    def __init__(self, params: VarNetParams) -> None:
        super().__init__()
        self.size = params.sens_size
        self.coils_at_once = params.coils_at_once
        self.norm_unet = NormUnet(params.sens_channels, params.sens_pools)

    def forward(
        self, masked_kspace: Complex[Tensor, "batch coil y x"], acs: Bool[Tensor, "batch *y x"]
    ) -> Complex[Tensor, "batch coil y x"]:
        """The maps, at the size of the k-space."""
        shape = masked_kspace.shape[-2:]
        calibration = masked_kspace * over_coils(acs)
        if self.size is not None:  # sensitivities are smooth: the centre of k-space holds them
            calibration = center_crop(calibration, (min(self.size, shape[0]), min(self.size, shape[1])))
        images = ifft2c(calibration).flatten(0, 1)
        # Frozen on a CPU, one coil fits its cache: less time, and an eighth of the memory of eight coils at once.
        one_by_one = images.device.type == "cpu" and not torch.is_grad_enabled()
        at_once = self.coils_at_once or (1 if one_by_one else len(images))
        maps = torch.cat([self.norm_unet(some) for some in images.split(at_once)])
        maps = maps.unflatten(0, masked_kspace.shape[:2])
        if maps.shape[-2:] != shape:
            maps = ifft2c(center_crop(fft2c(maps), (shape[0], shape[1])))
        return maps / rss(maps).unsqueeze(-3).clamp_min(torch.finfo(torch.float32).tiny)
