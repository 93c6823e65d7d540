"""The two forms of the modulated convolution, against the usual one with a weight of each image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.case import Builder, Case, Run

Layer = Callable[..., Tensor]


def cases() -> list[Case]:
    """Collect the cases of this subject: a low and a high resolution, on both sides of the rule for the forms."""
    return [
        case(4, 256, 8, torch.float32, ("cpu",)),
        case(4, 32, 64, torch.float32, ("cpu",)),
        case(32, 512, 8, torch.float32, ("cuda",)),
        case(32, 512, 32, torch.float16, ("cuda",)),
        case(32, 64, 256, torch.float16, ("cuda",)),
    ]


def case(n: int, channels: int, size: int, dtype: torch.dtype, devices: tuple[str, ...]) -> Case:
    """3 x 3, demodulated, with bias, noise and leaky ReLU: value and gradients."""
    shapes = [(n, channels, size, size), (channels, channels, 3, 3), (n, channels), (channels,), (n, 1, size, size)]

    def eager(x: Tensor, weight: Tensor, style: Tensor, bias: Tensor, noise: Tensor) -> Tensor:
        w = weight * style[:, None, :, None, None]
        w = w * (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        y = F.conv2d(x.flatten(0, 1)[None], w.flatten(0, 1).to(x.dtype), padding=1, groups=n)[0].unflatten(0, (n, -1))
        return F.leaky_relu(y + noise.to(x.dtype) + bias[:, None, None].to(x.dtype), 0.2) * 2**0.5

    def ours(form: str) -> Callable[[], Layer]:
        def layer() -> Layer:
            from fastgen.nn import modulated_conv2d

            return lambda x, weight, style, bias, noise: modulated_conv2d(
                x, weight, style, bias, noise=noise, act="lrelu", form=form
            )

        return layer

    def variant(layer: Callable[[], Layer]) -> Builder:
        def build(device: str) -> Run:
            function = layer()
            generator = torch.Generator().manual_seed(0)
            tensors = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
            leaves = [t.requires_grad_() for t in (tensors[0].to(dtype), *tensors[1:])]

            def run() -> tuple[Tensor, ...]:
                y = function(*leaves)
                return y.detach(), *torch.autograd.grad(y.float().square().mean(), leaves)

            return run

        return build

    where = f"{n}x{channels}x{size}x{size}" + "-float16" * (dtype == torch.float16)
    return Case(
        name=f"modulated_conv2d/forward-and-gradient/{where}",
        variants={
            "weights of each image, eager": variant(lambda: eager),
            "fastgen, scaled": variant(ours("scaled")),
            "fastgen, grouped": variant(ours("grouped")),
            "fastgen": variant(ours("auto")),
        },
        baseline="weights of each image, eager",
        title=f"modulated 3x3 convolution with noise, bias and leaky ReLU, forward and gradients, {where}",
        devices=devices,
        check=agree,
    )


def agree(results: Mapping[str, object]) -> None:
    """To the digits that a convolution of thousands of terms leaves."""
    first, *others = (cast("tuple[Tensor, ...]", value) for value in results.values())
    for other in others:
        for a, b in zip(first, other):
            part = 3e-2 if first[0].dtype == torch.float16 else 1e-3
            torch.testing.assert_close(b, a, rtol=part, atol=part * float(a.abs().max()))
