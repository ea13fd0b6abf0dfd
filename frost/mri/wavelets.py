"""The orthogonal wavelet transform of images by Daubechies' filter of four taps, with periodic ends.

Daubechies 1988, doi:10.1002/cpa.3160410705. It takes one step: an image becomes four bands of half its size, the
coarse image and three of details. Further steps take the coarse band apart in the same way.
"""

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

_ROOT = math.sqrt(3.0)
_LOW = [tap / (4 * math.sqrt(2.0)) for tap in (1 + _ROOT, 3 + _ROOT, 3 - _ROOT, 1 - _ROOT)]
_HIGH = [_LOW[3], -_LOW[2], _LOW[1], -_LOW[0]]
_ANALYSIS = torch.tensor([_LOW, _HIGH], dtype=torch.float64)  # (low, high) of pair n from the samples 2n ... 2n + 3
# Sample i of pair n from (low, high) of the pairs n - 1 and n.
_SYNTHESIS = torch.tensor([[_LOW[i + 2], _HIGH[i + 2], _LOW[i], _HIGH[i]] for i in (0, 1)], dtype=torch.float64)


def analyse(image: Complex[Tensor, "y x"]) -> Complex[Tensor, "4 half_y half_x"]:
    """The bands coarse, and details along x, along y and along both. y and x must be even."""
    height, width = image.shape
    rows = _filtered(image, _ANALYSIS, after=True)  # pair, band, x
    columns = _filtered(rows.reshape(height, width).T.contiguous(), _ANALYSIS, after=True)
    return columns.view(width // 2, 2, height // 2, 2).permute(3, 1, 2, 0).flatten(0, 1)


def synthesise(bands: Complex[Tensor, "4 half_y half_x"]) -> Complex[Tensor, "y x"]:
    """The image of these bands: the inverse of `analyse`, and its adjoint."""
    _, height, width = bands.shape
    columns = bands.unflatten(0, (2, 2)).permute(3, 1, 2, 0).reshape(2 * width, 2 * height)
    rows = _filtered(columns, _SYNTHESIS, after=False).reshape(2 * width, 2 * height)
    return _filtered(rows.T.contiguous(), _SYNTHESIS, after=False).reshape(2 * height, 2 * width)


def shrink(image: Complex[Tensor, "y x"], threshold: float, levels: int) -> Complex[Tensor, "y x"]:
    """Every detail of `levels` steps made smaller by `threshold`, 0 where it is below: the prox of the 1-norm."""
    if levels == 0:
        return image
    bands = analyse(image)
    coarse = shrink(bands[0], threshold, levels - 1)
    magnitude = bands[1:].abs().clamp_min(threshold)
    details = bands[1:] * (1 - threshold / magnitude) if threshold > 0 else bands[1:]
    return synthesise(torch.cat([coarse[None], details]))


def _filtered(rows: Complex[Tensor, "y x"], taps: Float[Tensor, "2 4"], after: bool) -> Complex[Tensor, "pair 2 x"]:
    """Two outputs for each pair of rows, from it and from the pair after or before it, periodically."""
    ends = [rows, rows[:2]] if after else [rows[-2:], rows]
    real = torch.view_as_real(torch.cat(ends)).flatten(1)
    windows = real.as_strided((len(rows) // 2, 4, real.shape[1]), (2 * real.shape[1], real.shape[1], 1))
    return torch.view_as_complex((taps.to(real) @ windows).unflatten(2, (-1, 2)))
