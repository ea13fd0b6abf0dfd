"""The MNI152 template dressed as many subjects: a head drawn at random, its tissues, and their signal in planes.

The template is a brain without a skull; skull and scalp are layers around it, vessels and lesions are drawn into it.
Every subject is a warp of this one brain.
"""

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from frost.errors import InputError
from frost.simulation.planes import (
    N_THIN,
    Array,
    Grid,
    Planes,
    SmoothField,
    plane_points,
    rotation,
    smooth_field,
    spread,
    thin_heights,
    turned,
)

MARGIN = 28  # mm around the brain that hold all of skull and scalp
LOWEST, HIGHEST = -14.0, 52.0  # of the slices, mm above the template's origin: below there would have to be a face

# T1 and T2 (ms) and proton density at 3 T, for the brain near those of Wansapura 1999 (J Magn Reson Imaging
# 9:531); the rest are round numbers. Blood moves, and so has no spin-echo signal: see `tissue_signals`.
RELAXATION = {
    "grey": (1330.0, 100.0, 0.82),
    "white": (830.0, 72.0, 0.74),
    "fluid": (4000.0, 1500.0, 1.00),
    "lesion": (1450.0, 170.0, 0.86),
    "bone": (1000.0, 8.0, 0.12),
    "marrow": (600.0, 65.0, 0.40),
    "fat": (420.0, 150.0, 0.58),
    "muscle": (1400.0, 40.0, 0.75),
    "skin": (1000.0, 80.0, 0.70),
    "vessel": (0.0, 0.0, 0.0),
}
TISSUES = tuple(RELAXATION)
CONTRASTS = ("AXT1", "AXT2", "AXFLAIR")
RANDOM = "AXRANDOM"

# Courses of the larger vessels in the template, mm; the right side's are mirrored.
VESSELS = (
    ((0, -20, -45), (0, -16, -25), (2, -14, -12), (14, -14, -8), (24, -26, -4), (22, -45, 0), (12, -70, 2)),
    ((12, 2, -16), (26, 6, -14), (40, 4, -6), (44, -6, 2), (42, -22, 10), (50, -36, 22)),
    ((42, 2, -2), (50, 14, 14), (52, 10, 34), (48, 6, 50)),
    ((10, 4, -14), (3, 16, -10), (3, 36, 2), (3, 38, 16), (3, 20, 30), (4, -10, 40), (5, -35, 52)),
    ((3, -42, 4), (2, -50, 12), (1, -70, 10)),
)  # fmt: skip


@dataclass(frozen=True)
class Template:
    """Tissue fractions and distances (mm) on a 1 mm grid, indexed right, anterior, superior from `corner`."""

    grey: Array
    white: Array
    brain_distance: Array  # outside the brain; 0 in it
    hull_distance: Array  # outside the brain with its fissures and its base closed; negative inside
    corner: Array

    def sample(self, name: str, points: Array) -> Array:
        """Linear interpolation of one of the maps at points (3, n) mm."""
        indices = points - self.corner[:, None]
        values = ndimage.map_coordinates(getattr(self, name), indices, order=1, mode="nearest")
        return np.asarray(values, np.float32)


@functools.lru_cache(maxsize=1)
def load_template() -> Template:
    """The ICBM 2009a template (Fonov 2009, doi:10.1016/S1053-8119(09)70884-5), from nilearn's own files.

    nilearn itself is not imported: it would bring scikit-learn and pandas for two files. They are a brain
    without a skull, whose layers therefore come from the distance to the brain.
    """
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise InputError("nilearn: not installed; it ships the head that `simulate` starts from")
    folder = Path(spec.origin).parent / "datasets" / "data"
    maps: list[Array] = []
    for kind in ("gm", "wm"):
        image = nibabel.load(folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz")
        maps.append(np.pad(np.asarray(image.dataobj, np.float32) / np.float32(255), MARGIN))
    corner = np.asarray(image.affine[:3, 3], np.float32) - MARGIN
    brain_distance, hull_distance = _distances(maps[0] + maps[1] > 0.3)
    grey, white = maps
    return Template(grey, white, brain_distance, hull_distance, corner)


def _distances(brain: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Distance (mm) to the brain, and signed distance to its hull: at half resolution, as both are smooth."""
    shape = tuple(2 * (n // 2) for n in brain.shape)
    blocks = brain[: shape[0], : shape[1], : shape[2]].reshape(shape[0] // 2, 2, shape[1] // 2, 2, -1, 2)
    coarse = blocks.mean(axis=(1, 3, 5)) >= 0.5
    outside = 2 * ndimage.distance_transform_edt(~coarse)
    reach = 20.0  # closes the fissures, and the base between the temporal lobes
    hull = 2 * ndimage.distance_transform_edt(outside <= reach) > reach
    signed = 2 * (ndimage.distance_transform_edt(~hull) - ndimage.distance_transform_edt(hull))
    signed = ndimage.gaussian_filter(signed, 1.5)

    def upsample(coarse_map: NDArray[np.float64]) -> Array:
        grid = [(np.arange(n) - 0.5) / 2 for n in brain.shape]
        fine = coarse_map.astype(np.float32)
        for axis, where in enumerate(grid):  # linear, one axis after the other: far quicker than all three at once
            low = np.clip(np.floor(where).astype(int), 0, fine.shape[axis] - 2)
            weight = np.clip(where - low, 0, 1).astype(np.float32)
            weight = weight.reshape([-1 if i == axis else 1 for i in range(3)])
            fine = fine.take(low, axis) * (1 - weight) + fine.take(low + 1, axis) * weight
        return fine

    return upsample(outside), upsample(signed)


# ---- a subject


@dataclass(frozen=True)
class Subject:
    """Everything that makes one head differ from the template."""

    to_template: Array  # (3, 3): rotation and scale
    centre: Array  # (3,) the template's point at the middle of the frame, mm
    build: tuple[SmoothField, ...]  # three components of a smooth warp of the head, mm
    folds: tuple[SmoothField, ...]  # and of a finer one of the brain alone
    atrophy: float  # how much fluid wins where it competes with brain
    layers: tuple[tuple[float, SmoothField], ...]  # mean thickness (mm) of fluid, skull, scalp, and its variation
    base: SmoothField  # marrow against bone in the skull's base
    lesions: NDArray[np.float64]  # (lesion, 4): centre and radius, mm
    vessels: NDArray[np.float64]  # (point, 4): place and radius, mm


def draw_subject(rng: np.random.Generator, template: Template) -> Subject:
    """Draw a head: a few per cent of size, degrees of tilt, millimetres of shape; folds, lesions, vessels."""
    turn = np.deg2rad(rng.normal(0, (4.0, 2.5, 4.0)))  # about the right, anterior and superior axes
    size = 0.93 * rng.normal(1, 0.025) * rng.normal(1, 0.02, size=3)  # the template is larger than people are
    centre = np.array([0, -16, 0]) + rng.normal(0, (3, 3, 3))
    return Subject(
        to_template=(rotation(turn) / size).astype(np.float32),
        centre=centre.astype(np.float32),
        build=tuple(smooth_field(rng, 150.0, 2.3) for _ in range(3)),
        folds=tuple(smooth_field(rng, 24.0, 0.9, n_waves=8) for _ in range(3)),
        atrophy=rng.uniform(0.8, 2.2),
        layers=tuple(
            (rng.normal(mean, 0.12 * mean), smooth_field(rng, length, 0.1 * mean))
            for mean, length in ((2.8, 50.0), (7.0, 90.0), (6.0, 90.0))
        ),
        base=smooth_field(rng, 14.0, 1.0, n_waves=10),
        lesions=_draw_lesions(rng, template),
        vessels=_draw_vessels(rng),
    )


def _draw_lesions(rng: np.random.Generator, template: Template) -> NDArray[np.float64]:
    """Small lesions (lesion, 4: centre, radius) in the white matter, most of them beside the ventricles."""
    wanted = rng.poisson(6)
    lesions = np.empty((0, 4))
    while len(lesions) < wanted:
        points = rng.uniform((-40, -70, LOWEST), (40, 45, HIGHEST), size=(64, 3))
        deep = template.sample("white", points.T.astype(np.float32)) > 0.9
        radii = rng.uniform(1.2, 4.0, size=(64, 1))
        lesions = np.concatenate([lesions, np.hstack([points, radii])[deep]])
    return lesions[:wanted]


def _draw_vessels(rng: np.random.Generator) -> NDArray[np.float64]:
    """Points (point, 4: place, radius), a third of a millimetre apart, along vessels and small branches."""
    tubes = []
    for side in (-1, 1):
        for course in VESSELS:
            corners = np.array(course, float) * (side, 1, 1) + rng.normal(0, 2.0, size=(len(course), 3))
            tubes.append((corners, rng.uniform(0.9, 1.6)))
    for _ in range(24):  # branches: short random walks over the brain
        start = rng.uniform((-60, -90, LOWEST), (60, 55, HIGHEST + 15), size=3)
        steps = np.cumsum(rng.normal(0, 6.0, size=(5, 3)), axis=0)
        tubes.append((start + steps, rng.uniform(0.5, 0.9)))
    points = []
    for corners, radius in tubes:
        n_points = 3 * int(np.linalg.norm(np.diff(corners, axis=0), axis=1).sum()) + 2
        where = np.linspace(0, len(corners) - 1, n_points)
        curve = np.stack([np.interp(where, np.arange(len(corners)), axis) for axis in corners.T], axis=1)
        points.append(np.hstack([curve, np.full((n_points, 1), radius)]))
    return np.concatenate(points)


def to_template(subject: Subject, points: Array) -> Array:
    """Where points (3, n) of the frame lie in the template, by the head's size, tilt and build."""
    matrix = subject.to_template
    placed = np.stack([sum(matrix[i, j] * points[j] for j in range(3)) for i in range(3)])
    placed += subject.centre[:, None]
    return placed + np.stack([field(placed) for field in subject.build])


def tissue_fractions(subject: Subject, template: Template, built: Array, hull: Array) -> Array:
    """How much of each of TISSUES is at a place: (tissue, n), summing to 1 in the head and to 0 in air.

    `built` (3, n) comes from `to_template`, `hull` (n,) is the distance to the hull there. Skull and scalp
    go by it; the brain has folds of its own.
    """
    out = dict.fromkeys(TISSUES, np.zeros(built.shape[1], np.float32))
    points = built + np.stack([field(built) for field in subject.folds])
    edges = _layer_edges(subject, built)
    cavity, skull, head = (_within(hull, edge) for edge in edges)

    # The template's maps are averages of many brains; squared, they are as crisp as one.
    grey, white = (template.sample(name, points) for name in ("grey", "white"))
    fluid = np.clip(1 - grey - white, 0, 1)
    shares = np.stack([grey**2, white**2, subject.atrophy * fluid**2]) + 1e-6
    grey, white, fluid = cavity * shares / shares.sum(axis=0)
    base = fluid * (1 - _within(template.sample("brain_distance", points), 5.0))  # no brain near: the skull's base
    marrow_in_base = np.clip(0.5 + 0.6 * subject.base(points), 0, 1)

    lesion = white * _lesion_share(subject, points)
    vessel = np.clip(_vessel_share(subject, points, hull) + _sinus_share(built, hull), 0, 1) * (grey + white + fluid)
    remaining = 1 - vessel / np.maximum(grey + white + fluid, 1e-6)

    diploe = _within(hull, edges[1] - 1.6) - _within(hull, edges[0] + 1.6)
    diploe = np.clip(diploe, 0, 1) * np.clip(0.7 + 0.3 * subject.base(points), 0, 1)
    fleshy = head - skull
    under_skin = np.clip(_within(hull, edges[2] - 1.8) - skull, 0, 1)
    muscle = under_skin * _temple_share(built) * _within(hull, edges[2] - 3.5)

    out.update(
        grey=grey * remaining, white=(white - lesion) * remaining, lesion=lesion * remaining, vessel=vessel,
        fluid=(fluid - base) * remaining, muscle=muscle, fat=under_skin - muscle, skin=fleshy - under_skin,
        marrow=diploe + base * remaining * marrow_in_base,
        bone=skull - cavity - diploe + base * remaining * (1 - marrow_in_base),
    )  # fmt: skip
    return np.stack([out[name] for name in TISSUES])


def _layer_edges(subject: Subject, points: Array) -> list[Array]:
    """Distances from the hull (mm) where cavity, skull and scalp end; the temples carry more flesh."""
    edges: list[Array] = []
    edge = np.zeros(points.shape[1], np.float32)
    for (mean, variation), least in zip(subject.layers, (0.8, 4.2, 3.6)):
        edge = edge + np.maximum(mean + variation(points), least).astype(np.float32)
        edges.append(edge)
    edges[2] = edges[2] + 3 * _temple_share(points)
    return edges


def _within(distance: Array, edge: Array | float) -> Array:
    """1 where `distance` is less than `edge`, 0 beyond, with a ramp one millimetre wide."""
    return np.asarray(np.clip(edge - distance + 0.5, 0, 1), np.float32)


def _temple_share(points: Array) -> Array:
    """1 at the temples, where the chewing muscle covers the skull, falling to 0."""
    x, y, z = points
    shape = np.exp(-(((y - 8) / 32) ** 2)) / (1 + np.exp((z - 22) / 7)) / (1 + np.exp((50 - np.abs(x)) / 4))
    return np.asarray(shape, np.float32)


def _lesion_share(subject: Subject, points: Array) -> Array:
    """Soft balls, 1 in the middle of a lesion."""
    share = np.zeros(points.shape[1], np.float32)
    for x, y, z, radius in subject.lesions.astype(np.float32):
        distance = np.sqrt((points[0] - x) ** 2 + (points[1] - y) ** 2 + (points[2] - z) ** 2)
        share = np.maximum(share, np.clip((radius - distance) / 1.2 + 0.5, 0, 1).astype(np.float32))
    return share


def _vessel_share(subject: Subject, points: Array, hull: Array) -> Array:
    """1 in a vessel's lumen. Searched only near the brain: the search is the slowest part of all."""
    reach, share = 3.0, np.zeros_like(hull)
    near = hull < 6
    tree = cKDTree(subject.vessels[:, :3])
    distance, nearest = tree.query(points[:, near].T, distance_upper_bound=reach, eps=0.1)
    radius = np.append(subject.vessels[:, 3], 0)[nearest]  # "none in reach" is an index past the end
    share[near] = np.clip(radius - np.minimum(distance, reach) + 0.5, 0, 1)
    return share


def _sinus_share(points: Array, hull: Array) -> Array:
    """1 in the superior sagittal sinus: under the skull, in the midline, behind and on top."""
    share = np.exp(-((points[0] / 3.5) ** 4)) * _within(-hull, 2.5) / (1 + np.exp((points[1] + 10) / 8))
    return np.asarray(share, np.float32)


def tissue_signals(rng: np.random.Generator, contrast: str) -> Array:
    """The spin-echo signal of each of TISSUES, (tissue,), with a scanner's and a subject's own variation.

    S = density (1 - exp(-TR/T1)) exp(-TE/T2); inversion makes it |1 - 2 exp(-TI/T1) + exp(-TR/T1)|. Contrast
    RANDOM is none of a sequence: each signal is drawn by itself (SynthSeg; Billot 2023,
    doi:10.1016/j.media.2023.102789).
    """
    if contrast == RANDOM:
        return rng.uniform(0.02, 1.0, len(TISSUES)).astype(np.float32)
    repetition, echo = {"AXT1": (470.0, 10.0), "AXT2": (5200.0, 105.0), "AXFLAIR": (9000.0, 95.0)}[contrast]
    repetition, echo = repetition * rng.uniform(0.85, 1.15), echo * rng.uniform(0.9, 1.1)
    t1, t2, density = np.array([RELAXATION[name] for name in TISSUES[:-1]]).T
    t1, t2, density = (value * rng.normal(1, 0.03, value.shape) for value in (t1, t2, density))
    recovered = 1 - np.exp(-repetition / t1)
    if contrast == "AXFLAIR":
        inversion = t1[TISSUES.index("fluid")] * np.log(2 / (1 + np.exp(-repetition / 4000.0)))  # nulls the fluid
        recovered = np.abs(1 - 2 * np.exp(-inversion * rng.uniform(0.93, 1.0) / t1) + np.exp(-repetition / t1))
    signal = density * recovered * np.exp(-echo / t2)
    # Fresh blood flows into a T1-weighted slice and is bright; it has left before a late echo.
    vessel = 1.25 * signal[TISSUES.index("white")] if contrast == "AXT1" else 0.02
    return np.append(signal, vessel * rng.uniform(0.6, 1.2)).astype(np.float32)


def template_planes(
    rng: np.random.Generator, contrast: str, n_slices: int, grid: Grid, template: Template, pose: Array, grain: float
) -> Planes:
    """One drawn subject in one contrast: `n_slices` planes.

    `pose` (3, 3) turns the planes' points about the middle of the head, the unit matrix leaves them axial;
    `grain` is the strength of the `texture`, 1 that of tissue.
    """
    subject = draw_subject(rng, template)
    signals = tissue_signals(rng, contrast)
    heights = spread(LOWEST, HIGHEST, n_slices) + rng.uniform(-4, 4)
    signal = np.zeros((n_slices, *grid.shape), np.float32)
    head = np.zeros_like(signal)
    for i, height in enumerate(heights):
        for thin in thin_heights(float(height)):
            points = turned(plane_points(grid, float(thin)), pose)
            inside = (points[0] / 100) ** 2 + (points[1] / 122) ** 2 < 1  # no head is larger: spare the air
            built = to_template(subject, points[:, inside])
            hull = template.sample("hull_distance", built)
            near = hull < MARGIN
            inside[inside] = near
            fractions = tissue_fractions(subject, template, built[:, near], hull[near])
            signal[i][inside] += sum(s * f for s, f in zip(signals, fractions)) / N_THIN
            head[i][inside] += fractions.sum(axis=0) / N_THIN
        signal[i] *= texture(rng, grid.shape, grain)
    return Planes(signal, head, heights)


def texture(rng: np.random.Generator, shape: tuple[int, int], strength: float) -> Array:
    """What no tissue map has: a grain of a few per cent at two scales, (y, x), about 1."""
    grain = np.ones(shape, np.float32)
    for width, deviation in ((1.2, 0.03), (3.5, 0.025)):
        noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), width)
        grain += deviation * strength * noise / noise.std()
    return grain
