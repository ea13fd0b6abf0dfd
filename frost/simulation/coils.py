"""Receiver coils: wire loops around the head, what they receive, and how their noise is correlated."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex
from numpy.typing import NDArray
from torch import Tensor

from frost.simulation.planes import Grid


@dataclass(frozen=True)
class CoilArray:
    """Where the loops of a receiver array stand."""

    n_coils: int
    n_rows: int
    radius: float  # of the ring; 1 leaves room for a head
    loops: float  # size of the loops; 1 lets neighbours overlap a little
    arc: float  # that the array covers, radians
    middle: float  # of the arc, radians from the front


def head_array(n_coils: int) -> CoilArray:
    """A ring around a head; more than eight coils stand in two rows."""
    return CoilArray(n_coils, 1 + (n_coils > 8), radius=1.0, loops=1.0, arc=2 * np.pi, middle=0.0)


def draw_loops(rng: np.random.Generator, array: CoilArray) -> NDArray[np.float64]:
    """Wire loops in a ring, facing the head: corners (coil, corner, 3) mm, the first repeated at the end.

    Places, sizes and tilts vary by a few millimetres and degrees.
    """
    n_corners, n_coils, n_rows = 16, array.n_coils, array.n_rows
    angles = array.arc * (np.arange(n_coils) + rng.uniform(-0.5, 0.5)) / n_coils + rng.normal(0, 0.04, n_coils)
    if array.arc < 2 * np.pi:
        angles += array.middle - array.arc / 2
    outward = np.stack([np.sin(angles), np.cos(angles), np.zeros(n_coils)], axis=1)
    centres = outward * (115, 135, 0) * array.radius + rng.normal(0, 4, (n_coils, 3))
    centres[:, 2] += 20 + 70 * (np.arange(n_coils) % n_rows - (n_rows - 1) / 2)
    along = np.cross(outward, (0, 0, 1))
    radii = np.clip(array.arc * 125 * n_rows / n_coils / 2 * 1.1, 35, 70) * array.loops * rng.normal(1, 0.05, n_coils)
    turn = np.linspace(0, 2 * np.pi, n_corners + 1)
    around = np.cos(turn)[:, None] * along[:, None] + np.sin(turn)[:, None] * np.array([0, 0, 1.0])
    return np.asarray(centres[:, None] + radii[:, None, None] * around)


def sensitivities(loops: NDArray[np.float64], grid: Grid, height: float) -> Complex[Tensor, "coil y x"]:
    """What the loops receive in a plane: B_x - i B_y of a unit current in each (Biot-Savart; Hoult 2000,
    doi:10.1002/1099-0534(2000)12:4<173::AID-CMR1>3.0.CO;2-Q), delayed by the wave's travel through the head.

    Computed on a coarse grid, as nothing in it is fine, and interpolated.
    """
    # mm: the wave of 128 MHz in tissue; how near to a wire counts as near
    coarse, wavelength, soft = 41, 260.0, 12.0
    sides = zip(grid.shape, grid.extent)
    along = [-(np.linspace(0, n - 1, coarse) - n // 2) * (extent / n) for n, extent in sides]
    anterior, right = np.meshgrid(*along, indexing="ij")
    points = np.stack([right, anterior, np.full_like(right, height)], axis=-1)
    field = np.zeros((len(loops), coarse, coarse), np.complex128)
    for start, end in zip(loops[:, :-1].swapaxes(0, 1), loops[:, 1:].swapaxes(0, 1)):
        wire = (end - start)[:, None, None]
        reach = points - ((start + end) / 2)[:, None, None]
        cubed = (reach[..., 0] ** 2 + reach[..., 1] ** 2 + reach[..., 2] ** 2 + soft**2) ** 1.5
        field_x = wire[..., 1] * reach[..., 2] - wire[..., 2] * reach[..., 1]
        field_y = wire[..., 2] * reach[..., 0] - wire[..., 0] * reach[..., 2]
        field += (field_x - 1j * field_y) / cubed
    away = np.sqrt(((points - loops[:, :-1].mean(axis=1)[:, None, None]) ** 2).sum(axis=-1))
    field *= np.exp(-2j * np.pi * away / wavelength)
    parts = torch.view_as_real(torch.from_numpy(field.astype(np.complex64))).permute(3, 0, 1, 2)
    parts = torch.nn.functional.interpolate(parts, grid.shape, mode="bicubic", align_corners=True)
    return torch.complex(parts[0], parts[1])


def draw_gains(rng: np.random.Generator, n_coils: int, deviation: float) -> Complex[Tensor, " coil"]:
    """A gain and a phase of each receiver; `deviation` is that of the gain's logarithm."""
    gains = np.exp(deviation * rng.standard_normal(n_coils) + 2j * np.pi * rng.uniform(size=n_coils))
    return torch.from_numpy(gains.astype(np.complex64))


def draw_mixing(rng: np.random.Generator, n_coils: int, correlation: float) -> Complex[Tensor, "coil coil"]:
    """M that makes noise of covariance M M' from white noise: unit variances, `correlation` between neighbours.

    It falls off as its power with the number of coils between two, at a phase of each coil's own. Written out, not
    factorised: LAPACK may round in another way on another number of threads.
    """
    row, column = np.indices((n_coils, n_coils))
    mixing = np.where(column > row, 0.0, correlation ** np.maximum(row - column, 0))
    mixing[:, 1:] *= np.sqrt(1 - correlation**2)
    phases = np.exp(1j * rng.uniform(-np.pi, np.pi, n_coils))
    return torch.from_numpy((phases[:, None] * mixing).astype(np.complex64))


def complex_noise(
    rng: np.random.Generator, shape: tuple[int, ...], mixing: Complex[Tensor, "coil coil"] | None
) -> Complex[Tensor, "slice coil y x"]:
    """Gaussian noise whose real and imaginary parts have deviation 1: white, or mixed between coils."""
    noise = torch.view_as_complex(torch.from_numpy(rng.standard_normal((*shape, 2), np.float32)))
    return noise if mixing is None else torch.einsum("cd,sdyx->scyx", mixing, noise)
