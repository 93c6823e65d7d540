"""Values with their first and second derivatives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Inputs = dict[str, Tensor]


@pytest.fixture
def derivatives() -> Callable[..., list[Tensor]]:
    """The value of a function of named tensors, its gradients, and the gradients of a function of those.

    The last are by all inputs and by the gradient that comes in, so that every term of the second order is there.
    """

    def values(function: Callable[..., Tensor], inputs: Inputs, *, second: bool = True) -> list[Tensor]:
        leaves = {name: value.detach().requires_grad_() for name, value in inputs.items()}
        value = function(**leaves)
        grad = torch.empty_like(value)  # in its layout
        grad.copy_(torch.linspace(-1, 2, value.numel(), dtype=torch.float64).reshape(value.shape))
        grad.requires_grad_()
        first = torch.autograd.grad(value, list(leaves.values()), grad, create_graph=second)
        found = [value.detach(), *(t.detach() for t in first)]
        if not second:
            return found
        weights = [
            torch.linspace(2, -1, t.numel(), dtype=torch.float64).reshape(t.shape).to(t.device, t.dtype) for t in first
        ]
        wanted = [*leaves.values(), grad]
        again = torch.autograd.grad(first, wanted, weights, allow_unused=True)
        return found + [torch.zeros_like(t) if g is None else g for g, t in zip(again, wanted)]

    return values
