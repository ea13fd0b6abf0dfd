"""The lower bound of the SSIM of a new scan's slices, from images that need no target; see `frost.evaluation.bound`."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from frost.cache.pairs import input_channels
from frost.evaluation.bound import LowerBound, slice_signals
from frost.networks.common.ensemble import self_ensemble


@torch.no_grad()
def lower_bounds(
    bound: LowerBound,
    network: nn.Module,
    inputs: Sequence[str],
    images: Mapping[str, Float[np.ndarray, "slice y x"]],
    device: torch.device,
) -> Float[np.ndarray, " slice"]:
    """Of each slice, nan where RCAN's volume is empty. network: RCAN, whose images stand in `images` as `rcan`."""
    turned = []
    for i, rcan in enumerate(images["rcan"]):
        channels = torch.from_numpy(input_channels(inputs, images, i))[None].to(device)
        unchanged = torch.from_numpy(rcan)[None].to(device)
        turned.append(self_ensemble(network, channels, bound.ensemble, unchanged)[0].cpu().numpy())
    return bound.of(slice_signals(images["rcan"], {**images, "rcan_ensemble": np.stack(turned)}))
