"""Things that are no heads: phantoms with edges and line pairs, leaves that cover one another, thresholded noise.

Networks that were trained on heads alone make all else look like a head. Every object is a body in air, about as large
as a head, and what is in it, drawn anew for each slice. Coordinates are millimetres in the plane, (y, x) to the front
and right. Lesions and implants come into any object, heads too.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from frost.simulation.params import Kind
from frost.simulation.planes import Array, Grid, Planes, plane_points, spread, turned

Mask = NDArray[np.bool_]
Interior = Callable[[np.random.Generator, Array, Array], Array]  # from (right, anterior) to signal


def object_planes(rng: np.random.Generator, kind: Kind, n_slices: int, grid: Grid) -> Planes:
    """One drawn object of a kind that is no head: `n_slices` planes."""
    heights = spread(0.0, 40.0, n_slices)
    right, anterior = plane_points(grid, 0.0)[:2]
    body = draw_body(rng, right, anterior)
    interior = INTERIORS[kind]
    signal = np.stack([body * interior(rng, right, anterior) for _ in heights])
    return Planes(signal.astype(np.float32), np.repeat(body[None].astype(np.float32), n_slices, axis=0), heights)


def draw_body(rng: np.random.Generator, right: Array, anterior: Array) -> Mask:
    """A superellipse of drawn size, place, tilt and squareness, whose outline may be wavy."""
    x, y = _moved(rng, right, anterior, 12.0)
    half_x, half_y = rng.uniform(55, 95), rng.uniform(60, 115)
    power = rng.choice([2.0, 2.0, 3.0, 8.0])
    reach = ((np.abs(x) / half_x) ** power + (np.abs(y) / half_y) ** power) ** (1 / power)
    if rng.uniform() < 0.4:
        angle = np.arctan2(y, x)
        for waves in (2, 3, 5):
            reach = reach * (1 + rng.normal(0, 0.15 / waves) * np.cos(waves * angle + rng.uniform(0, 2 * np.pi)))
    return np.asarray(reach < 1)


def _moved(rng: np.random.Generator, x: Array, y: Array, deviation: float) -> tuple[Array, Array]:
    """Coordinates about a drawn middle, turned by a drawn angle."""
    angle, (there_x, there_y) = rng.uniform(0, 2 * np.pi), rng.normal(0, deviation, 2)
    x, y = x - np.float32(there_x), y - np.float32(there_y)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cosine * x + sine * y, cosine * y - sine * x


# ---- phantoms


def phantom(rng: np.random.Generator, right: Array, anterior: Array) -> Array:
    """A uniform body with none to a dozen parts of other signals: those of test objects for resolution and contrast."""
    signal = np.full(right.shape, rng.uniform(0.3, 1), np.float32)
    parts = (discs, bars, fan, grid_lines, wedge_steps)
    for _ in range(int(rng.integers(0, 13))):
        part = parts[int(rng.integers(len(parts)))]
        x, y = _moved(rng, right, anterior, 45.0)
        signal = part(rng, signal, x, y)
    return signal


def discs(rng: np.random.Generator, signal: Array, x: Array, y: Array) -> Array:
    """A row of discs or rings, each smaller than the one before."""
    radius, space = rng.uniform(3, 14), rng.uniform(2.2, 3.5)
    level, hollow = rng.uniform(0, 1.2), rng.uniform(0, 0.8) if rng.uniform() < 0.3 else 0.0
    place = 0.0
    for _ in range(int(rng.integers(1, 6))):
        reach = np.hypot(x - place, y)
        signal = np.where((reach < radius) & (reach >= hollow * radius), np.float32(level), signal)
        place += space * radius
        radius *= 0.8
    return signal


def bars(rng: np.random.Generator, signal: Array, x: Array, y: Array) -> Array:
    """Groups of line pairs, from 8 mm to 1 mm wide, ever finer."""
    level, width = rng.uniform(0, 1.2), rng.uniform(2, 8)
    half, place = rng.uniform(8, 25), 0.0
    for _ in range(int(rng.integers(1, 5))):
        n_bars = int(rng.integers(3, 7))
        along = x - place
        inside = (along >= 0) & (along < (2 * n_bars - 1) * width) & (np.abs(y) < half)
        signal = np.where(inside & (along % (2 * width) < width), np.float32(level), signal)
        place += 2 * (n_bars + 1) * width
        width *= 0.7
    return signal


def fan(rng: np.random.Generator, signal: Array, x: Array, y: Array) -> Array:
    """Spokes that meet in a point: every spatial frequency up to the finest."""
    n_spokes, inner, outer = int(rng.integers(8, 40)), rng.uniform(2, 15), rng.uniform(30, 80)
    opening = rng.uniform(0.5, np.pi)
    reach, angle = np.hypot(x, y), np.arctan2(y, x)
    inside = (reach > inner) & (reach < outer) & (np.abs(angle) < opening)
    odd = np.floor((angle + opening) / (2 * opening) * 2 * n_spokes) % 2 == 1
    return np.where(inside & odd, np.float32(rng.uniform(0, 1.2)), signal)


def grid_lines(rng: np.random.Generator, signal: Array, x: Array, y: Array) -> Array:
    """Thin lines that cross, as in phantoms for geometry."""
    spacing, width, half = rng.uniform(6, 20), rng.uniform(0.8, 2.5), rng.uniform(20, 60)
    lines = (x % spacing < width) | (y % spacing < width)
    return np.where(lines & (np.abs(x) < half) & (np.abs(y) < half), np.float32(rng.uniform(0, 1.2)), signal)


def wedge_steps(rng: np.random.Generator, signal: Array, x: Array, y: Array) -> Array:
    """A rectangle of steps from one grey to another."""
    n_steps, half_x, half_y = int(rng.integers(1, 7)), rng.uniform(8, 35), rng.uniform(5, 25)
    levels = np.linspace(rng.uniform(0, 1.2), rng.uniform(0, 1.2), n_steps).astype(np.float32)
    step = np.clip((x + half_x) / (2 * half_x) * n_steps, 0, n_steps - 1).astype(int)
    return np.where((np.abs(x) < half_x) & (np.abs(y) < half_y), levels[step], signal)


# ---- shapes and textures


def leaves(rng: np.random.Generator, right: Array, anterior: Array) -> Array:
    """Dead leaves: ellipses and rectangles that cover one another, whose sizes fall off as natural images' do
    (Lee, Mumford and Huang 2001, doi:10.1023/A:1011109015675); each of one grey with a slope.
    """
    signal = np.full(right.shape, rng.uniform(0, 1), np.float32)
    smallest, largest = rng.uniform(2.5, 8), rng.uniform(30, 70)
    n_leaves = int(rng.integers(150, 500))
    # Density of radius r ~ r^-3, by the inverse of its distribution; the largest first, or none would be seen below.
    share = rng.uniform(size=n_leaves)
    radii = np.sort(1 / np.sqrt(1 / smallest**2 + share * (1 / largest**2 - 1 / smallest**2)))[::-1]
    order = rng.permutation(n_leaves) if rng.uniform() < 0.5 else np.arange(n_leaves)
    columns, rows = right[0], anterior[:, 0]
    for radius in radii[order]:
        middle_x, middle_y = rng.uniform(-100, 100), rng.uniform(-120, 120)
        box = np.ix_(np.abs(rows - middle_y) < 1.5 * radius, np.abs(columns - middle_x) < 1.5 * radius)
        turn, flatness = rng.uniform(0, np.pi), rng.uniform(0.4, 1)
        x, y = right[box] - np.float32(middle_x), anterior[box] - np.float32(middle_y)
        along = (np.cos(turn) * x + np.sin(turn) * y) / radius
        across = (np.cos(turn) * y - np.sin(turn) * x) / (radius * flatness)
        square = rng.uniform() < 0.4
        inside = np.maximum(np.abs(along), np.abs(across)) < 0.8 if square else along**2 + across**2 < 1
        grey = np.maximum(rng.uniform(0, 1) + rng.normal(0, 0.15) * along, 0).astype(np.float32)
        signal[box] = np.where(inside, grey, signal[box])
    return signal


def random_texture(rng: np.random.Generator, right: Array, anterior: Array) -> Array:
    """One of: smooth noise, the same in steps, cells about random points; with another finer one mixed in."""
    coarse = _texture_layer(rng, right, anterior, rng.uniform(8, 40))
    fine = _texture_layer(rng, right, anterior, rng.uniform(1.5, 8))
    share = np.float32(rng.uniform(0, 0.6))
    return (1 - share) * coarse + share * fine


def _texture_layer(rng: np.random.Generator, right: Array, anterior: Array, scale: float) -> Array:
    """Values from 0 to 1 whose features are `scale` mm wide."""
    if rng.uniform() < 0.35:
        return _cells(rng, right, anterior, scale)
    spacing = abs(float(anterior[1, 0] - anterior[0, 0])), abs(float(right[0, 1] - right[0, 0]))
    sigma = [scale / 3 / step for step in spacing]
    field = ndimage.gaussian_filter(rng.standard_normal(right.shape, np.float32), sigma, mode="wrap", truncate=3.0)
    field /= max(float(field.std()), 1e-12)
    smooth = np.clip(0.5 + 0.25 * field, 0, 1).astype(np.float32)
    if rng.uniform() < 0.5:
        return smooth
    n_steps = int(rng.integers(2, 6))
    levels = rng.uniform(0, 1, n_steps).astype(np.float32)
    return levels[np.clip(smooth * n_steps, 0, n_steps - 1).astype(int)]


def _cells(rng: np.random.Generator, right: Array, anterior: Array, scale: float) -> Array:
    """Voronoi cells of drawn greys."""
    n_cells = int(np.clip(260**2 / scale**2, 8, 4000))
    seeds = rng.uniform(-130, 130, (n_cells, 2))
    nearest = cKDTree(seeds).query(np.stack([right.ravel(), anterior.ravel()], axis=1))[1]
    return rng.uniform(0, 1, n_cells).astype(np.float32)[nearest].reshape(right.shape)


INTERIORS: dict[Kind, Interior] = {"phantom": phantom, "shapes": leaves, "texture": random_texture}


# ---- in any object


def with_lesions(rng: np.random.Generator, planes: Planes, grid: Grid, n_lesions: int) -> Planes:
    """The planes with `n_lesions` blobs in each: ellipses with wavy, soft rims, of any brightness."""
    right, anterior = plane_points(grid, 0.0)[:2]
    signal = planes.signal.copy()
    for plane, head in zip(signal, planes.head):
        inside = np.argwhere(head > 0.5)
        for _ in range(n_lesions if len(inside) else 0):
            row, column = inside[int(rng.integers(len(inside)))]
            radius, soft = rng.uniform(1.5, 15), rng.uniform(0.5, 3)  # mm
            x, y = right - right[0, column], anterior - anterior[row, 0]
            angle, flatness = np.arctan2(y, x), rng.uniform(0.5, 1)
            wave = 1 + rng.uniform(0, 0.25) * np.cos(int(rng.integers(2, 6)) * angle + rng.uniform(0, 2 * np.pi))
            share = np.clip((radius * wave - np.hypot(x, y / flatness)) / soft + 0.5, 0, 1) * rng.uniform(0.3, 1) * head
            level = rng.uniform(0, 1.3) * np.quantile(plane, 0.98)
            plane += (share * (level - plane)).astype(np.float32)
    return Planes(signal, planes.head, planes.heights)


Implant = Callable[[Array], NDArray[np.complex64]]


def draw_implant(rng: np.random.Generator, planes: Planes, grid: Grid, pose: Array) -> Implant:
    """What metal in the object does to the signal at points (3, y, x) mm: a void, and a dipole's phase around it.

    The field of a sphere of radius R at distance r is (3 cos^2 - 1) (R / r)^3 (Schenck 1996, doi:10.1118/1.597854).
    Around the void it turns the phase so fast that voxels lose their signal: that comes of the rendering on the finer
    grid. `pose`: where the main field points.
    """
    slice_number = int(rng.integers(len(planes.heights)))
    radius, turns, beside = rng.uniform(3, 10), rng.uniform(2, 10), rng.uniform(-10, 10)  # mm, radians, mm
    inside = np.argwhere(planes.head[slice_number] > 0.5)
    row, column = inside[int(rng.integers(len(inside)))] if len(inside) else (grid.shape[0] // 2, grid.shape[1] // 2)
    where = plane_points(grid, float(planes.heights[slice_number]) + beside)[:, row, column]

    def effect(points: Array) -> NDArray[np.complex64]:
        apart = turned(points - where[:, None, None].astype(np.float32), pose)
        distance = np.maximum(np.sqrt((apart**2).sum(axis=0)), 1e-3)
        nearness = (radius / distance) ** 3
        angle = turns * (3 * (apart[2] / distance) ** 2 - 1) * nearness
        return np.asarray(np.exp(-np.minimum(nearness**2, 50) + 1j * np.clip(angle, -100, 100)), np.complex64)

    return effect
