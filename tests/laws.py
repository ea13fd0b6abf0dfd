"""Laws that an operator on tensors either keeps or breaks, as assertions."""

from collections.abc import Callable

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]


def adjoint(forward: Operator, backward: Operator, x: Tensor, y: Tensor) -> None:
    """<A x, y> = <x, A' y>, for x and y of the shapes that A maps between."""
    left, right = (
        torch.vdot(forward(x).flatten(), y.flatten()),
        torch.vdot(x.flatten(), backward(y).flatten()),
    )
    scale = float(x.norm() * y.norm())
    torch.testing.assert_close(left, right, rtol=0, atol=1e-10 * scale)


def unitary(forward: Operator, backward: Operator, x: Tensor) -> None:
    """A' A x = x = A A' x, and A keeps the energy."""
    torch.testing.assert_close(backward(forward(x)), x)
    torch.testing.assert_close(forward(backward(x)), x)
    torch.testing.assert_close(forward(x).norm(), x.norm())


def linear(forward: Operator, x: Tensor, y: Tensor) -> None:
    """A (a x + y) = a A x + A y."""
    a = 0.7 - 1.3j
    torch.testing.assert_close(forward(a * x + y), a * forward(x) + forward(y))
