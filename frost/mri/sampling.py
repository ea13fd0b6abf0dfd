"""What of k-space is measured: fastMRI's five masks of columns, masks of single samples, their centre, acceleration.

A mask is one bool per column, (x,), or where both directions are phase encoding one per sample, (y, x). True is
measured; it is the same for all slices of a volume, and either form broadcasts against k-space (coil, y, x). A drawn
mask is a pure function of its record and the size. The draws of columns follow fastMRI (Zbontar 2018, arXiv:1811.08839;
its public `subsample` module), number by number from numpy's RandomState: the same seed gives the same mask there and
here.
"""

import hashlib
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field, model_validator

from frost.errors import InputError
from frost.pipeline.params import Params

ColumnKind = Literal["random", "equispaced", "equispaced_fraction", "magic", "magic_fraction"]
MaskKind = Literal[ColumnKind, "poisson", "file", "file_2d"]
Columns = np.ndarray[tuple[int], np.dtype[np.bool_]]
Centre = slice | tuple[slice, slice]
"""The fully measured middle of a mask, as an index of it: columns, or rows and columns."""

SPREAD = 2.0  # of Poisson discs: how much larger they are at the edge of k-space than at its centre, less 1
SURPLUS = 1.02  # so many times the wanted samples are near enough: those drawn last are left out
TRIALS = 12  # of the size of the discs
PACKED = 0.7  # discs of radius 1 whose middles are in an area of 1, thrown until none fits: where the search begins


class MaskRecord(Params):
    """Everything that the mask of one volume depends on, apart from its size."""

    kind: MaskKind
    acceleration: float | None = Field(ge=1)  # None: not known, which only masks in files may be
    center_fraction: float | None = Field(gt=0, le=1)  # centre lines / width; of both sides where it is of samples
    seed: int | list[int] | None  # what numpy's RandomState takes
    padding: tuple[int, int]  # [left, right): the columns that the scanner went to; the mask is False outside
    choices: int = Field(default=1, ge=1)  # of so many pairs of centre fraction and acceleration fastMRI draws this one

    @property
    def in_file(self) -> bool:
        """Whether the files of the volume tell the mask, so that it is not drawn."""
        return self.kind in ("file", "file_2d")

    @property
    def of_samples(self) -> bool:
        """Whether it is a mask (y, x) of single samples, as two phase directions allow."""
        return self.kind in ("poisson", "file_2d")

    @model_validator(mode="after")
    def _complete(self) -> "MaskRecord":
        """A mask that is drawn needs all three numbers; strides that are counted in columns are whole."""
        if not self.in_file:
            for name in ("acceleration", "center_fraction", "seed"):
                if getattr(self, name) is None:
                    raise ValueError(f"{name} must be given for a mask of kind {self.kind}")
        if self.kind in ("equispaced", "magic") and self.acceleration != int(self.acceleration or 0):
            raise ValueError(f"acceleration must be a whole number for a mask of kind {self.kind}")
        seeds = self.seed if isinstance(self.seed, list) else [self.seed or 0]
        if not seeds or not all(0 <= seed < 2**32 for seed in seeds):
            raise ValueError("seed must be one or several whole numbers from 0 to 2**32 - 1")
        if not 0 <= self.padding[0] < self.padding[1]:
            raise ValueError("padding must be [left, right) with 0 <= left < right")
        return self


def draw_mask(record: MaskRecord, width: int, height: int | None = None) -> Bool[np.ndarray, "*y x"]:
    """The columns that `record` measures of `width`; of a mask of samples those of `height` x `width`.

    Raises InputError for a mask that is in the file, for padding beyond the width, and where the centre alone uses up
    what the acceleration allows (fastMRI then draws no other line, or fails).
    """
    n_low = n_low_frequencies(record, width)
    if n_low is None:
        raise InputError("mask.kind: file: the mask stands in the volume's file and cannot be drawn")
    if record.padding[1] > width:
        raise InputError(f"mask.padding: {list(record.padding)} must lie within the {width} columns")
    if record.of_samples:
        assert height is not None  # who draws samples knows the frame
        return _poisson(record.model_dump_json(), height, width).copy()
    rng = np.random.RandomState(record.seed)
    rng.randint(record.choices)  # which pair: of several this takes a number from the generator, of one it does not
    columns = _OUTER[record.kind](rng, width, _acceleration(record), n_low)
    columns[acs_columns(width, n_low)] = True
    columns[: record.padding[0]] = False
    columns[record.padding[1] :] = False
    return columns


def n_low_frequencies(record: MaskRecord, width: int) -> int | None:
    """How many centre lines a drawn mask has; None where only the mask in the file can tell.

    width: the number of columns; of rows, for those of a mask of samples
    """
    if record.in_file:
        return None
    assert record.center_fraction is not None  # the record's own check
    n_low = round(width * record.center_fraction)
    if record.kind == "magic_fraction":
        n_low = max(min(n_low, round(width / _acceleration(record))), 1)
    if n_low < 1:
        raise InputError(
            f"mask.center_fraction: {record.center_fraction} of {width} columns leaves no centre line; "
            f"{1 / width:.3g} would be one"
        )
    return n_low


def acs_columns(width: int, n_low: int) -> slice:
    """Where `n_low` centre lines lie, as fastMRI places them."""
    start = (width - n_low + 1) // 2
    return slice(start, start + n_low)


def drawn_centre(record: MaskRecord, width: int, height: int) -> Centre | None:
    """The fully measured centre of a drawn mask; None where only the mask in the file can tell."""
    if (n_low := n_low_frequencies(record, width)) is None:
        return None
    columns = acs_columns(width, n_low)
    return (acs_columns(height, n_low_frequencies(record, height) or 1), columns) if record.of_samples else columns


def centre_lines(mask: Bool[np.ndarray, "*y x"], acs: Centre) -> Bool[np.ndarray, "*y x"]:
    """What was measured of the centre, as networks take it: columns, or samples."""
    centre = np.zeros_like(mask)
    centre[acs] = True
    return centre & mask


def detect_centre(mask: Bool[np.ndarray, "*y x"]) -> Centre:
    """The fully measured centre of a mask that was not drawn: `detect_acs`; of a mask of samples, rows and columns.

    These are the box around the centre whose shorter side is longest, and of those the largest: no thin strip along a
    spoke of a radial mask. Raises InputError where the centre itself was not measured.
    """
    if mask.ndim == 1:
        return detect_acs(mask)
    height, width = mask.shape
    if not mask[height // 2, width // 2]:
        raise InputError(f"mask: the centre of k-space, [{height // 2}, {width // 2}], must be measured")
    best, size = (slice(0, 0), slice(0, 0)), (0, 0)
    for n in range(height, 0, -1):
        rows = acs_columns(height, n)
        whole: Columns = np.logical_and.reduce(mask[rows])
        if whole[width // 2]:
            columns = detect_acs(whole)
            n_columns = columns.stop - columns.start
            if (found := (min(n, n_columns), n * n_columns)) > size:
                best, size = (rows, columns), found
    return best


def detect_acs(mask: Bool[np.ndarray, " x"]) -> slice:
    """The fully measured centre of a mask of columns whose number of centre lines is not known.

    fastMRI's rule: as many to the left of the centre as to the right, so sometimes a line or two less than
    were measured. A fully sampled mask gives all columns (fastMRI: one).

    Raises InputError where the centre column itself was not measured.
    """
    width = mask.shape[0]
    centre = width // 2
    left = int(mask[:centre][::-1].cumprod().sum())
    right = int(mask[centre:].cumprod().sum())
    if right == 0:
        raise InputError(f"mask: the centre column {centre} of {width} must be measured; there are no centre lines")
    acs = acs_columns(width, max(2 * min(left, right), 1))
    # At odd widths the block lies half a column to the right and may end on a column that was not measured.
    return slice(acs.start, min(acs.stop, centre + right))


def effective_acceleration(mask: Bool[np.ndarray, "*y x"], padding: tuple[int, int]) -> float:
    """Columns, or samples, that the scanner went to over those measured: the centre counted, padding not."""
    n_measured = int(mask.sum())
    if n_measured == 0:
        raise InputError("mask: at least one column must be measured")
    return (padding[1] - padding[0]) * mask[..., 0].size / n_measured


def seed_from_name(name: str, seed: int) -> int:
    """A seed of its own for each volume: the same in every run and order, another for another `seed`."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "big")


def _acceleration(record: MaskRecord) -> float:
    assert record.acceleration is not None  # the record's own check
    return record.acceleration


def _random(rng: np.random.RandomState, width: int, acceleration: float, n_low: int) -> Columns:
    """Each column by itself, with the chance that gives the acceleration on average."""
    _require_outer_lines(width, acceleration, n_low)
    chance = (width / acceleration - n_low) / (width - n_low)
    return rng.uniform(size=width) < chance


def _equispaced(rng: np.random.RandomState, width: int, acceleration: float, n_low: int) -> Columns:
    """Every `acceleration`-th column. The centre comes on top, so the effective acceleration is lower."""
    columns = np.zeros(width, dtype=bool)
    columns[rng.randint(0, round(acceleration)) :: int(acceleration)] = True
    return columns


def _equispaced_fraction(rng: np.random.RandomState, width: int, acceleration: float, n_low: int) -> Columns:
    """Evenly spaced at the real-valued stride that reaches the acceleration with the centre counted in."""
    _require_outer_lines(width, acceleration, n_low)
    stride = acceleration * (n_low - width) / (n_low * acceleration - width)
    offset = rng.randint(0, round(stride))
    columns = np.zeros(width, dtype=bool)
    columns[np.around(np.arange(offset, width - 1, stride)).astype(int)] = True
    return columns


def _magic(rng: np.random.RandomState, width: int, acceleration: float, n_low: int) -> Columns:
    """Equispaced with opposite offsets in the two halves: no line's conjugate mirror is measured too.

    Defazio 2019, arXiv:1912.01101.
    """
    stride = int(acceleration)
    offset = rng.randint(0, stride)
    positive, negative = (offset + 1, offset + 2) if offset % 2 == 0 else (offset + 2, offset - 1)
    n_positive = (width + 1) // 2
    columns = np.zeros(width, dtype=bool)  # zero frequency first, then the positive ones, then the negative ones
    columns[:n_positive][positive::stride] = True
    columns[n_positive:][::-1][negative::stride] = True
    return np.roll(columns, width // 2)


def _magic_fraction(rng: np.random.RandomState, width: int, acceleration: float, n_low: int) -> Columns:
    """`_magic` at the whole stride that comes nearest to the acceleration with the centre counted in."""
    _require_outer_lines(width, acceleration, n_low)
    stride = round(width / (round(width / acceleration) - n_low))
    return _magic(rng, width, float(stride), n_low)


def _require_outer_lines(width: int, acceleration: float, n_low: int) -> None:
    if n_low >= round(width / acceleration):
        raise InputError(
            f"mask.center_fraction: {n_low} centre lines of {width} leave no other line at acceleration "
            f"{acceleration:g}; must be below {1 / acceleration:.3g}"
        )


_OUTER: dict[str, Callable[[np.random.RandomState, int, float, int], Columns]] = {
    "random": _random,
    "equispaced": _equispaced,
    "equispaced_fraction": _equispaced_fraction,
    "magic": _magic,
    "magic_fraction": _magic_fraction,
}


# ---- samples


@lru_cache(maxsize=64)  # a volume's mask is drawn again for each of its slices
def _poisson(record: str, height: int, width: int) -> Bool[np.ndarray, "y x"]:
    """Samples none of which lies in the disc of another, discs being larger away from the centre, which is a full box.

    Darts are thrown in a random order that is the same for all sizes of the discs (Cook 1986, doi:10.1145/7529.8927),
    and the size is searched for: all samples over those measured is the acceleration. Variable density:
    Vasanawala 2011, doi:10.1109/ISBI.2011.5872579. `record`: as JSON.
    """
    mask_record = MaskRecord.model_validate_json(record)
    acceleration = _acceleration(mask_record)
    inside = np.zeros((height, width), dtype=bool)
    inside[:, slice(*mask_record.padding)] = True
    mask = np.zeros_like(inside)
    mask[drawn_centre(mask_record, width, height)] = True
    mask &= inside
    wanted = round(inside.sum() / acceleration) - int(mask.sum())
    if wanted < 1:
        raise InputError(
            f"mask.center_fraction: a centre of {int(mask.sum())} samples leaves no other at acceleration "
            f"{acceleration:g}; must be below {math.sqrt(1 / acceleration):.3g}"
        )
    y, x = np.ogrid[:height, :width]
    growth = 1 + SPREAD * np.hypot((y - height // 2) / (height / 2), (x - width // 2) / (width / 2))
    free = inside & ~mask
    order = np.random.RandomState(mask_record.seed).permutation(height * width)
    drawn = order = order[free.flat[order]]
    scale, small, large = math.sqrt(PACKED * float(np.square(1 / growth)[free].sum()) / wanted), 0.0, math.inf
    for _ in range(TRIALS):
        if len(drawn) <= SURPLUS * wanted:
            break
        thrown = _darts(order, free, scale * growth)
        if len(thrown) < wanted:
            large = scale
        else:
            small, drawn = scale, thrown
        scale *= math.sqrt(len(thrown) / (math.sqrt(SURPLUS) * wanted))  # as many as fit on an area
        scale = scale if small < scale < large else (small + large) / 2
    mask.flat[drawn[:wanted]] = True
    return mask


def _darts(order: np.ndarray, free: Bool[np.ndarray, "y x"], radius: Float[np.ndarray, "y x"]) -> np.ndarray:
    """Indices of samples in this order, each of which takes the free ones that are nearer than its radius."""
    width = radius.shape[1]
    squares = np.ceil(np.square(radius)).astype(int) - 1  # the largest square of a whole number that is nearer
    margin = math.isqrt(int(squares.max()))
    discs = {n: _rows_of_disc(n, width + 2 * margin) for n in np.unique(squares).tolist()}
    places = (order // width + margin) * (width + 2 * margin) + order % width + margin  # in the frame with margins
    left, accepted = bytearray(np.pad(free, margin).tobytes()), []  # rows of bytes, as numpy takes ten times as long
    for index, place, square in zip(order.tolist(), places.tolist(), squares.flat[order].tolist()):
        if left[place]:
            for start, nothing in discs[square]:
                left[place + start : place + start + len(nothing)] = nothing
            accepted.append(index)
    return np.array(accepted, dtype=int)


def _rows_of_disc(square: int, width: int) -> list[tuple[int, bytes]]:
    """The rows of a disc in a frame of that width: where each begins, from the disc's middle, and as many zeros."""
    reach = math.isqrt(square)
    halves = [(y, math.isqrt(square - y * y)) for y in range(-reach, reach + 1)]
    return [(y * width - half, bytes(2 * half + 1)) for y, half in halves]
