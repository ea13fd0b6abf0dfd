"""Planes through a head: where their points lie, and the signal and the share of head in each.

Points are in millimetres, (3, ...) = right, anterior, superior. Planes are seen as radiologists see them: row 0 is
the front, column 0 the right side. A slice is rendered from thin planes, so that a voxel mixes tissues in depth too.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

THICKNESS = 4.5  # of a slice, mm
N_THIN = 2  # thin planes to a slice


class Grid(NamedTuple):
    """Points of a plane: how many, (y, x), and how far from the first to one past the last, (y, x) mm."""

    shape: tuple[int, int]
    extent: tuple[float, float]


@dataclass(frozen=True)
class Planes:
    """Slices of one head on a fine grid: signal, and the share of head in each voxel, both (slice, y, x)."""

    signal: Array
    head: Array
    heights: Array  # (slice,) mm above the middle


def plane_points(grid: Grid, height: float) -> Array:
    """Points (3, y, x) of a plane."""
    spacings = [np.float32(extent / n) for n, extent in zip(grid.shape, grid.extent)]
    along = [-(np.arange(n, dtype=np.float32) - n // 2) * spacing for n, spacing in zip(grid.shape, spacings)]
    anterior, right = np.meshgrid(*along, indexing="ij")
    return np.stack([right, anterior, np.full_like(right, height)])


def rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation by three angles (radians), one axis after the other."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        matrix = np.einsum("ij,jk->ik", step, matrix)
    return matrix


def turned(points: Array, pose: Array) -> Array:
    """Points (3, ...) after a rotation (3, 3). No matrix product, as in `SmoothField`."""
    return np.stack([sum(pose[i, j] * points[j] for j in range(3)) for i in range(3)]).astype(np.float32)


def thin_heights(height: float) -> Array:
    """The thin planes that make one slice."""
    return height + np.float32(THICKNESS / N_THIN) * (np.arange(N_THIN, dtype=np.float32) - (N_THIN - 1) / 2)


def spread(first: float, last: float, n: int) -> Array:
    """`n` even positions from first to last; the middle for one."""
    return (np.linspace(first, last, n) if n > 1 else np.array([(first + last) / 2])).astype(np.float32)


@dataclass(frozen=True)
class SmoothField:
    """A random smooth scalar of space with a given deviation: a sum of plane waves of random direction."""

    waves: Array  # (wave, 3), radians per mm
    phases: Array
    deviation: float

    def __call__(self, points: Array) -> Array:
        """Values at points (3, ...) mm."""
        total = np.zeros(points.shape[1:], np.float32)
        # No matrix product: BLAS may sum in another order on another number of threads.
        for (kx, ky, kz), phase in zip(self.waves, self.phases):
            total += np.cos(kx * points[0] + ky * points[1] + kz * points[2] + phase)
        return total * np.float32(self.deviation * np.sqrt(2 / len(self.phases)))


def smooth_field(rng: np.random.Generator, wavelength: float, deviation: float, n_waves: int = 6) -> SmoothField:
    """Draw a field whose waves are `wavelength` mm long, give or take a third."""
    directions = rng.normal(size=(n_waves, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = wavelength * rng.uniform(0.67, 1.33, size=(n_waves, 1))
    phases = rng.uniform(0, 2 * np.pi, n_waves)
    return SmoothField((2 * np.pi * directions / lengths).astype(np.float32), phases.astype(np.float32), deviation)
