"""A scan of given planes: what a scanner would measure of them in a given world.

The planes are rendered on a grid twice as fine, multiplied there by phase and coil sensitivities, Fourier transformed,
and cut to the wanted matrix in k-space: partial volume, ringing and what wraps in from outside the frame are those of
a real scan, and no reconstruction can invert what made the data. Then complex Gaussian noise, and what is done to
k-space afterwards.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Complex, Float
from numpy.typing import NDArray
from torch import Tensor

from frost.mri.coils import center_crop, expand, rss
from frost.mri.fourier import fft2c, ifft2c
from frost.simulation.coils import complex_noise, draw_gains, draw_loops, draw_mixing, sensitivities
from frost.simulation.filters import Processing, image_taper, kspace_weights, object_mask
from frost.simulation.objects import draw_implant
from frost.simulation.planes import Planes, plane_points, smooth_field
from frost.simulation.worlds import FINER, World

PEAK = 6e-4  # of a volume's noise-free target: fastMRI's own magnitude, on which absolute thresholds rely


class Scan(NamedTuple):
    """One simulated volume."""

    kspace: Complex[Tensor, "slice coil y x"]
    target: Float[Tensor, "slice h w"]
    clean_target: Float[Tensor, "slice h w"]
    head: Float[
        Tensor, "slice h w"
    ]  # share of head in each pixel: the truth about the foreground, not written to files


def scan_planes(rng: np.random.Generator, planes: Planes, world: World) -> Scan:
    """What a scanner would measure: phase, transmit bias, coils, the cut in k-space, the scale, the noise."""
    frame = world.frame
    clean = kspace_of_planes(rng, planes, world) * kspace_weights(world.processing, frame.matrix)
    clean = clean * (PEAK / max(float(target_of(clean, frame.crop).max()), 1e-12))
    mixing = draw_mixing(rng, world.array.n_coils, world.correlation) if world.correlation else None
    noise = complex_noise(rng, tuple(clean.shape), mixing) * (world.noise * PEAK)
    noisy = clean + noise * kspace_weights(world.processing, frame.matrix)
    clean, noisy = edited_images(clean, noisy, world.processing)
    head = fold(torch.from_numpy(planes.head), frame.fine)
    head = center_crop(torch.nn.functional.avg_pool2d(head, FINER), frame.crop)
    return Scan(noisy, target_of(noisy, frame.crop), target_of(clean, frame.crop), head)


def target_of(kspace: Complex[Tensor, "slice coil y x"], crop: tuple[int, int]) -> Float[Tensor, "slice h w"]:
    """fastMRI's target: the root-sum-of-squares of the whole k-space, its middle."""
    return center_crop(rss(ifft2c(kspace)), crop).contiguous()


def kspace_of_planes(rng: np.random.Generator, planes: Planes, world: World) -> Complex[Tensor, "slice coil y x"]:
    """Complete k-space without noise, in no particular unit."""
    grid = world.frame.grid
    loops = draw_loops(rng, world.array)
    phase, bias = draw_phase(rng, world.roughness), smooth_field(rng, 300.0, world.bias)
    implant = draw_implant(rng, planes, grid, world.pose) if world.implant else None
    gains = None if world.gain is None else draw_gains(rng, len(loops), world.gain)
    kspace = []
    for signal, height in zip(planes.signal, planes.heights):
        points = plane_points(grid, float(height))
        magnetisation = signal * (1 + bias(points)) * np.exp(1j * phase(points))
        if implant is not None:
            magnetisation = magnetisation * implant(points)
        sens_maps = sensitivities(loops, grid, float(height))
        if gains is not None:
            sens_maps = sens_maps * gains[:, None, None]
        coil_images = fold(expand(torch.from_numpy(magnetisation.astype(np.complex64)), sens_maps), world.frame.fine)
        kspace.append(cut(fft2c(coil_images), world.frame.matrix))
    return torch.stack(kspace)


def fold(images: Tensor, shape: tuple[int, int]) -> Tensor:
    """Images (..., y, x) as a frame of `shape` holds them: what lies outside wraps in from the other side.

    Origins are at index n // 2. A frame not smaller than the images leaves them as they are, in zeros.
    """
    for axis, n in zip((-2, -1), shape):
        have = images.shape[axis]
        if have != n:
            places = (torch.arange(have) - have // 2 + n // 2) % n
            size = list(images.shape)
            size[axis] = n
            images = torch.zeros(size, dtype=images.dtype).index_add_(axis, places, images)
    return images


def cut(kspace: Complex[Tensor, "coil fine_y fine_x"], matrix: tuple[int, int]) -> Complex[Tensor, "coil y x"]:
    """The middle of a finely rendered object's k-space; a flat object keeps its value."""
    scale = math.sqrt(math.prod(matrix) / math.prod(kspace.shape[-2:]))
    for axis, n in zip((-2, -1), matrix):
        # keeps zero frequency at n // 2, whether n is even or odd
        kspace = kspace.narrow(axis, kspace.shape[axis] // 2 - n // 2, n)
    return kspace * scale


def edited_images(
    clean: Complex[Tensor, "slice coil y x"], noisy: Complex[Tensor, "slice coil y x"], processing: Processing
) -> tuple[Complex[Tensor, "slice coil y x"], Complex[Tensor, "slice coil y x"]]:
    """k-space of coil images that someone multiplied with a taper or a mask and then transformed back."""
    if not processing.taper and not processing.masked:
        return clean, noisy
    matrix = (clean.shape[-2], clean.shape[-1])
    weights = torch.ones(len(clean), *matrix)
    if processing.taper:
        weights = weights * image_taper(matrix, processing.taper)
    if processing.masked:
        weights = weights * torch.stack([object_mask(image) for image in rss(ifft2c(clean))])
    edited = [fft2c(ifft2c(kspace) * weights[:, None]) for kspace in (clean, noisy)]
    return edited[0], edited[1]


def draw_phase(rng: np.random.Generator, roughness: float) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The object's phase (radians) at points (3, y, x): offset, ramp, smooth field, frontal sinus.

    With `roughness` all but the offset grow, from nothing at 0; above 1, a head's, the field is also less smooth.
    """
    offset, ramp = rng.uniform(-np.pi, np.pi), rng.normal(0, 0.008 * roughness, 2)  # radians, radians per mm
    field = smooth_field(rng, 180.0 / max(roughness, 1.0), 0.6 * roughness)
    depth = rng.uniform(0.5, 2.5) * roughness

    def phase(points: NDArray[np.float32]) -> NDArray[np.float32]:
        x, y, z = points
        sinus = np.exp(-((x / 25) ** 2) - ((y - 75) / 22) ** 2) * np.exp(-max(float(z.flat[0]) + 15, 0) / 20)
        return np.asarray(offset + ramp[0] * x + ramp[1] * y + field(points) + depth * sinus, np.float32)

    return phase
