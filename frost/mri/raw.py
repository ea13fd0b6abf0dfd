"""From a scanner's samples to k-space, in numpy: noise, oversampling, averages, measured lines. Without torch."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Complex

from frost.errors import InputError


def whitening(noise: Complex[np.ndarray, "coil sample"]) -> Complex[np.ndarray, "coil coil"]:
    """The matrix L^-1 that gives the coils independent noise of variance 1: N = n n^H / samples = L L^H.

    Kellman 2005, doi:10.1002/mrm.20713; Hansen 2015, doi:10.1002/mrm.25569. Raises InputError where a coil has no
    noise, or there are too few samples.
    """
    n_coils, n_samples = noise.shape
    noise = noise.astype(np.complex128)
    power = np.square(np.abs(noise)).mean(axis=1)
    if n_samples <= n_coils:
        raise InputError(f"noise scan: {n_samples} samples of {n_coils} coils; more samples than coils are needed")
    if (power == 0).any():
        raise InputError(f"noise scan: coil {int(np.argmin(power))} has no noise; leave that coil out of the file")
    try:
        root = np.linalg.cholesky(noise @ noise.conj().T / n_samples)
    except np.linalg.LinAlgError:
        raise InputError("noise scan: two coils have the same noise; leave one of them out of the file") from None
    return np.linalg.inv(root)


def remove_oversampling(kspace: Complex[np.ndarray, "coil y x"], height: int) -> Complex[np.ndarray, "coil height x"]:
    """k-space of the middle `height` rows of the image: inverse FFT along y, crop, FFT; centred and orthonormal."""
    n = kspace.shape[1]
    if height == n:
        return kspace
    start = n // 2 - height // 2
    image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, axes=1), axis=1, norm="ortho"), axes=1)
    middle = np.fft.ifftshift(image[:, start : start + height], axes=1)
    return np.ascontiguousarray(np.fft.fftshift(np.fft.fft(middle, axis=1, norm="ortho"), axes=1), dtype=kspace.dtype)


def mean_of_averages(averages: Complex[np.ndarray, "average coil y x"]) -> Complex[np.ndarray, "coil y x"]:
    """Each line's mean over the averages in which it was measured, which need not measure the same lines."""
    measured = (averages != 0).any(axis=(1, 2))
    count = np.maximum(measured.sum(axis=0), 1).astype(np.float32)
    return np.ascontiguousarray(averages.sum(axis=0) / count, dtype=np.complex64)


def measured_mask(slices: Iterable[Complex[np.ndarray, "coil y x"]]) -> Bool[np.ndarray, "*y x"]:
    """What is not zero in some coil, the mask where nothing tells it: columns, or samples where single ones lack.

    Raises InputError where slices were measured by different masks. Empty slices tell nothing.
    """
    mask: Bool[np.ndarray, "*y x"] | None = None
    for i, kspace in enumerate(slices):
        samples = (kspace != 0).any(axis=0)
        if not samples.any():
            continue
        found = samples if are_scattered(samples) else samples.any(axis=0)
        if mask is None:
            mask = found
        if not np.array_equal(mask, found):
            what = "samples" if mask.ndim + found.ndim > 2 else "lines"
            raise InputError(
                f"slice {i} was measured on other {what} than those before it ({found.sum()} and {mask.sum()}); "
                "one mask for all slices is needed"
            )
        if not has_gaps(found):
            return found  # complete: the other slices need not be read
    if mask is None:
        raise InputError("all samples are zero")
    return mask


def are_scattered(samples: Bool[np.ndarray, "y x"]) -> bool:
    """Whether of the measured rows and columns single samples are missing, as where two directions are undersampled.

    More than a tenth of what lies between measured ones: some are zero by chance, and corners that the scanner left out
    lie outside.
    """
    rows, columns = samples.any(axis=1), samples.any(axis=0)
    crossed = samples if rows.all() and columns.all() else samples[np.ix_(rows, columns)]
    if crossed.all():
        return False
    inside = between(crossed)
    return int((inside & ~crossed).sum()) > 0.1 * int(inside.sum())


def between(samples: Bool[np.ndarray, "y x"]) -> Bool[np.ndarray, "y x"]:
    """What lies between measured samples of its row or of its column, measured or not: all but corners and margins."""
    since = np.maximum.accumulate
    along = [since(samples, axis) & np.flip(since(np.flip(samples, axis), axis), axis) for axis in (0, 1)]
    return np.asarray(along[0] | along[1])


def as_columns(mask: Bool[np.ndarray, "y x"]) -> Bool[np.ndarray, "*y x"]:
    """A mask of samples as one of columns, where it is that."""
    return mask[0].copy() if (mask == mask[0]).all() else mask


def extent(columns: Bool[np.ndarray, " x"]) -> tuple[int, int]:
    """[first, last + 1) of the measured columns."""
    indices = np.flatnonzero(columns)
    return int(indices[0]), int(indices[-1]) + 1


def has_gaps(mask: Bool[np.ndarray, "*y x"]) -> bool:
    """Whether lines are missing between measured ones; those at the edges are a scanner's padding. So are samples."""
    return mask.ndim == 2 or not mask[slice(*extent(mask))].all()


def require_centre(mask: Bool[np.ndarray, "*y x"]) -> None:
    """Raise InputError where the two middle lines, or the four middle samples, were not measured."""
    middle = tuple(slice(max(n // 2 - 1, 0), n // 2 + 1) for n in mask.shape)
    if not mask[middle].all():
        rows = f"samples of rows {_pair(middle[0])} in " if mask.ndim == 2 else ""
        raise InputError(f"the centre of k-space was not measured; {rows}lines {_pair(middle[-1])} are needed")


def _pair(middle: slice) -> str:
    return f"{middle.start} and {middle.stop - 1}"
