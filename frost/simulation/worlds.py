"""The world of one scan, drawn from the ranges of section `simulate`: object, frame, coils, noise, processing.

A world is a function of the parameters and of the scan's number alone. Its draws have a generator of their own, so
that the simple world, which draws nothing here, stays as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from frost.simulation.coils import CoilArray, head_array
from frost.simulation.filters import WINDOWS, Processing, unprocessed
from frost.simulation.params import FrameParams, Kind, Looks, ProcessingParams, Receivers, SimulateParams
from frost.simulation.planes import Array, Grid, rotation

FINER = 2  # the rendering grid against the matrix
WIDEST = 250.0  # mm that the rendering covers at least where the frame may be smaller: what lies outside wraps in
STREAM = 1  # of the generator, apart from that of the scan itself
T = TypeVar("T")


@dataclass(frozen=True)
class Frame:
    """Where k-space is measured, and what image is made of it; all (y, x)."""

    matrix: tuple[int, int]  # of k-space
    crop: tuple[int, int]  # of the image: smaller where the matrix is oversampled
    fov: tuple[float, float]  # mm, of the matrix
    grid: Grid  # of the rendering: covers the object also where the frame does not

    @property
    def fine(self) -> tuple[int, int]:
        """The matrix on the rendering grid."""
        return FINER * self.matrix[0], FINER * self.matrix[1]


@dataclass(frozen=True)
class World:
    """All that is drawn about one scan before its object."""

    kind: Kind
    random_contrast: bool
    pose: Array  # (3, 3) of the planes through a head
    grain: float  # 1 is that of tissue
    bias: float  # deviation of the transmit field
    roughness: float  # of the phase, 1 is that of a head
    n_lesions: int  # in each slice, beside those of the template's subjects
    implant: bool
    frame: Frame
    array: CoilArray
    gain: float | None  # deviation of its logarithm; none: every receiver has gain 1 and phase 0
    correlation: float  # of neighbours' noise
    noise: float
    processing: Processing


def draw_world(params: SimulateParams, number: int) -> World:
    """The world of scan `number`."""
    rng = np.random.default_rng([params.seed, number, STREAM])
    size, fov, n_coils = _whole(rng, params.size), _real(rng, params.fov), _whole(rng, params.coils)
    noise = params.noise[0] + (params.noise[1] - params.noise[0]) * rng.uniform() ** 2
    wide = params.world
    if wide is None:
        frame = Frame((size, size), (size, size), (fov, fov), Grid((FINER * size, FINER * size), (fov, fov)))
        return World(
            kind="head", random_contrast=False, pose=np.eye(3, dtype=np.float32), grain=1.0, bias=0.08, roughness=1.0,
            n_lesions=0, implant=False, frame=frame, array=head_array(n_coils), gain=None, correlation=0.0, noise=noise,
            processing=unprocessed(frame.matrix),
        )  # fmt: skip
    frame = _draw_frame(rng, wide.frame, size, fov, params.size)
    return World(
        kind=_draw_kind(rng, params),
        random_contrast=rng.uniform() < wide.looks.random_contrast,
        pose=_draw_pose(rng, wide.looks),
        grain=_real(rng, wide.looks.grain),
        bias=_real(rng, wide.looks.bias),
        roughness=_real(rng, wide.looks.phase),
        n_lesions=_whole(rng, wide.looks.lesions),
        implant=rng.uniform() < wide.looks.implants,
        frame=frame,
        array=_draw_array(rng, wide.receivers, n_coils),
        gain=_real(rng, wide.receivers.gain),
        correlation=_real(rng, wide.receivers.correlation),
        noise=noise,
        processing=_draw_processing(rng, wide.processing, frame.matrix),
    )


def _real(rng: np.random.Generator, ends: tuple[float, float]) -> float:
    return float(rng.uniform(*ends)) if ends[0] < ends[1] else ends[0]


def _whole(rng: np.random.Generator, ends: tuple[int, int]) -> int:
    return int(rng.integers(ends[0], ends[1], endpoint=True))


def _one(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def _draw_kind(rng: np.random.Generator, params: SimulateParams) -> Kind:
    assert params.world is not None
    objects = params.world.objects
    kinds: tuple[Kind, ...] = ("head", "phantom", "shapes", "texture")
    ends = np.cumsum([getattr(objects, kind) for kind in kinds])
    kind = kinds[int(np.searchsorted(ends, rng.uniform() * ends[-1], side="right"))]
    return kind if params.heads is None else "head"


def _draw_pose(rng: np.random.Generator, looks: Looks) -> Array:
    """From the points of an axial plane to those of the slice, (3, 3)."""
    # Rows of the image run from front to back in an axial plane, and from top to bottom in both others.
    stood_up = {
        "axial": np.eye(3),
        "coronal": np.array([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]]),
        "sagittal": np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]]),
    }[_one(rng, looks.directions)]
    turn = np.deg2rad(_real(rng, looks.turn)) * (1 if rng.uniform() < 0.5 else -1)
    in_plane = rotation(np.array([0.0, 0.0, turn]))
    return np.einsum("ij,jk->ik", stood_up, in_plane).astype(np.float32)


def _draw_frame(
    rng: np.random.Generator, ranges: FrameParams, height: int, fov: float, sides: tuple[int, int]
) -> Frame:
    """`height` rows over `fov` mm, as many columns as the pixel's width makes; then oversampling."""
    narrow, pixel = _real(rng, ranges.narrow), _real(rng, ranges.pixel)
    width = int(np.clip(round(height * narrow / pixel), *sides))
    more = _one(rng, ranges.readout_oversampling), _one(rng, ranges.phase_oversampling)
    matrix = round(height * more[0]), round(width * more[1])
    extent = fov * matrix[0] / height, fov * narrow * matrix[1] / width
    shape = [max(FINER * n, 2 * int(np.ceil(WIDEST / side * n))) for n, side in zip(matrix, extent)]
    covered = [side * m / (FINER * n) for n, m, side in zip(matrix, shape, extent)]
    return Frame(matrix, (height, width), extent, Grid((shape[0], shape[1]), (covered[0], covered[1])))


def _draw_array(rng: np.random.Generator, ranges: Receivers, n_coils: int) -> CoilArray:
    return CoilArray(
        n_coils,
        n_rows=min(_whole(rng, ranges.rows), n_coils),
        radius=_real(rng, ranges.radius),
        loops=_real(rng, ranges.loops),
        arc=np.deg2rad(_real(rng, ranges.arc)),
        middle=rng.uniform(-np.pi, np.pi),
    )


def _draw_processing(rng: np.random.Generator, ranges: ProcessingParams, matrix: tuple[int, int]) -> Processing:
    padded, partial = (
        (ranges.zero_padded_rows, ranges.zero_padded_columns),
        (ranges.partial_rows, ranges.partial_columns),
    )
    spans = []
    for n, share_padded, share_partial in zip(matrix, padded, partial):
        first, last = 0, n
        if rng.uniform() < share_padded:
            first = (n - round(n * _real(rng, ranges.measured))) // 2
            last = n - first
        elif rng.uniform() < share_partial:
            missing = n - round(n * _real(rng, ranges.measured))
            first, last = (missing, n) if rng.uniform() < 0.5 else (0, n - missing)
        spans.append((first, last))
    return Processing(
        rows=spans[0],
        columns=spans[1],
        ellipse=rng.uniform() < ranges.ellipse,
        window=_one(rng, WINDOWS) if rng.uniform() < ranges.filtered else "flat",
        strength=rng.uniform(0.2, 1.0),
        taper=rng.uniform(0.02, 0.12) if rng.uniform() < ranges.tapered_images else 0.0,
        masked=rng.uniform() < ranges.masked_images,
    )
