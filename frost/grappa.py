"""GRAPPA: missing columns of k-space as linear combinations of measured neighbours, over all coils.

Griswold 2002, doi:10.1002/mrm.10171. A sample that was not measured, of coil c at row y and column x, is

    k[c, y, x] = sum over lines d, points p, coils b of  w[d, p, b, c] * k[b, y + p, x + d]

where the lines d reach from x to measured columns and the points p run along the fully sampled readout. The
weights depend on the coils and on the lines alone, so they are fitted on the centre, where both sides of the
equation are known. Columns that see the same lines share their weights.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Complex, Int
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn.functional import pad

from frost.errors import InputError
from frost.params import Params

GEOMETRIES_AT_ONCE = 64  # bounds the memory of the normal matrices


class GrappaParams(Params):
    """Size of the kernel, and how strongly its weights are held small."""

    kernel_lines: int = Field(ge=1)  # measured columns that a missing one is made of, half on either side
    kernel_points: int = Field(ge=1)  # samples of each along the readout, an odd number
    regularisation: float = Field(gt=0)  # Tikhonov, relative to the sources' mean power
    calibration: Literal["slice", "volume"]  # weights for each slice, or the same for all

    @field_validator("kernel_points")
    @classmethod
    def _odd(cls, points: int) -> int:
        if points % 2 == 0:
            raise ValueError("must be odd: as many points above as below")
        return points


def grappa(
    kspace: Complex[Tensor, "*slice coil y x"], mask: Bool[Tensor, " x"], acs: slice, params: GrappaParams
) -> Complex[Tensor, "*slice coil y x"]:
    """Fill the columns that were not measured; those that were stay as they are.

    kspace: what it holds where `mask` is False is ignored. acs: the measured centre columns. Columns outside the
    outermost measured ones stay zero: the scanner may never have gone there. So do columns whose nearest measured
    neighbour is farther away than the centre is wide.

    Raises InputError where the centre is not measured or is too small to fit any weights.
    """
    _check(kspace, mask, acs, params)
    missing, lines = source_lines(mask, acs.stop - acs.start, params.kernel_lines)
    filled = (kspace * mask).reshape(-1, *kspace.shape[-3:])
    products = [centre_products(one[..., acs], params.kernel_points) for one in filled]
    if params.calibration == "volume":
        products = [torch.stack(products).sum(0)]
    for one, product in zip(filled, products * (len(filled) // len(products))):
        weights = fit_weights(product, lines, params)
        one[..., missing] = _apply(weights, one, missing, lines)
    return filled.reshape(kspace.shape)


def source_lines(
    mask: Bool[Tensor, " x"], n_acs: int, kernel_lines: int
) -> tuple[Int[Tensor, " missing"], Int[Tensor, "missing line"]]:
    """The missing columns that can be filled, and for each how far its source lines are; 0 stands for no line.

    The nearest measured columns, alternating between the two sides, as far as lines and target together fit into the
    centre: else there would be nothing to fit their weights on.
    """
    measured = mask.nonzero().flatten()
    columns = torch.arange(int(measured[0]), int(measured[-1]))
    missing = columns[~mask[columns]]
    after = torch.searchsorted(measured, missing)
    none = mask.shape[0] * 2  # farther than any centre is wide
    padded = pad(measured, (kernel_lines, kernel_lines), value=none)
    low = torch.zeros_like(missing)
    high = torch.zeros_like(missing)
    lines = []
    for rank in range((kernel_lines + 1) // 2):
        sides = torch.stack([padded[after + kernel_lines - 1 - rank], padded[after + kernel_lines + rank]], 1)
        sides = sides - missing[:, None]
        nearer = sides.abs().argsort(dim=1, stable=True)
        for line in sides.gather(1, nearer).T[: kernel_lines - 2 * rank]:
            fits = torch.maximum(high, line) - torch.minimum(low, line) < n_acs
            line = torch.where(fits, line, 0)
            low, high = torch.minimum(low, line), torch.maximum(high, line)
            lines.append(line)
    chosen = torch.stack(lines, 1)
    reached = (chosen != 0).any(1)
    return missing[reached], chosen[reached]


def centre_products(
    centre: Complex[Tensor, "coil y column"], kernel_points: int
) -> Complex[Tensor, "column column lag coil coil"]:
    """Correlations L[i, j, l, a, b] = sum over y of conj(k[a, y, i]) k[b, y + l, j], |l| < kernel_points.

    All that any weights' normal equations consist of, so one computation serves every geometry.
    """
    n_coils, height, n_columns = centre.shape
    flat = centre.permute(1, 2, 0).reshape(height, n_columns * n_coils)
    forward = [flat[: height - lag].mH @ flat[lag:] for lag in range(kernel_points)]
    lags = torch.stack([product.mH for product in forward[:0:-1]] + forward)
    return lags.unflatten(1, (n_columns, n_coils)).unflatten(3, (n_columns, n_coils)).permute(1, 3, 0, 2, 4)


def fit_weights(
    products: Complex[Tensor, "column column lag coil coil"], lines: Int[Tensor, "missing line"], params: GrappaParams
) -> Complex[Tensor, "missing point source coil"]:
    """Least-squares weights with Tikhonov regularisation, one Cholesky solve per geometry, in double precision."""
    geometries, index = lines.unique(dim=0, return_inverse=True)
    n_columns = products.shape[0]
    sums = products.new_zeros((n_columns + 1, n_columns + 1, *products.shape[2:]), dtype=torch.complex128)
    for i in range(n_columns):  # running sums along the diagonals: any window of positions is one difference
        sums[i + 1, 1:] = sums[i, :-1] + products[i]
    weights = torch.cat([_solve(sums, some, params) for some in geometries.split(GEOMETRIES_AT_ONCE)])
    return weights.to(products.dtype)[index]


def _solve(sums, lines, params):
    n_points, n_coils = params.kernel_points, sums.shape[-1]
    n_geometries, n_lines = lines.shape
    offsets = pad(lines, (0, 1))  # the target last
    start = -offsets.amin(1)[:, None] + offsets
    stop = sums.shape[0] - 1 - offsets.amax(1)[:, None] + offsets
    blocks = sums[stop[:, :, None], stop[:, None, :]] - sums[start[:, :, None], start[:, None, :]]
    point = torch.arange(n_points)
    lag = point[None, :] - point[:, None] + n_points - 1
    normal = blocks[:, :-1, :-1, lag].permute(0, 3, 1, 5, 4, 2, 6)
    normal = normal.reshape(n_geometries, n_points * n_lines * n_coils, -1)
    right = blocks[:, :-1, -1, lag[:, n_points // 2]].permute(0, 2, 1, 3, 4).flatten(1, 3)
    used = (lines != 0)[:, None, :, None].expand(-1, n_points, -1, n_coils).flatten(1)
    normal = normal * (used[:, :, None] & used[:, None, :])
    right = right * used[:, :, None]
    power = normal.diagonal(dim1=1, dim2=2).real.sum(1) / used.sum(1)
    ridge = torch.where(used, params.regularisation * power[:, None], 1.0)
    normal = normal + torch.diag_embed(ridge)
    weights = torch.cholesky_solve(right, torch.linalg.cholesky(normal))
    return weights.reshape(n_geometries, n_points, n_lines * n_coils, n_coils)


def _apply(weights, kspace, missing, lines):
    n_points = weights.shape[1]
    height = kspace.shape[1]
    half = n_points // 2
    rows = pad(kspace, (0, 0, half, half)).permute(2, 1, 0)  # column row coil
    sources = rows[missing[:, None] + lines].transpose(1, 2).flatten(2)  # missing row source
    filled = sum(torch.bmm(sources[:, p : p + height], weights[:, p]) for p in range(n_points))
    return filled.permute(2, 1, 0)


def _check(kspace, mask, acs, params):
    width = kspace.shape[-1]
    if mask.shape[0] != width:
        raise InputError(f"mask: has {mask.shape[0]} columns where k-space has {width}")
    if not 0 <= acs.start < acs.stop <= width or not mask[acs].all():
        raise InputError(f"mask: the centre columns {acs.start} to {acs.stop - 1} must all be measured")
    if acs.stop - acs.start < 2:
        raise InputError("mask: GRAPPA needs at least 2 centre lines")
    if params.kernel_points > kspace.shape[-2]:
        raise InputError(
            f"grappa.kernel_points: {params.kernel_points} is more than the {kspace.shape[-2]} points of the readout"
        )
