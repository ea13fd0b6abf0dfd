"""GRAPPA: missing columns of k-space as linear combinations of measured neighbours, over all coils.

Griswold 2002, doi:10.1002/mrm.10171. A sample that was not measured, of coil c at row y and column x, is

    k[c, y, x] = sum over points p, lines d, coils b of  w[p, d, b, c] * k[b, y + p, x + d]

where the lines d reach from x to measured columns and the points p run along the fully sampled readout. The
weights depend on the coils and on the lines alone, so they are fitted on the centre, where both sides of the
equation are known, by least squares with Tikhonov regularisation: w = (A' A + ridge)^-1 A' t.

How large the ridge should be differs across k-space. Weights that suit the strong signal of the centre
amplify noise where the signal is weak, and weights that fitted badly should not be trusted. So the ridge,
relative to the mean power of the sources, is

    regularisation * noise / local power  +  MISFIT * misfit^2

with the power of the sources around the sample, and the share of the centre's energy that the fit leaves
over. One `regularisation` then serves all accelerations, masks and noise levels.
"""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Complex, Float, Int
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn.functional import pad

from frost.errors import InputError
from frost.mri.sampling import Centre
from frost.mri.scale import power_of_two
from frost.pipeline.params import Params

MISFIT = 3.0  # 1 to 10 score alike at 8-fold and random sampling; where lines fit well it changes nothing
FAINTEST = 0.1  # the share of k-space, its faintest, whose power is taken for noise
N_BANDS = 8  # of rows; power is measured for each column in each band
LOWEST, HIGHEST = 1e-7, 1e3  # relative ridge: where rounding takes over; where nothing is left
STEP = 100.0  # between the ridges that are solved for
FITTED = -2  # the power of STEP at which the misfit is measured
AT_ONCE = 64  # systems of equations in memory


class GrappaParams(Params):
    """Size of the kernel, and how strongly noise is held down."""

    kernel_lines: int = Field(ge=1)  # measured columns that a missing one is made of, half on either side
    kernel_points: int = Field(ge=1)  # samples of each along the readout, an odd number
    regularisation: float = Field(ge=0)  # 0.01 (little noise) to 1; 1 is what noise alone would ask for
    calibration: Literal["slice", "volume"]  # weights fitted on each slice, or on all slices together

    @field_validator("kernel_points")
    @classmethod
    def _odd(cls, points: int) -> int:
        if points % 2 == 0:
            raise ValueError("must be odd: as many points above as below")
        return points


def grappa(
    kspace: Complex[Tensor, "*slice coil y x"],
    mask: Bool[Tensor, "*y column"],
    acs: Centre,
    params: GrappaParams,
    products: Complex[Tensor, "lag centre centre coil coil"] | None = None,
) -> Complex[Tensor, "*slice coil y x"]:
    """Fill the columns that were not measured; those that were stay as they are.

    kspace: what it holds where `mask` is False is ignored. acs: the measured centre columns. Columns outside
    the outermost measured ones stay zero: the scanner may never have gone there. So do columns whose nearest
    measured neighbour is farther away than the centre is wide. products: the sum of `centre_products` over a
    volume, where these slices are not all of it.

    Raises InputError where the centre is not measured or is too small to fit any weights, and for a mask of samples.
    """
    if mask.ndim > 1 or isinstance(acs, tuple):
        raise InputError("mask: GRAPPA fills whole columns; single samples are missing here, in two directions")
    _check(kspace, mask, acs, params)
    missing, lines = source_lines(mask, acs.stop - acs.start, params.kernel_lines)
    # Inside, the axes are x, coil, y: whole columns are picked and put, and one matrix transposes all coils.
    n_coils, height, width = kspace.shape[-3:]
    rows = torch.where(mask, kspace, 0).reshape(-1, n_coils * height, width)
    slices = [one.T.contiguous().view(width, n_coils, height) for one in rows]
    if len(missing) > 0:
        if products is None:
            fitted = [centre_products(columns[acs], params.kernel_points) for columns in slices]
            if params.calibration == "volume":
                fitted = [torch.stack(fitted).sum(0)] * len(fitted)
        else:
            fitted = [products] * len(slices)
        for columns, product in zip(slices, fitted):
            if product.any() and columns.any():  # an empty slice has no power that a ridge could be relative to
                equations = NormalEquations(product, lines)
                columns[missing] = _filled(columns, mask, missing, lines, equations, params)
    return torch.stack([columns.flatten(1).T for columns in slices]).view(kspace.shape)


def source_lines(
    mask: Bool[Tensor, " x"], n_acs: int, kernel_lines: int
) -> tuple[Int[Tensor, " missing"], Int[Tensor, "missing line"]]:
    """The columns that can be filled, and for each how far away its source lines are; 0 stands for no line.

    The nearest measured columns, alternating between the two sides. The fit uses every place in the centre
    that holds lines and target; lines after the first are dropped where they leave less than half of them.
    """
    measured = mask.nonzero().flatten()
    columns = torch.arange(int(measured[0]), int(measured[-1]), device=mask.device)
    missing = columns[~mask[columns]]
    after = torch.searchsorted(measured, missing) + kernel_lines
    measured = pad(measured, (kernel_lines, kernel_lines), value=3 * len(mask))  # too far for any centre
    low, high = torch.zeros_like(missing), torch.zeros_like(missing)
    chosen: list[Tensor] = []
    for rank in range((kernel_lines + 1) // 2):
        sides = torch.stack([measured[after - 1 - rank], measured[after + rank]], 1) - missing[:, None]
        nearest_first = sides.gather(1, sides.abs().argsort(dim=1, stable=True))
        for line in nearest_first.T[: kernel_lines - 2 * rank]:
            reach = n_acs // 2 if chosen else n_acs - 1
            fits = torch.maximum(high, line) - torch.minimum(low, line) <= reach
            line = torch.where(fits, line, 0)
            low, high = torch.minimum(low, line), torch.maximum(high, line)
            chosen.append(line)
    lines = torch.stack(chosen, 1)
    reached = (lines != 0).any(1)
    return missing[reached], lines[reached]


def centre_products(
    centre: Complex[Tensor, "column coil y"], kernel_points: int
) -> Complex[Tensor, "lag column column coil coil"]:
    """Correlations L[l, i, j, a, b] = sum over y of conj(k[i, y, a]) k[j, y + l, b], 0 <= l < kernel_points.

    All that any normal equations consist of, so this one computation serves every set of lines; those of negative
    lags are conjugates, L[-l, i, j, a, b] = conj(L[l, j, i, b, a]). In double precision, so that the square of a weak
    signal survives. Raises InputError where the kernel is higher than k-space.
    """
    n_columns, n_coils, height = centre.shape
    _require_rows(height, kernel_points)
    flat = centre.flatten(0, 1).to(torch.complex128)
    lags = torch.stack([flat[:, : height - lag].conj() @ flat[:, lag:].T for lag in range(kernel_points)])
    return lags.view(-1, n_columns, n_coils, n_columns, n_coils).transpose(2, 3)


class NormalEquations:
    """The least-squares problem of every distinct set of lines; `index` says which a missing column has.

    normal: A' A, of which only the upper triangle means anything. right: A' t. energy: t' t. used: which sources there
    are. power: the mean of the diagonal of A' A, which ridges are relative to, over the sources that hold anything: the
    coils of zeros that fill up a number of coils move no ridge.
    """

    def __init__(
        self, products: Complex[Tensor, "lag column column coil coil"], lines: Int[Tensor, "missing line"]
    ) -> None:
        first, self.index = _distinct(lines)
        n_points, n_columns, _, n_coils, _ = products.shape
        # Running sums along the diagonals: a sum over all places in the centre is one difference of two.
        sums = products.new_zeros((n_columns + 1, n_columns + 1, n_points, n_coils, n_coils))
        for i in range(n_columns):
            torch.add(sums[i, :-1], products[:, i].transpose(0, 1), out=sums[i + 1, 1:])
        parts = [_assembled(sums, some) for some in lines[first].split(AT_ONCE)]
        self.normal, self.right, self.energy, self.used = (torch.cat(part) for part in zip(*parts))
        powers = self.normal.diagonal(dim1=1, dim2=2).real
        self.power = powers.sum(1) / (powers > 0).sum(1).clamp(min=1)

    def solve(
        self, geometry: Int[Tensor, " system"], ridge: Float[Tensor, " system"]
    ) -> Complex[Tensor, "system source coil"]:
        """Weights for sets of lines at relative ridges."""
        parts = [self._solved(*some) for some in zip(geometry.split(AT_ONCE), ridge.split(AT_ONCE))]
        return torch.cat(parts) if parts else self.right[:0]

    def _solved(self, geometry: Tensor, ridge: Tensor) -> Tensor:
        normal, used = self.normal[geometry], self.used[geometry]
        # A line that is not there has an equation of its own, 1 * w = 0, so that all systems are of one size.
        normal.diagonal(dim1=1, dim2=2).add_(torch.where(used, self.loading(ridge, geometry)[:, None], 1.0))
        return torch.cholesky_solve(self.right[geometry], torch.linalg.cholesky(normal, upper=True), upper=True)

    def fitted(self, ridge: float) -> tuple[Complex[Tensor, "geometry source coil"], Float[Tensor, " geometry"]]:
        """Weights for every set of lines at one relative ridge, and the share of the energy that they leave over."""
        geometry = torch.arange(len(self.right), device=self.right.device)
        ridges = torch.full_like(self.energy, ridge)
        weights = self.solve(geometry, ridges)
        explained = (weights.conj() * self.right).real.sum((1, 2))
        explained += self.loading(ridges, geometry) * torch.view_as_real(weights).square().sum((1, 2, 3))
        return weights, (1 - explained / self.energy).nan_to_num(1.0).clamp(0, 1)

    def loading(self, ridge: Float[Tensor, " system"], geometry: Int[Tensor, " system"]) -> Float[Tensor, " system"]:
        """What a relative ridge adds to the diagonal."""
        return (ridge * self.power[geometry]).clamp(min=torch.finfo(ridge.dtype).tiny)


def _assembled(
    sums: Complex[Tensor, "place place lag coil coil"], lines: Int[Tensor, "geometry line"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `NormalEquations` is made of, for each row of `lines`."""
    n_points, n_coils = sums.shape[2], sums.shape[-1]
    columns = pad(lines, (0, 1))  # the target comes last, at 0
    first = columns - columns.amin(1, keepdim=True)
    last = columns - columns.amax(1, keepdim=True) + len(sums) - 1
    totals = sums[last[:, :, None], last[:, None, :]] - sums[first[:, :, None], first[:, None, :]]

    point, middle = torch.arange(n_points, device=lines.device), n_points // 2
    normal = totals[:, :-1, :-1, (point - point[:, None]).abs()]  # below the diagonal of points it means nothing
    normal = normal.permute(0, 3, 1, 5, 4, 2, 6).flatten(4, 6).flatten(1, 3)
    before, after = totals[:, :-1, -1, : middle + 1].flip(2), totals[:, -1, :-1, 1 : middle + 1].mH
    right = torch.cat([before, after], 2).transpose(1, 2).flatten(1, 3)
    energy = totals[:, -1, -1, 0].diagonal(dim1=1, dim2=2).real.sum(1)
    used = (lines != 0)[:, None, :, None].expand(-1, n_points, -1, n_coils).flatten(1)
    return normal * (used[:, :, None] & used[:, None, :]), right * used[:, :, None], energy, used


def _filled(
    columns: Complex[Tensor, "x coil y"],
    mask: Bool[Tensor, " x"],
    missing: Int[Tensor, " missing"],
    lines: Int[Tensor, "missing line"],
    equations: NormalEquations,
    params: GrappaParams,
) -> Complex[Tensor, "missing coil y"]:
    """The missing columns of one slice, band by band of its rows.

    Weights change slowly with the ridge: solved for at whole powers of STEP, interpolated between.
    """
    height = columns.shape[2]
    band_rows = -(-height // N_BANDS)
    fitted, misfit = equations.fitted(STEP**FITTED)
    ridge = _relative_ridge(columns, mask, missing, lines, band_rows, misfit[equations.index], params)
    level = ridge.log() / math.log(STEP)
    below = level.floor()
    share = (level - below).to(columns.dtype)[..., None, None]
    pairs = torch.stack([below, below + 1]).long()  # the levels that each ridge lies between
    systems = torch.stack([equations.index[:, None].expand_as(pairs), pairs], -1).flatten(0, 2)
    first, which = _distinct(systems)
    geometry, exponent = systems[first].T
    new = exponent != FITTED
    others = equations.solve(geometry[new], STEP ** exponent[new].double())
    weights = torch.cat([fitted, others]).to(columns.dtype)
    low, high = torch.where(new, len(fitted) - 1 + new.cumsum(0), geometry)[which].view(pairs.shape)

    n_points = params.kernel_points
    sources = columns[missing[:, None] + lines].flatten(1, 2)  # missing (line coil) y
    sources = pad(sources, (n_points // 2, n_points // 2))
    filled = columns.new_empty((len(missing), *columns.shape[1:]))
    for band, start in enumerate(range(0, height, band_rows)):
        stop = min(start + band_rows, height)
        blend = torch.lerp(weights[low[:, band]], weights[high[:, band]], share[:, band]).mT.chunk(n_points, 2)
        total = torch.bmm(blend[0], sources[..., start:stop])
        for p in range(1, n_points):
            total.baddbmm_(blend[p], sources[..., start + p : stop + p])
        filled[..., start:stop] = total
    return filled


def _relative_ridge(
    columns: Complex[Tensor, "x coil y"],
    mask: Bool[Tensor, " x"],
    missing: Int[Tensor, " missing"],
    lines: Int[Tensor, "missing line"],
    band_rows: int,
    misfit: Float[Tensor, " missing"],
    params: GrappaParams,
) -> Float[Tensor, "missing band"]:
    """The ridge of the equation at the top of this file, by missing column and band of rows."""
    samples = columns[mask]
    samples = samples / power_of_two(samples[None])  # only ratios of powers count
    measured = (samples.real.square() + samples.imag.square()).sum(1).double()  # measured y
    measured = torch.stack([band.mean(1) for band in torch.split(measured, band_rows, 1)], 1)
    noise = measured[measured > 0].quantile(FAINTEST)
    power = measured.new_zeros((len(mask), measured.shape[1]))  # x band
    power[mask] = measured
    there = lines != 0
    local = (power[missing[:, None] + lines] * there[..., None]).sum(1) / there.sum(1, keepdim=True)
    local = local.clamp(min=torch.finfo(local.dtype).tiny)  # 0 / 0 is no ridge
    ridge = params.regularisation * noise / local + MISFIT * misfit[:, None] ** 2
    return ridge.clamp(LOWEST, HIGHEST)


def _distinct(rows: Int[Tensor, "row word"]) -> tuple[Int[Tensor, " distinct"], Int[Tensor, " row"]]:
    """Where each distinct row stands, and which of them every row is; 20 times as fast as `unique(dim=0)`."""
    index = torch.zeros_like(rows[:, 0])
    for word in rows.T:
        word = word - word.min()
        _, index = torch.unique(index * (word.max() + 1) + word, return_inverse=True)
    place = torch.empty_like(index[: int(index.max()) + 1])
    place[index] = torch.arange(len(index), device=index.device)
    return place, index


def _check(kspace: Tensor, mask: Tensor, acs: slice, params: GrappaParams) -> None:
    height, width = kspace.shape[-2:]
    if len(mask) != width:
        raise InputError(f"mask: has {len(mask)} columns, must have the {width} of k-space")
    if not 0 <= acs.start < acs.stop <= width or not bool(mask[acs].all()):
        raise InputError(f"mask: the centre columns {acs.start} to {acs.stop - 1} must all be measured")
    if acs.stop - acs.start < 2:
        raise InputError("mask: GRAPPA needs at least 2 centre lines, there is 1")
    _require_rows(height, params.kernel_points)


def _require_rows(height: int, kernel_points: int) -> None:
    if kernel_points > height:
        raise InputError(f"grappa.kernel_points: {kernel_points} must not exceed the {height} rows of k-space")
