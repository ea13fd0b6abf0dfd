"""Random changes of pairs: the same for inputs and target, and a function of seed, epoch and slice."""

import pytest
import torch

from frost.training.augment import AugmentParams, augment

NEVER = AugmentParams(flip_x=0.0, flip_y=0.0, rotate=0.0, shift=0, cutmix=0.0, mix=0.0)
EACH = {
    "flip_x": {"flip_x": 1.0},
    "flip_y": {"flip_y": 1.0},
    "rotate": {"rotate": 1.0},
    "shift": {"shift": 5},
    "cutmix": {"cutmix": 1.0},
    "all": {"flip_x": 0.5, "flip_y": 0.5, "rotate": 0.5, "shift": 3, "cutmix": 0.5},
}


def params(**changes):
    return NEVER.model_copy(update=changes)


def batch(n=4, height=16, width=16):
    """Inputs that are known functions of the target, pixel by pixel, whatever is done to both."""
    target = torch.rand(n, height, width, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([1.0, 1e-4, 3.0, 0.5])[:n]
    target = target * scale[:, None, None]
    index = torch.tensor([5, 2, 9, 7])[:n]
    return {"inputs": torch.stack([2 * target, -target], dim=1), "target": target, "maximum": scale, "index": index}


def copy(batch):
    return {name: value.clone() for name, value in batch.items()}


@pytest.mark.parametrize("changes", EACH.values(), ids=EACH)
@pytest.mark.parametrize("size", [(16, 16), (12, 18)])
def test_inputs_and_target_stay_aligned(changes, size):
    before = batch(4, *size)
    moved = False
    for epoch in range(5):
        after = augment(copy(before), epoch, params=params(**changes), seed=0)
        torch.testing.assert_close(after["inputs"][:, 0], 2 * after["target"])
        torch.testing.assert_close(after["inputs"][:, 1], -after["target"])
        assert after["target"].shape == before["target"].shape
        moved |= not torch.equal(after["target"], before["target"])
    assert moved == (changes != EACH["rotate"] or size[0] == size[1]), "a frame that is not square is not turned"


@pytest.mark.parametrize("kind", ["flip_x", "flip_y", "rotate", "shift"])
def test_moving_changes_no_value(kind):
    before = batch()
    after = augment(copy(before), 0, params=params(**EACH[kind]), seed=0)
    for a, b in zip(before["target"], after["target"]):
        assert torch.equal(a.flatten().sort().values, b.flatten().sort().values)


def test_mix_moves_the_first_input_towards_another_and_leaves_the_rest():
    before = batch(4)
    after = augment(copy(before), 0, params=params(mix=1.0), seed=0)
    assert torch.equal(after["target"], before["target"]) and torch.equal(after["inputs"][:, 1], before["inputs"][:, 1])
    first, other = before["inputs"].unbind(dim=1)
    share = (after["inputs"][:, 0] - first).flatten(1).sum(1) / (other - first).flatten(1).sum(1)
    assert ((share >= 0) & (share <= 1)).all() and share.std() > 0.05, "a share of its own for each slice"
    torch.testing.assert_close(after["inputs"][:, 0], torch.lerp(first, other, share[:, None, None]))
    alone = {**before, "inputs": before["inputs"][:, :1]}
    assert torch.equal(augment(copy(alone), 0, params=params(mix=1.0), seed=0)["inputs"], alone["inputs"])


def test_each_does_what_it_says():
    before = batch()
    flipped = {kind: augment(copy(before), 0, params=params(**{kind: 1.0}), seed=0) for kind in ("flip_x", "flip_y")}
    assert torch.equal(flipped["flip_x"]["target"], before["target"].flip(-1))
    assert torch.equal(flipped["flip_y"]["inputs"], before["inputs"].flip(-2))
    turned = augment(copy(before), 0, params=params(rotate=1.0), seed=0)
    assert torch.equal(turned["target"], before["target"].rot90(dims=(-2, -1)))


def test_shifts_reach_as_far_as_they_may_in_every_direction():
    image = torch.zeros(1, 16, 16)
    image[0, 8, 8] = 1
    one = {"inputs": image[:, None], "target": image, "maximum": torch.ones(1), "index": torch.tensor([0])}
    places = set()
    for epoch in range(300):
        after = augment(copy(one), epoch, params=params(shift=2), seed=0)["target"][0]
        places.add(tuple((after.nonzero()[0] - 8).tolist()))
    assert places == {(y, x) for y in range(-2, 3) for x in range(-2, 3)}


def test_cutmix_keeps_the_range_of_the_slice_that_receives():
    before = batch()
    n_boxes = 0
    for epoch in range(20):
        after = augment(copy(before), epoch, params=params(cutmix=1.0), seed=0)
        assert torch.equal(after["maximum"], before["maximum"])
        for i in range(4):
            partner = before["target"][i - 1] * before["maximum"][i] / before["maximum"][i - 1]
            own = after["target"][i] == before["target"][i]
            torch.testing.assert_close(after["target"][i][~own], partner[~own])
            assert after["target"][i].max() <= before["maximum"][i] * 1.0001
            rows, columns = (~own).any(dim=1).sum(), (~own).any(dim=0).sum()
            assert (~own).sum() == rows * columns <= 0.6 * own.numel(), "one box, about half of the frame at most"
            n_boxes += bool(rows)
    assert n_boxes > 60


def test_a_box_of_a_volume_of_zeros_is_zeros_and_one_for_it_too():
    before = batch()
    before["inputs"][1], before["target"][1], before["maximum"][1] = 0, 0, 0
    n_boxes = 0
    for epoch in range(10):
        after = augment(copy(before), epoch, params=params(cutmix=1.0), seed=0)
        assert not after["target"][1].any() and not after["inputs"][1].any()
        assert after["inputs"].isfinite().all() and after["target"].isfinite().all()
        changed = after["target"][2] != before["target"][2]
        assert not after["target"][2][changed].any()
        n_boxes += bool(changed.any())
    assert n_boxes > 5


def test_a_slice_alone_has_no_partner():
    before = batch(1)
    after = augment(copy(before), 0, params=params(cutmix=1.0), seed=0)
    assert torch.equal(after["target"], before["target"])


def test_a_draw_is_a_function_of_seed_epoch_and_slice():
    before, some = batch(), params(flip_x=0.5, flip_y=0.5, rotate=0.5, shift=3)
    whole = augment(copy(before), 3, params=some, seed=1)
    for i in range(4):  # whichever slices come with it
        alone = augment({name: value[i : i + 1].clone() for name, value in before.items()}, 3, params=some, seed=1)
        assert torch.equal(alone["target"][0], whole["target"][i])
    others = [augment(copy(before), epoch, params=some, seed=seed)["target"] for epoch, seed in ((3, 2), (4, 1))]
    assert not any(torch.equal(other, whole["target"]) for other in others)


def test_never_is_never():
    before = batch()
    after = augment(copy(before), 0, params=NEVER, seed=0)
    assert torch.equal(after["target"], before["target"]) and torch.equal(after["inputs"], before["inputs"])
