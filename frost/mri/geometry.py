"""Where the voxels of a stack of slices are in the patient."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

Vector = tuple[float, float, float]


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

    def __post_init__(self) -> None:
        axes = np.array(self.axes)
        if not np.allclose(axes @ axes.T, np.eye(3), atol=1e-4):
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
        return replace(self, first=self.position(0, y, x))
