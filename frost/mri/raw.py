"""From a scanner's samples to k-space, in numpy: noise prewhitening and readout oversampling. Without torch."""

import numpy as np
from jaxtyping import Complex

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
