"""Bias, activation, gain and clamp, and their gradient, against a copy of as many bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.case import Builder, Case, Run

COPY = "copy of as many bytes"
Layer = Callable[[Tensor, Tensor], Tensor]


def cases() -> list[Case]:
    """Collect the cases of this subject: a layer of StyleGAN2, on a CPU with as many pixels as it can bear."""
    return [
        case((4, 64, 64, 64), torch.float32, ("cpu",)),
        case((8, 64, 256, 256), torch.float16, ("cuda",)),
        case((8, 64, 256, 256), torch.float16, ("cuda",), last=True),
        case((4, 64, 64, 64), torch.float32, ("cpu",), penalty=True),
        case((8, 64, 256, 256), torch.float32, ("cuda",), penalty=True),
    ]


def case(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    devices: tuple[str, ...],
    *,
    last: bool = False,
    penalty: bool = False,
) -> Case:
    """Leaky ReLU, clamped: value and gradients, or the gradient of a penalty on the gradient."""

    def eager(x: Tensor, b: Tensor) -> Tensor:
        y = F.leaky_relu(x + b[:, None, None].to(x.dtype), 0.2) * 2**0.5
        return y.clamp(-256, 256)

    def ours() -> Layer:
        from fastgen.functional import bias_act

        return lambda x, b: bias_act(x, b, act="lrelu", clamp=256.0)

    def variant(layer: Callable[[], Layer]) -> Builder:
        def build(device: str) -> Run:
            function = layer()
            generator = torch.Generator().manual_seed(0)
            layout = torch.channels_last if last else torch.contiguous_format
            x, grad = (
                torch.randn(shape, generator=generator).to(device, dtype, memory_format=layout) for _ in range(2)
            )
            leaves = x.requires_grad_(), torch.randn(shape[1], generator=generator).to(device).requires_grad_()

            def run() -> tuple[Tensor, ...]:
                y = function(*leaves)
                if not penalty:
                    return y.detach(), *torch.autograd.grad(y, leaves, grad)
                # a gradient that is itself a function of y, as where layers follow
                (by_x,) = torch.autograd.grad((y * y).sum(), leaves[0], create_graph=True)
                return torch.autograd.grad((by_x * by_x).sum(), leaves)

            return run

        return build

    # x in, y out; y and the gradient in, the gradient by x out
    size = 5 * torch.Size(shape).numel() * dtype.itemsize

    def copy(device: str) -> Run:
        source = torch.zeros(size // 2, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    layers: dict[str, Builder] = {"eager": variant(lambda: eager)}
    if not penalty:  # torch.compile has no second derivative
        layers["compiled"] = variant(lambda: torch.compile(eager))
    layers["fastgen"] = variant(ours)
    if not penalty:
        layers[COPY] = copy
    task = "gradient-penalty" if penalty else "forward-and-gradient"
    where = "x".join(map(str, shape)) + {torch.float16: "-float16"}.get(dtype, "") + "-channels-last" * last
    title = f"leaky ReLU with bias, gain and clamp, {task.replace('-', ' ')}, {where}"
    return Case(
        name=f"bias_act/{task}/{where}",
        variants=layers,
        baseline="eager",
        title=title + ("" if penalty else f", {size / 1e6:,.0f} MB to move"),
        devices=devices,
        check=agree,
    )


def agree(results: Mapping[str, object]) -> None:
    """To the last digits; eager half precision rounds after every operation."""
    found = [cast("tuple[Tensor, ...]", value) for label, value in results.items() if label != COPY]
    for other in found[1:]:
        for a, b in zip(found[0], other):
            part = 2e-2 if found[0][0].dtype == torch.float16 else 1e-4
            torch.testing.assert_close(b, a, rtol=part, atol=part * max(1.0, float(a.abs().max())))
