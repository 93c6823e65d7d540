"""The reparameterised draw of a Gaussian with its divergence and gradients, against a copy of as many bytes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor

from bench.case import Builder, Case, Run

COPY = "copy of as many bytes"
Draw = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def cases() -> list[Case]:
    """Latents of a convolutional autoencoder, and of one with a vector."""
    return [
        training((64, 16, 32, 32), torch.float32, ("cpu", "cuda")),
        training((64, 64, 64, 64), torch.float32, ("cuda",)),
        training((64, 64, 64, 64), torch.bfloat16, ("cuda",)),
        training((512, 128), torch.float32, ("cpu", "cuda")),
    ]


def training(shape: tuple[int, ...], dtype: torch.dtype, devices: tuple[str, ...]) -> Case:
    """z and kl, and gradients by mean and log_var for given gradients of both."""
    elements = torch.Size(shape).numel()
    size = 8 * elements * dtype.itemsize  # two in and one out, then three in and two out

    def variant(make: Callable[[], Draw]) -> Builder:
        def build(device: str) -> Run:
            draw = make()
            generator = torch.Generator().manual_seed(0)
            mean, log_var, by_z = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3))
            leaves = [mean.requires_grad_(), log_var.requires_grad_()]
            by_kl = torch.full(shape[:1], 0.5, device=device)

            def run() -> tuple[Tensor, ...]:
                z, kl = draw(mean, log_var)
                return z.detach(), kl.detach(), *torch.autograd.grad([z, kl], leaves, [by_z, by_kl])

            return run

        return build

    def copy(device: str) -> Run:
        source = torch.zeros(size // 2, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    where = "x".join(map(str, shape)) + ("-bfloat16" if dtype == torch.bfloat16 else "")
    return Case(
        name=f"reparameterize/draw-divergence-and-gradient/{where}",
        variants={
            "eager": variant(lambda: eager),
            "compiled": variant(lambda: torch.compile(eager)),
            "fastgen": variant(ours),
            COPY: copy,
        },
        baseline="eager",
        title=f"Gaussian draw, divergence and gradients, {where}, {size / 1e6:,.1f} MB to move",
        devices=devices,
        check=agree,
    )


def eager(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """As it is usually written, with noise of PyTorch's generator."""
    z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
    mean, log_var = mean.float(), log_var.float()
    kl = -0.5 * (1 + log_var - mean.pow(2) - log_var.exp()).flatten(1).sum(1)
    return z, kl


def ours() -> Draw:
    """The package's function with a new seed at each call."""
    from fastgen.functional import reparameterize

    seeds = itertools.count()
    return lambda mean, log_var: reparameterize(mean, log_var, seed=next(seeds))


def agree(results: Mapping[str, object]) -> None:
    """Each draws its own noise: the divergence and the gradient by the mean agree, which do not depend on it."""
    first, *others = [cast("tuple[Tensor, ...]", value) for label, value in results.items() if label != COPY]
    part = 2e-2 if first[0].dtype == torch.bfloat16 else 1e-4
    for other in others:
        for a, b in ((first[1], other[1]), (first[2], other[2])):
            torch.testing.assert_close(b, a, rtol=part, atol=part)
        for one in (first, other):  # var z = 1 + mean of e^log_var = 1 + e^0.5
            assert abs(float(one[0].float().var()) - 2.65) < 0.1 and one[3].isfinite().all()
