"""How much noise there is in k-space, from the k-space alone."""

import math

from jaxtyping import Bool, Complex
from torch import Tensor

from frost.mri.scale import power_of_two


def noise_share(measured: Complex[Tensor, "coil y x"], mask: Bool[Tensor, "*y x"]) -> float:
    """Norm of the noise over that of signal and noise on the measured samples, from the first and last rows.

    There is next to no signal, and the median is not moved by what there is: of complex Gaussian noise it is ln 2
    times the mean power. 0 for k-space that someone filtered or zero-padded, and where nothing was measured.
    """
    mask = mask.expand(measured.shape[-2:])
    rows = mask.any(-1).nonzero().flatten()  # where two directions are undersampled, perhaps not all
    if len(rows) == 0:
        return 0.0
    ends = mask.clone()
    n = max((int(rows[-1]) - int(rows[0]) + 1) // 16, 1)
    ends[int(rows[0]) + n : int(rows[-1]) + 1 - n] = False
    unit = power_of_two(measured[None])
    power = (measured[:, ends] / unit).abs().square().median(-1).values / math.log(2)
    total = (measured[:, mask] / unit).abs().square().sum()
    return float((int(mask.sum()) * power.sum() / total).sqrt()) if total > 0 else 0.0
