"""Updates of one shape: the same slices in each, however they are shared out among processes and steps."""

from hypothesis import given, settings
from hypothesis import strategies as st

from frost.training.batches import ShapeBatches

shape_lists = st.lists(st.sampled_from([(8, 6), (10, 8), (8, 8)]), min_size=1, max_size=40)


def updates(shapes, size, world, accumulate, epoch):
    """What each update is made of: a set of slices, from all processes and steps, with no slice twice."""
    ranks = [ShapeBatches(shapes, size, 1, True, rank, world, accumulate) for rank in range(world)]
    for rank in ranks:
        rank.set_epoch(epoch)
    found, current = [], []
    for step, batches in enumerate(zip(*ranks, strict=True)):
        current += [i for rank, batch in zip(ranks, batches) if rank.weight(step) for i in batch]
        if ranks[0].ends_update(step):
            assert ranks[0].n_slices(step) == len(current) == len(set(current))
            found.append(current)
            current = []
    assert not current and len(found) == ranks[0].n_updates
    return found


@settings(max_examples=60, deadline=None)
@given(shape_lists, st.integers(1, 3), st.integers(0, 9), st.integers(1, 3), st.integers(1, 3))
def test_processes_and_steps_share_the_updates_of_a_larger_batch(shapes, size, epoch, world, accumulate):
    shared = updates(shapes, size, world, accumulate, epoch)
    assert shared == updates(shapes, size * world * accumulate, 1, 1, epoch)
    assert sorted(i for update in shared for i in update) == list(range(len(shapes)))
    assert all(len({shapes[i] for i in update}) == 1 for update in shared)


def test_where_a_training_goes_on_the_order_is_that_of_the_epoch():
    def order(*epochs):
        batches = ShapeBatches([(8, 6)] * 20, 3, seed=0, shuffle=True)
        for epoch in epochs:
            batches.set_epoch(epoch)
        return list(batches)

    assert order(0, 1, 2) == order(2) != order(1)


def test_unshuffled_slices_stay_in_order():
    batches = ShapeBatches([(8, 6)] * 3 + [(4, 4)] * 2, 2, seed=0, shuffle=False)
    batches.set_epoch(5)
    assert list(batches) == [[0, 1], [2], [3, 4]]


def test_the_order_of_an_epoch_is_that_of_earlier_versions():
    """A training that goes on from a saved state meets the slices in the order in which it left them."""
    batches = ShapeBatches([(8, 6)] * 5 + [(4, 4)] * 4, 2, seed=7, shuffle=True, accumulate=2)
    batches.set_epoch(3)
    assert list(batches) == [[7, 8], [6, 5], [3, 0], [2, 4], [1]]
