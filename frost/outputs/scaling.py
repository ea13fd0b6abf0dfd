"""Images in few bits: 16 of them for values that are measured, 8 for a look."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8, UInt16

STEPS = 65535
BRIGHT = 99.0  # percentile of a volume that is shown white: a bright scalp must not make the brain dark


class Scaled(NamedTuple):
    """`stored * slope + intercept` is `factor` times the image, to half a slope."""

    stored: UInt16[np.ndarray, "slice y x"]
    slope: float
    intercept: float
    factor: float
    """A power of 1000. Scans are often of 1e-4, which viewers that calculate in integers would show black."""

    def remark(self) -> str:
        """The factor in words, for a reader of the values."""
        return f"values x {self.factor:g}"


def scaled_to_16_bits(images: Float[np.ndarray, "slice y x"]) -> Scaled:
    """65535 equal steps from 0, or from the least value where a network made one below 0, to the maximum of the volume.

    The largest value, times the factor, is from 100 up to 100000. Slope and intercept have nine digits: so they are the
    same in the text of a DICOM file and in 32-bit floats.
    """
    low, high = min(float(images.min()), 0.0), max(float(images.max()), 0.0)
    largest = max(high, -low)
    factor = 1000.0 ** -math.floor(math.log10(largest / 100) / 3) if largest else 1.0
    intercept = float(f"{low * factor:.8e}")
    slope = float(f"{(high * factor - intercept) / STEPS:.8e}") or 1.0
    stored = np.rint((images.astype(np.float64) * factor - intercept) / slope).clip(0, STEPS).astype(np.uint16)
    return Scaled(stored, slope, intercept, factor)


def window_top(images: Float[np.ndarray, "slice y x"]) -> float:
    """The value that is shown white in every slice of a volume; black is 0."""
    return max(float(np.percentile(images, BRIGHT)), 0.0) or max(float(images.max()), 0.0) or 1.0


def windowed(images: Float[np.ndarray, "slice y x"], top: float | None = None) -> UInt8[np.ndarray, "slice y x"]:
    """Grey values, with one window for the volume: its own, or from 0 to `top`."""
    return np.rint(255 * (images / (top or window_top(images))).clip(0, 1)).astype(np.uint8)
