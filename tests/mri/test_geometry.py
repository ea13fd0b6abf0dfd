"""Poses: steps of one voxel are its size along its axis, and cutting out the middle leaves every point where it is."""

import numpy as np
import pytest
import torch

from frost.mri.coils import center_crop
from frost.mri.geometry import Geometry

AXES = ((0.36, 0.48, 0.8), (-0.8, 0.6, 0.0), (-0.48, -0.64, 0.6))
GEOMETRY = Geometry((4.0, 0.9, 0.7), 3.5, AXES, (-31.5, 12.25, 60.0))


def test_a_step_of_one_voxel_is_its_size_along_its_axis():
    steps = [GEOMETRY.position(*place) for place in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    for step, axis, size in zip(steps, AXES, GEOMETRY.voxel_size):
        np.testing.assert_allclose(np.subtract(step, GEOMETRY.first), size * np.array(axis), atol=1e-12)
    np.testing.assert_allclose(GEOMETRY.affine() @ (2, 3, 4, 1), [*GEOMETRY.position(2, 3, 4), 1])


@pytest.mark.parametrize("frame", [(8, 6), (9, 7)], ids=str)
def test_a_stack_is_put_where_the_middle_of_its_first_slice_is(frame):
    moved = GEOMETRY.moved_to((1.0, -2.0, 3.0), frame)
    np.testing.assert_allclose(moved.slice_centre(0, frame), (1, -2, 3), atol=1e-12)
    np.testing.assert_allclose(moved.position(0, frame[0] // 2, frame[1] // 2), (1, -2, 3), atol=1e-12)
    assert (moved.axes, moved.voxel_size) == (GEOMETRY.axes, GEOMETRY.voxel_size)


@pytest.mark.parametrize("size", [(6, 4), (5, 4), (9, 5), (11, 13), (9, 8), (12, 3)], ids=str)
def test_cropping_and_padding_leave_a_point_of_the_object_where_it_is(size):
    frame, place = (9, 8), (5, 3)
    image = torch.zeros(frame)
    image[place] = 1
    y, x = (center_crop(image, size) == 1).nonzero()[0].tolist()
    np.testing.assert_allclose(
        GEOMETRY.cropped(frame, size).position(2, y, x), GEOMETRY.position(2, *place), atol=1e-12
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"axes": ((0.0, 0.0, 0.0), *AXES[1:])},
        {"axes": (AXES[1], AXES[1], AXES[2])},
        {"axes": ((0.72, 0.96, 1.6), *AXES[1:])},
        {"voxel_size": (4.0, 0.0, 0.7)},
        {"thickness": float("nan")},
    ],
)
def test_a_pose_that_no_scan_has_is_refused(changes):
    facts = {"voxel_size": (4.0, 0.9, 0.7), "thickness": 3.5, "axes": AXES, "first": (0.0, 0.0, 0.0)}
    with pytest.raises(ValueError, match="are needed"):
        Geometry(**(facts | changes))
