"""Convolutions that mix channels only, with their gradients: as the library's convolution and as a matrix product."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.case import Builder, Case, Run

LIBRARY, LINEAR, OURS = "library convolution", "permuted linear layer", "fastgen"
Layer = Callable[[Tensor, Tensor, Tensor], Tensor]


def cases() -> list[Case]:
    """Collect the cases of this subject: short-cuts of PixelCNN++ with few filters, and layers with many."""
    small = [(64, 16, 16), (64, 16, 4), (48, 24, 28), (32, 8, 16)]
    return [case(16, *sizes) for sizes in [*small, (160, 100, 32), (320, 160, 16)]]


def case(n: int, inputs: int, outputs: int, side: int) -> Case:
    """One layer, forward and gradients by the map, the weight and the bias."""

    def variant(layer: Callable[[], Layer]) -> Builder:
        def build(device: str) -> Run:
            generator = torch.Generator().manual_seed(0)
            shapes = [(n, inputs, side, side), (outputs, inputs, 1, 1), (outputs,)]
            leaves = [torch.randn(shape, generator=generator).to(device).requires_grad_() for shape in shapes]
            grad, function = torch.ones(n, outputs, side, side, device=device), layer()
            return lambda: list(torch.autograd.grad(function(*leaves), leaves, grad))

        return build

    def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)

    def ours() -> Layer:
        from fastgen._cpu.products import conv1x1

        return conv1x1

    return Case(
        name=f"conv1x1/{n}x{inputs}x{side}x{side}-to-{outputs}",
        variants={LIBRARY: variant(lambda: F.conv2d), LINEAR: variant(lambda: linear), OURS: variant(ours)},
        baseline=LIBRARY,
        title=f"1x1 convolution with its gradients, {inputs} to {outputs} channels, {n} maps of {side}x{side}",
        devices=("cpu",),
        check=agree,
    )


def agree(results: Mapping[str, object]) -> None:
    """Sums of a thousand terms or more, in any order."""
    first, *others = (cast("list[Tensor]", value) for value in results.values())
    for other in others:
        for a, b in zip(first, other, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5 * float(a.abs().max()))
