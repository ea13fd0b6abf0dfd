"""Self-ensemble: the mean of a network's answers to one slice, flipped and turned, each undone."""

from collections.abc import Callable
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

Ensemble = Literal["none", "flip", "seed", "dihedral"]


def _turn(times: int) -> Callable[[Tensor], Tensor]:
    return lambda images: images.rot90(times, dims=(-2, -1))


def _flip(images: Tensor) -> Tensor:
    return images.flip(-1)


#: pairs of a change and what undoes it; the first of each kind changes nothing
IDENTITY, FLIP, HALF_TURN = (_turn(0), _turn(0)), (_flip, _flip), (_turn(2), _turn(2))
CHANGES = {
    "none": [IDENTITY],
    "flip": [IDENTITY, FLIP],
    "seed": [IDENTITY, FLIP, HALF_TURN],  # the 2022 entry: the flip of its code, the half turn of its README
    "dihedral": [
        pair
        for n in range(4)
        for pair in (
            (_turn(n), _turn(-n)),
            (
                lambda x, n=n: _flip(x).rot90(n, dims=(-2, -1)),
                lambda x, n=n: _flip(x.rot90(-n, dims=(-2, -1))),
            ),
        )
    ],
}


@torch.no_grad()
def self_ensemble(
    network: nn.Module,
    inputs: Float[Tensor, "batch channel y x"],
    kind: Ensemble,
    unchanged: Float[Tensor, "batch y x"] | None = None,
) -> Float[Tensor, "batch y x"]:
    """The network's image averaged over the changes of `kind`, in float32, for a batch of any size.

    Changes that turn a frame on its side are left out where it is not square: the network was not made for that frame.
    unchanged: the network's image of the inputs as they are, where there is one; a pass less.
    """
    height, width = inputs.shape[-2:]
    total, n = (network(inputs) if unchanged is None else unchanged).float(), 1
    changes = cast("list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]", CHANGES[kind])
    for change, undo in changes[1:]:
        changed = change(inputs)
        if changed.shape[-2:] == (height, width):
            total, n = total + undo(network(changed)).float(), n + 1
    return total / n
