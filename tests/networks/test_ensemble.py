"""The self-ensemble: each change is undone exactly, and the mean is that of all of them."""

from typing import get_args

import pytest
import torch
from torch import nn

from frost.networks.common.ensemble import CHANGES, Ensemble, self_ensemble


class Pixelwise(nn.Module):
    """Commutes with every flip and turn, so the ensemble must give just what it gives alone."""

    def forward(self, inputs):
        return inputs[:, 0] ** 2 + inputs[:, 1]


class Ramp(nn.Module):
    """Knows left from right and up from down: adds the column and ten times the row."""

    def forward(self, inputs):
        height, width = inputs.shape[-2:]
        return inputs[:, 0] + torch.arange(width) + 10 * torch.arange(height)[:, None]


def images(height, width, n=3):
    return torch.rand(n, 2, height, width, generator=torch.Generator().manual_seed(0))


def test_all_kinds_are_there():
    assert set(CHANGES) == set(get_args(Ensemble))
    assert [len(CHANGES[kind]) for kind in ("none", "flip", "seed", "dihedral")] == [1, 2, 3, 8]


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("size", [(9, 9), (8, 11)])
def test_what_commutes_is_given_back_exactly(kind, size):
    inputs, network = images(*size), Pixelwise()
    torch.testing.assert_close(self_ensemble(network, inputs, kind), network(inputs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", CHANGES)
def test_every_change_is_undone_and_no_two_are_the_same(kind):
    image = torch.arange(20.0).reshape(1, 4, 5)
    assert all(torch.equal(undo(change(image)), image) for change, undo in CHANGES[kind])
    square = torch.arange(16.0).reshape(1, 4, 4)
    assert len({str(change(square)) for change, _ in CHANGES[kind]}) == len(CHANGES[kind])


def test_an_image_that_is_there_is_not_made_again():
    inputs, passes = images(6, 6), []
    network = Ramp()
    network.register_forward_hook(lambda *given: passes.append(1))
    unchanged = network(inputs)
    for kind, n in (("none", 0), ("flip", 1), ("dihedral", 7)):
        passes.clear()
        given = self_ensemble(network, inputs, kind, unchanged)
        assert len(passes) == n and torch.equal(given, self_ensemble(network, inputs, kind))


def test_the_mean_is_over_all_changes():
    inputs = images(6, 6)
    added = {kind: self_ensemble(Ramp(), inputs, kind) - inputs[:, 0] for kind in CHANGES}
    columns, rows = torch.arange(6.0), 10 * torch.arange(6.0)[:, None]
    flipped = 2.5 + rows
    expected = {
        "none": columns + rows,
        "flip": flipped,
        "seed": (columns + rows + (5 - columns) + rows + (5 - columns) + (50 - rows)) / 3,
        "dihedral": torch.tensor(27.5),
    }
    for kind, values in expected.items():
        torch.testing.assert_close(added[kind], values.expand(3, 6, 6), rtol=0, atol=1e-4)


def test_turns_are_left_out_where_the_frame_is_not_square():
    inputs = images(4, 6)
    flips = self_ensemble(Ramp(), inputs, "dihedral") - inputs[:, 0]
    torch.testing.assert_close(flips, torch.full_like(flips, 2.5 + 15), rtol=0, atol=1e-4)


def test_the_mean_is_taken_in_float32():
    class Half(nn.Module):
        def forward(self, inputs):
            return inputs[:, 0].bfloat16()

    assert self_ensemble(Half(), images(4, 4), "seed").dtype == torch.float32
