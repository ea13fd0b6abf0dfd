"""How much noise there is in k-space, from the k-space alone."""

import math

import torch
from jaxtyping import Bool, Complex
from torch import Tensor

from frost.mri.scale import power_of_two


def noise_share(measured: Complex[Tensor, "coil y x"], mask: Bool[Tensor, " x"]) -> float:
    """Norm of the noise over that of signal and noise on the measured lines, from the ends of the readout.

    There is next to no signal, and the median is not moved by what there is: of complex Gaussian noise it is ln 2
    times the mean power. 0 for k-space that someone filtered or zero-padded, and where nothing was measured.
    """
    rows = max(measured.shape[-2] // 16, 1)
    lines = measured[..., mask] / power_of_two(measured[None])
    ends = torch.cat([lines[..., :rows, :], lines[..., -rows:, :]], -2)
    power = ends.abs().square().flatten(1).median(-1).values / math.log(2)
    total = lines.abs().square().sum()
    return float((lines[0].numel() * power.sum() / total).sqrt()) if total > 0 else 0.0
