"""Ops registered with PyTorch: the only place that uses torch.library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch

NAMESPACE = "fastgen"

Backward = Callable[..., Any]


def register_op(
    name: str,
    *,
    fake: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
    backward: Backward | None = None,
    no_gradient: str | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as the op `fastgen::<name>` and return what calls it through the dispatcher.

    The function chooses among its implementations by the device of its arguments. It mutates nothing and its results
    share no memory with its arguments.

    Args:
        name: the op's name, without the namespace.
        fake: same signature; makes empty results of the right shapes, dtypes and strides, for torch.compile.
        setup_context: (ctx, inputs, output): saves what the backward needs.
        backward: (ctx, *gradients of outputs) -> gradients of inputs.
        no_gradient: instead of `backward`: why there is none. A backward through the op raises and says so.

    Raises:
        RuntimeError: the op exists already, because the package was imported under two names.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if name in _registered or hasattr(getattr(torch.ops, NAMESPACE), name):
            raise RuntimeError(
                f"register_op: each op is registered once; {NAMESPACE}::{name} exists already; import the kernels as "
                "fastgen.kernels only, from one installation."
            )
        _registered.add(name)
        op = torch.library.custom_op(f"{NAMESPACE}::{name}", function, mutates_args=())
        op.register_fake(fake)
        if no_gradient is not None:
            op.register_autograd(_refuse(f"{name}: {no_gradient}"))
        elif backward is not None:
            op.register_autograd(backward, setup_context=setup_context)
        return op

    return decorate


_registered: set[str] = set()


def _refuse(message: str) -> Backward:
    def backward(ctx: Any, *gradients: Any) -> NoReturn:
        raise RuntimeError(message)

    return backward
