"""The scale that brings every image within reach of float32's squares."""

import pytest
import torch

from frost.mri.scale import power_of_two


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_an_image_over_it_has_the_same_digits_and_values_about_1(dtype):
    scales = torch.tensor([1e-30, 1e-4, 1.0, 1e5, 1e30], dtype=dtype)
    images = scales[:, None, None] * torch.randn(5, 9, 7, dtype=dtype, generator=torch.Generator().manual_seed(0))
    unit = power_of_two(images)
    assert (torch.frexp(unit).mantissa == 0.5).all()
    over = images / unit[:, None, None]
    assert torch.equal(over * unit[:, None, None], images)
    parts = torch.view_as_real(over) if dtype.is_complex else over
    largest = parts.abs().flatten(1).amax(1)
    assert ((largest >= 1) & (largest < 2)).all()


@pytest.mark.parametrize(
    ("largest", "unit"), [(0.0, 1.0), (1.0, 1.0), (-3.0, 2.0), (1e-45, 2.0**-149), (3e38, 2.0**127)]
)
def test_at_the_ends_of_float32(largest, unit):
    assert power_of_two(torch.tensor([[largest, 0.0]])).tolist() == [unit]


def test_it_depends_on_no_other_image_and_takes_no_gradient():
    images = torch.rand(3, 4, 4, requires_grad=True)
    unit = power_of_two(images)
    assert not unit.requires_grad and torch.equal(unit[1:], power_of_two(images[1:]))
    assert torch.equal(power_of_two(torch.complex(images, -2 * images).conj()), 2 * unit)
