"""The image networks: their size, their invariances, and memory tricks that change no number."""

import pytest
import torch

from frost.image_networks.rcan import RCAN, RCANParams

SMALL = RCANParams(
    features=8, groups=2, blocks=4, block="plain", reduction=4, residual_scaling=1.0, unshuffle=2, residual=True,
    checkpointing="none", segments=2,
)  # fmt: skip
SEED = SMALL.model_copy(
    update={
        "features": 160, "groups": 4, "blocks": 25, "block": "bottleneck", "reduction": 16, "residual_scaling": 0.125,
        "unshuffle": 1, "residual": False,
    }
)  # fmt: skip


def trained(params, n_inputs=2, seed=0):
    """A network with weights that do something, in double precision."""
    torch.manual_seed(seed)
    network = RCAN(params, n_inputs).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


def images(n=3, channels=2, height=20, width=22, seed=1):
    return torch.rand(
        n, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def test_the_2022_entry_has_its_number_of_parameters():
    with torch.device("meta"):
        network = RCAN(SEED, n_inputs=2)
    assert sum(p.numel() for p in network.parameters()) == 4_007_721


def test_an_untrained_residual_network_returns_its_first_input():
    inputs = images().float()
    torch.testing.assert_close(RCAN(SMALL, 2)(inputs), inputs[:, 0])


@pytest.mark.parametrize("size", [(20, 22), (19, 23)])
def test_a_slice_gives_the_same_alone_and_in_a_batch(size):
    network, inputs = trained(SMALL), images(height=size[0], width=size[1])
    inputs[1] *= 1e-4  # neighbours of another scale
    batch = network(inputs)
    assert batch.shape == (3, *size)
    for i in range(len(inputs)):
        torch.testing.assert_close(network(inputs[i : i + 1])[0], batch[i], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "params", [SMALL, SMALL.model_copy(update={"residual": False, "block": "bottleneck"})]
)
def test_the_answer_is_proportional_to_the_inputs(params):
    network, inputs = trained(params), images()
    torch.testing.assert_close(network(3e-4 * inputs), 3e-4 * network(inputs))


def test_an_empty_slice_gives_finite_numbers_and_gradients():
    network = trained(SMALL)
    output = network(torch.zeros_like(images()))
    output.sum().backward()
    assert output.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("checkpointing", ["group", "nested"])
@pytest.mark.parametrize("block", ["plain", "bottleneck"])
def test_checkpoints_change_no_gradient_and_no_random_number(checkpointing, block):
    plain, saving = (
        trained(SMALL.model_copy(update={"checkpointing": kind, "block": block}))
        for kind in ("none", checkpointing)
    )
    drawn = []
    for network in (plain, saving):
        torch.manual_seed(5)
        network(images()).square().sum().backward()
        drawn.append(torch.rand(()))
    assert drawn[0] == drawn[1]
    for (name, ours), theirs in zip(plain.named_parameters(), saving.parameters()):
        torch.testing.assert_close(
            theirs.grad, ours.grad, rtol=1e-6, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
        )
