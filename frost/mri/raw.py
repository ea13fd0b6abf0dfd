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


def measured_columns(slices: Iterable[Complex[np.ndarray, "coil y x"]]) -> Bool[np.ndarray, " x"]:
    """The columns that are not zero in some coil of some slice: the mask, where nothing tells it.

    Raises InputError where slices were measured on different columns, or single samples are missing rather than
    columns, as under masks in two directions. Empty slices tell nothing.
    """
    columns: Bool[np.ndarray, " x"] | None = None
    for i, kspace in enumerate(slices):
        support = (kspace != 0).any(axis=0)
        rows, found = support.any(axis=1), support.any(axis=0)
        if not found.any():
            continue
        if support.sum() < 0.9 * rows.sum() * found.sum():
            raise InputError("samples are missing in both directions; masks of whole phase-encoding lines are read")
        if columns is None:
            columns = found
        if not np.array_equal(columns, found):
            raise InputError(
                f"slice {i} was measured on other lines than those before it ({found.sum()} and {columns.sum()}); "
                "one mask for all slices is needed"
            )
        if not has_gaps(found):
            return found  # complete: the other slices need not be read
    if columns is None:
        raise InputError("all samples are zero")
    return columns


def extent(columns: Bool[np.ndarray, " x"]) -> tuple[int, int]:
    """[first, last + 1) of the measured columns."""
    indices = np.flatnonzero(columns)
    return int(indices[0]), int(indices[-1]) + 1


def has_gaps(columns: Bool[np.ndarray, " x"]) -> bool:
    """Whether lines are missing between measured ones; those at the edges are a scanner's padding."""
    return not columns[slice(*extent(columns))].all()


def require_centre(columns: Bool[np.ndarray, " x"]) -> None:
    """Raise InputError where the two middle lines were not measured."""
    centre = len(columns) // 2
    if not columns[max(centre - 1, 0) : centre + 1].all():
        raise InputError(f"the centre of k-space was not measured; lines {centre - 1} and {centre} are needed")
