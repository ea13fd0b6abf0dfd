"""Images in few bits: 16 of them for values that are measured, 8 for a look."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8, UInt16

STEPS = 65535
BRIGHT = 99.8  # percentile of a volume that is shown white: a few bright vessels must not make all else dark


class Scaled(NamedTuple):
    """`stored * slope + intercept` is the image, to half a slope."""

    stored: UInt16[np.ndarray, "slice y x"]
    slope: float
    intercept: float


def scaled_to_16_bits(images: Float[np.ndarray, "slice y x"]) -> Scaled:
    """65535 equal steps from 0, or from the least value where a network made one below 0, to the maximum of the volume.

    Slope and intercept have nine digits: so they are the same in the text of a DICOM file and in 32-bit floats.
    """
    intercept = float(f"{min(float(images.min()), 0.0):.8e}")
    slope = float(f"{(float(images.max()) - intercept) / STEPS:.8e}") or 1.0
    stored = np.rint((images.astype(np.float64) - intercept) / slope).clip(0, STEPS).astype(np.uint16)
    return Scaled(stored, slope, intercept)


def window_top(images: Float[np.ndarray, "slice y x"]) -> float:
    """The value that is shown white in every slice of a volume; black is 0."""
    return max(float(np.percentile(images, BRIGHT)), 0.0) or max(float(images.max()), 0.0) or 1.0


def windowed(images: Float[np.ndarray, "slice y x"]) -> UInt8[np.ndarray, "slice y x"]:
    """Grey values, with one window for the volume."""
    return np.rint(255 * (images / window_top(images)).clip(0, 1)).astype(np.uint8)
