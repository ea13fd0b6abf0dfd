"""Facts of k-space itself: which of its rows, columns and samples were measured, and where its origin lies.

A mask, a target or a header can be wrong without any error; the image is then plausible and wrong. So they are
compared with k-space. Where a single slice is suspicious all slices of the volume are looked at: a
column may be zero in one of them, and a spike may outshine the centre of another.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Complex, Float

from frost.mri.raw import are_scattered, between

NARROWEST, FEWEST = 16, 256  # columns or rows, and samples in all, of which the origin can be told from noise
RESIDUE = 2e-6  # of the strongest column or row: what a Fourier transform and back leaves of zeros, ten times over
CLEAR = 50.0  # times that: nothing lies between, or it is signal that fades
BRIGHTER = 3.0  # the ends of k-space against its middle: noise gives 1, at most 2; origins at index 0 give 15 and more


class Measured(NamedTuple):
    """How much signal rows and columns of one slice, or of several together, hold, and where the strongest lie."""

    of_rows: Float[np.ndarray, " y"]
    of_columns: Float[np.ndarray, " x"]
    of_samples: Float[np.ndarray, "y x"]
    at_ends: tuple[int, int]
    """Along y and x: slices whose signal lies at the ends of k-space less those where it lies in the middle."""
    has_phase: bool
    """Whether any sample is another number than its magnitude."""

    @classmethod
    def of(cls, kspace: Complex[np.ndarray, "coil y x"]) -> "Measured":
        """Of one slice, by the largest part of a complex number in any coil: no square that might underflow."""
        parts = np.abs(kspace.view(kspace.real.dtype)).max(axis=0).reshape(*kspace.shape[1:], 2)
        largest = parts.max(axis=-1)
        rows, columns = largest.sum(axis=1, dtype=np.float64), largest.sum(axis=0, dtype=np.float64)
        at_ends = (_end_or_middle(rows), _end_or_middle(columns)) if largest.size >= FEWEST else (0, 0)
        limit = RESIDUE * largest.max()
        has_phase = bool(parts[..., 1].max() > limit or kspace.real.min() < -limit)
        return cls(rows, columns, largest, at_ends, has_phase)

    def joined(self, other: "Measured") -> "Measured":
        """Of the slices of both."""
        y, x = (a + b for a, b in zip(self.at_ends, other.at_ends))
        phase = self.has_phase or other.has_phase
        sums = [mine + theirs for mine, theirs in zip(self[:3], other[:3])]
        return Measured(sums[0], sums[1], sums[2], (y, x), phase)

    @property
    def rows(self) -> Bool[np.ndarray, " y"]:
        """The rows that were measured."""
        return _holds_signal(self.of_rows)

    @property
    def columns(self) -> Bool[np.ndarray, " x"]:
        """The columns that were measured."""
        return _holds_signal(self.of_columns)

    @property
    def samples(self) -> Bool[np.ndarray, "y x"]:
        """The samples that were measured."""
        return _holds_signal(self.of_samples)

    @property
    def undersampled(self) -> bool:
        """Whether columns, or samples, are missing between measured ones; at the edges they are a scanner's padding."""
        return _has_gaps(self.columns) or are_scattered(self.samples)


def _end_or_middle(amplitude: Float[np.ndarray, " n"]) -> int:
    """1 where the signal lies around index 0, wrapped around; -1 around n // 2; 0 where neither is clear."""
    n = len(amplitude)
    peak = amplitude.max()
    if n < NARROWEST or peak == 0:
        return 0
    power, index = (amplitude / peak) ** 2, np.arange(n)
    ends = power[np.minimum(index, n - index) < n / 8].sum()
    middle = power[np.abs(index - n // 2) < n / 8].sum()
    return int(ends > BRIGHTER * middle) - int(middle > BRIGHTER * ends)


def _holds_signal(amplitude: Float[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    """Where there is more than 0, and than the residue of zeros that went through a Fourier transform and back."""
    limit = RESIDUE * amplitude.max()
    fades = ((amplitude > limit) & (amplitude < CLEAR * limit)).any()
    return amplitude > (0 if fades else limit)


def _has_gaps(measured: Bool[np.ndarray, " n"]) -> bool:
    indices = np.flatnonzero(measured)
    return len(indices) > 0 and int(indices[-1]) - int(indices[0]) + 1 != len(indices)


def fault(measured: Measured, mask: Bool[np.ndarray, "*y x"] | None, padding: tuple[int, int]) -> str | None:
    """What is wrong with the k-space of a volume, or with the mask in its file, and what would be right; else None.

    mask: None where the file has none and its k-space should be complete. It is sound on complete k-space, which it
    then undersamples, and where its columns, or samples, are those that were measured. padding: [left, right), the
    columns that the scanner went to; outside nothing is compared, and nothing outside the outermost measured ones.
    """
    if measured.columns.any() and not measured.has_phase:
        return "`kspace`: holds magnitudes alone; both parts of its complex numbers are needed"
    axes = [axis for axis, excess in zip("yx", measured.at_ends) if excess > 0]
    if axes:
        return (
            f"`kspace`: its signal lies at the ends of {' and '.join(axes)}, not in the middle: its origin is at index "
            f"0; apply `fftshift` along {' and '.join(axes)}"
        )
    if mask is not None and mask.ndim == 2:
        return _fault_of_samples(measured.samples, mask, padding) if measured.undersampled else None
    if are_scattered(measured.samples):
        have = "no `mask` dataset" if mask is None else "a `mask` of columns"
        return f"`kspace`: single samples are missing in both directions, and there is {have}; a mask (y, x) is needed"
    if _has_gaps(measured.rows):
        return "`kspace`: rows are missing, not columns: phase encoding must be the last axis; swap the last two axes"
    if mask is None:
        return "undersampled but has no `mask` dataset; add one" if measured.undersampled else None
    outermost = np.flatnonzero(measured.columns)
    if not measured.undersampled:
        return None
    inside = np.zeros_like(measured.columns)
    inside[max(padding[0], outermost[0]) : min(padding[1], outermost[-1] + 1)] = True
    absent, unmasked = inside & mask & ~measured.columns, inside & ~mask & measured.columns
    if absent.any():
        return f"`mask`: is 1 where `kspace` is 0 in all coils, {_listed(absent)}; {_right_mask(mask, measured)}"
    if unmasked.any():
        columns = _listed(unmasked)
        return f"`mask`: is 0 where `kspace`, undersampled, was measured, {columns}; {_right_mask(mask, measured)}"
    return None


def _fault_of_samples(
    samples: Bool[np.ndarray, "y x"], mask: Bool[np.ndarray, "y x"], padding: tuple[int, int]
) -> str | None:
    """What is wrong with a mask of samples on undersampled k-space, of which these hold signal; else None."""
    inside = between(samples)
    inside[:, : padding[0]] = inside[:, padding[1] :] = False
    advice = "1 for each measured sample, and only there, is needed"
    for wrong, what in (
        (inside & mask & ~samples, "is 1 where `kspace` is 0 in all coils"),
        (inside & ~mask & samples, "is 0 where `kspace`, undersampled, was measured"),
    ):
        if wrong.any():
            y, x = np.argwhere(wrong)[0].tolist()
            return f"`mask`: {what}, at {int(wrong.sum())} samples, [{y}, {x}] the first; {advice}"
    return None


def _listed(columns: Bool[np.ndarray, " x"]) -> str:
    indices = np.flatnonzero(columns)
    shown = ", ".join(map(str, indices[:4])) + (", ..." if len(indices) > 4 else "")
    return f"column{'s' if len(indices) > 1 else ''} {shown}"


def _right_mask(mask: Bool[np.ndarray, " x"], measured: Measured) -> str:
    """The advice about a mask that is another's."""
    for shift in (1, -1, 2, -2):
        if np.array_equal(np.roll(mask, shift), measured.columns):
            return f"moved by {shift:+d} it fits"
    return "1 for each measured column, and only there, is needed"
