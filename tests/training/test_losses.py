"""The loss is the metric: the same SSIM, the same foreground, a gradient everywhere."""

import numpy as np
import pytest
import torch

from frost.evaluation.scores import foreground_mask, ssim_foreground, ssim_maps
from frost.training.losses import LossParams, foreground, reconstruction_loss, ssim, ssim_map

FRAME = LossParams(ssim=1.0, l1=0.0, region="frame", threshold=5e-5)
INSIDE = FRAME.model_copy(update={"region": "foreground"})


@pytest.fixture
def pair():
    random = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:64j, -1:1:72j]
    target = ((y / 0.8) ** 2 + (x / 0.6) ** 2 < 1) * (3e-4 + 1e-4 * np.sin(9 * x)) + 1e-6 * random.random((2, 64, 72))
    return target.astype(np.float32), (target + 2e-5 * random.normal(size=target.shape)).astype(np.float32)


def tensors(pair):
    target, output = (torch.from_numpy(image) for image in pair)
    return output, target, target.amax(dim=(-2, -1))


def test_the_map_is_the_metrics(pair):
    pair = [image.astype(np.float64) for image in pair]  # in float32 both round, each in its own way
    output, target, maximum = tensors(pair)
    ours = ssim_map(output, target, maximum)
    for i in range(2):
        theirs = ssim_maps(pair[0][i : i + 1], pair[1][i : i + 1], float(maximum[i]))[0]
        np.testing.assert_allclose(ours[i], theirs, atol=1e-9)


def test_the_foreground_is_the_metrics(pair):
    mask = foreground(torch.from_numpy(pair[0]), 5e-5)
    assert 0.2 < mask.float().mean() < 0.8
    np.testing.assert_array_equal(mask, foreground_mask(pair[0], 5e-5))


def test_the_foreground_ssim_is_that_of_the_challenge(pair):
    pair = [image.astype(np.float64) for image in pair]
    output, target, _ = tensors(pair)
    maximum = target.max().expand(2)
    theirs = ssim_foreground(pair[0], pair[1], foreground_mask(pair[0], 5e-5), float(maximum[0]))
    np.testing.assert_allclose(ssim(output, target, maximum, INSIDE), theirs, atol=1e-9)


@pytest.mark.parametrize("params", [FRAME, INSIDE, FRAME.model_copy(update={"l1": 0.5})])
def test_the_right_answer_costs_nothing_and_a_wrong_one_does(pair, params):
    output, target, maximum = tensors(pair)
    torch.testing.assert_close(reconstruction_loss(target, target, maximum, params), torch.zeros(2), atol=1e-5, rtol=0)
    assert (reconstruction_loss(output, target, maximum, params) > 0.01).all()


@pytest.mark.parametrize("params", [FRAME, INSIDE, FRAME.model_copy(update={"ssim": 0.0, "l1": 1.0})])
def test_a_volume_of_zeros_teaches_nothing_and_others_as_much_as_without_it(pair, params):
    output, target, maximum = tensors(pair)
    expected = reconstruction_loss(output, target, maximum, params)
    target[1], maximum[1] = 0, 0
    output.requires_grad_()
    losses = reconstruction_loss(output, target, maximum, params)
    losses.sum().backward()
    assert losses[1] == 0 and losses[0] == expected[0] > 0
    assert not output.grad[1].any() and output.grad[0].any() and output.grad.isfinite().all()
    assert ssim(output, target, maximum, params)[1] == 1


def test_a_slice_of_zeros_in_a_volume_costs_what_is_put_there(pair):
    output, target, maximum = tensors(pair)
    zeros = torch.zeros_like(target).requires_grad_()
    assert not reconstruction_loss(zeros, torch.zeros_like(target), maximum, FRAME).any()
    loss = reconstruction_loss(output.requires_grad_(), torch.zeros_like(target), maximum, FRAME)
    loss.sum().backward()
    assert (loss > 0.1).all() and output.grad.any() and output.grad.isfinite().all()


def test_a_slice_without_foreground_teaches_nothing():
    output = torch.rand(1, 40, 40, requires_grad=True)
    loss = reconstruction_loss(output * 1e-6, torch.zeros(1, 40, 40), torch.ones(1), INSIDE)
    loss.sum().backward()
    assert loss.item() == 0 and not output.grad.any()
