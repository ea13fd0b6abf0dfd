"""What scanners and their users do to k-space and coil images: ends left out, windows, tapers, emptied air."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

WindowShape = Literal["flat", "hann", "fermi", "tukey"]
WINDOWS: tuple[WindowShape, ...] = ("hann", "fermi", "tukey")


@dataclass(frozen=True)
class Processing:
    """What is done to one scan."""

    rows: tuple[int, int]  # measured, [first, one past the last); zeros beyond
    columns: tuple[int, int]
    ellipse: bool  # corners not measured
    window: WindowShape
    strength: float  # of the window, from 0 to 1
    taper: float  # share of the frame at each edge in which coil images fall to zero
    masked: bool  # coil images whose air was emptied


def unprocessed(matrix: tuple[int, int]) -> Processing:
    """As measured."""
    return Processing((0, matrix[0]), (0, matrix[1]), False, "flat", 0.0, 0.0, False)


def kspace_weights(processing: Processing, matrix: tuple[int, int]) -> Float[Tensor, "y x"]:
    """What each sample of k-space is multiplied with, from 0 (not measured) to 1."""
    spans = (processing.rows, processing.columns)
    frequencies = [_frequency(n, span) for n, span in zip(matrix, spans)]
    radius = np.hypot(frequencies[0][:, None], frequencies[1])
    weights = np.ones(matrix)
    if processing.window == "fermi":
        weights /= 1 + np.exp((radius - 1.1 + 0.35 * processing.strength) / 0.06)
    elif processing.window != "flat":
        along = _hann if processing.window == "hann" else _tukey
        weights *= along(frequencies[0], processing.strength)[:, None] * along(frequencies[1], processing.strength)
    if processing.ellipse:
        weights[radius > 1] = 0
    for axis, (first, last) in enumerate(spans):
        beyond = (np.arange(matrix[axis]) < first) | (np.arange(matrix[axis]) >= last)
        weights[beyond if axis == 0 else (slice(None), beyond)] = 0
    return torch.from_numpy(weights.astype(np.float32))


def _frequency(n: int, span: tuple[int, int]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Distance from zero frequency, 1 at the farther end of what was measured."""
    farthest = max(n // 2 - span[0], span[1] - 1 - n // 2, 1)
    return np.abs(np.arange(n) - n // 2) / farthest


def _hann(frequency: np.ndarray, strength: float) -> np.ndarray:
    """The Hann window; less strength ends it before it has fallen to 0."""
    return 0.5 + 0.5 * np.cos(np.pi * np.minimum(frequency, 1) * strength)


def _tukey(frequency: np.ndarray, strength: float) -> np.ndarray:
    """Flat, then a cosine's fall to 0 in the outer `strength` / 2 of the frequencies."""
    width = max(strength / 2, 1e-6)
    return 0.5 + 0.5 * np.cos(np.pi * np.clip((frequency - 1 + width) / width, 0, 1))


def image_taper(matrix: tuple[int, int], share: float) -> Float[Tensor, "y x"]:
    """1 in the middle of the frame, falling to 0 at its edges as a cosine over `share` of each side."""
    sides = []
    for n in matrix:
        from_edge = (np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5) / n
        sides.append(0.5 - 0.5 * np.cos(np.pi * np.clip(from_edge / share, 0, 1)))
    return torch.from_numpy(np.outer(*sides).astype(np.float32))


def object_mask(image: Float[Tensor, "y x"]) -> Float[Tensor, "y x"]:
    """1 in the object and 0 in the air, with a soft edge: an image's bright part with its holes filled, grown a little.

    All 1 for an image without any bright part.
    """
    values = image.numpy()
    smooth = ndimage.gaussian_filter(values, 1.5)
    bright = ndimage.binary_closing(smooth > 0.06 * smooth.max(), iterations=3)
    grown = ndimage.binary_dilation(ndimage.binary_fill_holes(bright), iterations=3)
    if not grown.any():
        return torch.ones_like(image)
    return torch.from_numpy(ndimage.gaussian_filter(grown.astype(np.float32), 1.0))
