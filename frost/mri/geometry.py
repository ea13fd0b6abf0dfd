"""Where the voxels of a stack of slices are in the patient."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Vector = tuple[float, float, float]
ORTHOGONAL = 1e-4  # by how much the products of unit vectors may be off
IN_LINE = 0.01  # of the distance of slices: by how much a slice may be off its place in a stack


class Pose(NamedTuple):
    """Where one slice is, as ISMRMRD tells it: LPS, millimetres."""

    axes: tuple[Vector, Vector, Vector]
    """Slice, read (y) and phase (x) direction: unit vectors at right angles."""
    centre: Vector
    """Of the voxel n // 2 of the encoded matrix, where a centred Fourier transform has 0."""

    @classmethod
    def of(cls, axes: Float[np.ndarray, "3 3"], centre: Float[np.ndarray, " 3"]) -> "Pose | None":
        """None for numbers that are no pose, such as the zeros of files that tell none."""
        if not (np.isfinite(axes).all() and (np.abs(centre) < 1e6).all() and _orthonormal(axes)):
            return None
        across, read, phase, middle = (tuple(vector) for vector in (*axes.tolist(), centre.tolist()))
        return cls((across, read, phase), middle)


def _orthonormal(axes: Float[np.ndarray, "3 3"]) -> bool:
    return bool(np.allclose(axes @ axes.T, np.eye(3), atol=ORTHOGONAL))


@dataclass(frozen=True)
class Geometry:
    """The pose of images (slice, y, x), in millimetres towards the patient's left, back and head (LPS).

    These are the coordinates of DICOM and ISMRMRD; those of NIfTI (RAS) have the first two negated.
    """

    voxel_size: Vector
    """Distance of the centres of neighbouring slices, rows (y) and columns (x)."""
    thickness: float
    """Of a slice; less than the distance of slices where there are gaps."""
    axes: tuple[Vector, Vector, Vector]
    """Unit vectors at right angles, towards the next slice, row and column: slice, read and phase direction."""
    first: Vector
    """Centre of voxel (0, 0, 0)."""
    nominal: tuple[str, ...] = ()
    """What is no measurement, but was put in because a file must have it: `voxel size`, `pose`."""
    each: tuple["Geometry", ...] = ()
    """Of every slice by itself, where a file tells them; the stack's pose is nominal where they form none."""

    def __post_init__(self) -> None:
        if not _orthonormal(np.array(self.axes)):
            raise ValueError(f"axes {self.axes}: unit vectors at right angles are needed")
        if not all(0 < size < np.inf for size in (*self.voxel_size, self.thickness)):
            raise ValueError(f"voxels of {self.voxel_size} mm, slices of {self.thickness} mm: sizes above 0 are needed")

    def affine(self) -> Float[np.ndarray, "4 4"]:
        """Maps (slice, y, x, 1) to (left, back, head, 1)."""
        affine = np.eye(4)
        affine[:3, :3] = np.transpose(self.axes) * self.voxel_size
        affine[:3, 3] = self.first
        return affine

    def position(self, i: int, y: int, x: int) -> Vector:
        """Of the centre of voxel (i, y, x)."""
        left, back, head = (self.affine() @ (i, y, x, 1))[:3].tolist()
        return left, back, head

    def slice_centre(self, i: int, frame: tuple[int, int]) -> Vector:
        """Of slice `i` of images of size `frame` (y, x): its voxel n // 2, where a centred Fourier transform has 0."""
        return self.position(i, frame[0] // 2, frame[1] // 2)

    def moved_to(self, centre: Vector, frame: tuple[int, int]) -> "Geometry":
        """The same with `slice_centre(0, frame)` at `centre`, as ISMRMRD's `position` gives it."""
        offset = np.subtract(centre, self.slice_centre(0, frame))
        left, back, head = np.add(self.first, offset).tolist()
        return replace(self, first=(left, back, head))

    def cropped(self, frame: tuple[int, int], size: tuple[int, int]) -> "Geometry":
        """Of what `frost.mri.coils.center_crop` cuts out of images of size `frame`, or puts zeros around."""
        y, x = ((n - m) // 2 if n >= m else -((m - n) // 2) for n, m in zip(frame, size))
        each = tuple(one.cropped(frame, size) for one in self.each)
        return replace(self, first=self.position(0, y, x), each=each)

    def of_slice(self, i: int) -> "Geometry":
        """Of slice `i` alone."""
        return self.each[i] if self.each else replace(self, first=self.position(i, 0, 0))

    def measured(self, poses: Sequence[Pose], frame: tuple[int, int]) -> "Geometry":
        """The same with the measured pose of each slice of size `frame`; where they form no stack it keeps its own."""
        slices = replace(self, voxel_size=(self.thickness, *self.voxel_size[1:]))
        nominal = tuple(what for what in self.nominal if what != "pose")
        each = tuple(replace(slices, axes=pose.axes, nominal=nominal).moved_to(pose.centre, frame) for pose in poses)
        if len(each) == 1:
            return replace(each[0], each=each)
        step = np.subtract(each[-1].first, each[0].first) / (len(each) - 1)
        distance = float(np.linalg.norm(step))
        across = np.array(each[0].axes[0])
        across *= 1.0 if step @ across >= 0 else -1.0
        places = [np.subtract(one.first, each[0].first) - i * distance * across for i, one in enumerate(each)]
        parallel = all(np.allclose(one.axes, each[0].axes, atol=ORTHOGONAL) for one in each)
        if distance == 0 or not parallel or np.abs(places).max() > IN_LINE * distance:
            return replace(self, each=each)
        left, back, head = across.tolist()
        axes = ((left, back, head), *each[0].axes[1:])
        voxel_size = (distance, *self.voxel_size[1:])
        return replace(self, voxel_size=voxel_size, axes=axes, first=each[0].first, nominal=nominal, each=each)
