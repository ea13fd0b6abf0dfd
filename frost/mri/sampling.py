"""Which columns of k-space are measured: fastMRI's five undersampling masks, their centre and acceleration.

A mask is one bool per column x, True where measured, the same for all slices of a volume. It is a pure
function of its record and the width. The draws follow fastMRI (Zbontar 2018, arXiv:1811.08839; its public
`subsample` module), number by number from numpy's RandomState: the same seed gives the same mask there and here.
"""

import hashlib
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Bool
from pydantic import Field, model_validator

from frost.errors import InputError
from frost.pipeline.params import Params

MaskKind = Literal["random", "equispaced", "equispaced_fraction", "magic", "magic_fraction", "file"]
Columns = np.ndarray[tuple[int], np.dtype[np.bool_]]


class MaskRecord(Params):
    """Everything that the mask of one volume depends on, apart from the width."""

    kind: MaskKind
    acceleration: float | None = Field(ge=1)  # None: not known, which only kind "file" may be
    center_fraction: float | None = Field(gt=0, le=1)  # centre lines / width
    seed: int | list[int] | None  # what numpy's RandomState takes
    padding: tuple[int, int]  # [left, right): the columns that the scanner went to; the mask is False outside
    choices: int = Field(default=1, ge=1)  # of so many pairs of centre fraction and acceleration fastMRI draws this one

    @model_validator(mode="after")
    def _complete(self) -> "MaskRecord":
        """A mask that is drawn needs all three numbers; strides that are counted in columns are whole."""
        if self.kind != "file":
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


def draw_mask(record: MaskRecord, width: int) -> Bool[np.ndarray, " x"]:
    """The columns that `record` measures of `width`.

    Raises InputError for a mask that is in the file, for padding beyond the width, and where the centre lines
    alone use up what the acceleration allows (fastMRI then draws no other line, or fails).
    """
    n_low = n_low_frequencies(record, width)
    if n_low is None:
        raise InputError("mask.kind: file: the mask stands in the volume's file and cannot be drawn")
    if record.padding[1] > width:
        raise InputError(f"mask.padding: {list(record.padding)} must lie within the {width} columns")
    rng = np.random.RandomState(record.seed)
    rng.randint(record.choices)  # which pair: of several this takes a number from the generator, of one it does not
    columns = _OUTER[record.kind](rng, width, _acceleration(record), n_low)
    columns[acs_columns(width, n_low)] = True
    columns[: record.padding[0]] = False
    columns[record.padding[1] :] = False
    return columns


def n_low_frequencies(record: MaskRecord, width: int) -> int | None:
    """How many centre lines a drawn mask has; None where only the mask in the file can tell."""
    if record.kind == "file":
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


def centre_lines(mask: Bool[np.ndarray, " x"], acs: slice) -> Bool[np.ndarray, " x"]:
    """The measured columns of the centre, as networks take them."""
    centre = np.zeros_like(mask)
    centre[acs] = True
    return centre & mask


def detect_acs(mask: Bool[np.ndarray, " x"]) -> slice:
    """The fully measured centre of a mask whose number of centre lines is not known.

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


def effective_acceleration(mask: Bool[np.ndarray, " x"], padding: tuple[int, int]) -> float:
    """Columns that the scanner went to over columns measured: centre lines counted, padding not."""
    n_measured = int(mask.sum())
    if n_measured == 0:
        raise InputError("mask: at least one column must be measured")
    return (padding[1] - padding[0]) / n_measured


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
