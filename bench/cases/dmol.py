"""The discretized logistic mixture: training loss with its gradient, log-probability alone, and draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.case import Builder, Case, Run

MIXTURES = 10
LogProb = Callable[[Tensor, Tensor], Tensor]


def cases() -> list[Case]:
    """Collect the cases of this subject."""
    return [
        training("dmol/loss-and-gradient/64x3x32x32", (64, 32, 32), ("cpu", "cuda"), ("readme",)),
        training("dmol/loss-and-gradient/16x3x256x256", (16, 256, 256), ("cuda",), ()),
        evaluation("dmol/log-prob/64x3x32x32", (64, 32, 32)),
        drawing("dmol/draw/64x3x32x32", (64, 32, 32)),
    ]


def training(name: str, shape: tuple[int, int, int], devices: tuple[str, ...], tags: tuple[str, ...]) -> Case:
    """The mean loss of a batch and its gradient by the parameters."""

    def gradient_of(log_prob: Callable[[], LogProb]) -> Builder:
        def build(device: str) -> Run:
            function = log_prob()
            x, params = inputs(shape, device)
            params.requires_grad_()

            def run() -> tuple[Tensor, Tensor]:
                loss = -function(x, params).mean()
                (gradient,) = torch.autograd.grad(loss, params)
                return loss.detach(), gradient

            return run

        return build

    return Case(
        name=name,
        variants={
            "published formula": gradient_of(lambda: published),
            "published formula, compiled": gradient_of(lambda: torch.compile(published)),
            "fastgen": gradient_of(ours),
        },
        baseline="published formula",
        title=f"DMOL loss and gradient, {name.rsplit('/', 1)[-1]}, {MIXTURES} mixtures",
        devices=devices,
        tags=tags,
        check=agree,
    )


def evaluation(name: str, shape: tuple[int, int, int]) -> Case:
    """The log-probability without a gradient."""

    def value_of(log_prob: Callable[[], LogProb]) -> Builder:
        def build(device: str) -> Run:
            function = log_prob()
            x, params = inputs(shape, device)

            def run() -> tuple[Tensor]:
                with torch.no_grad():
                    return (function(x, params).mean(),)

            return run

        return build

    return Case(
        name=name,
        variants={"published formula": value_of(lambda: published), "fastgen": value_of(ours)},
        baseline="published formula",
        title=f"DMOL log-probability, {name.rsplit('/', 1)[-1]}, {MIXTURES} mixtures",
        check=agree,
    )


def drawing(name: str, shape: tuple[int, int, int]) -> Case:
    """Draws of all pixels from given uniforms; the reference is plain PyTorch."""

    def draw_by(impl: str) -> Builder:
        def build(device: str) -> Run:
            from fastgen.functional import dmol_sample

            _, params = inputs(shape, device)
            n, height, width = shape
            uniforms = torch.rand(n, 4, height, width, generator=torch.Generator().manual_seed(1)).to(device)
            return lambda: dmol_sample(params, uniforms, channels=3, impl=impl)

        return build

    return Case(
        name=name,
        variants={"PyTorch": draw_by("reference"), "fastgen": draw_by("auto")},
        baseline="PyTorch",
        title=f"DMOL draws, {name.rsplit('/', 1)[-1]}, {MIXTURES} mixtures",
        devices=("cuda",),  # on a CPU they are the same function
    )


def inputs(shape: tuple[int, int, int], device: str) -> tuple[Tensor, Tensor]:
    """Levels and parameters as a model in training gives them; the same ones for every variant."""
    n, height, width = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 3, height, width), generator=generator, dtype=torch.uint8)
    params = torch.randn(n, 10 * MIXTURES, height, width, generator=generator)
    return x.to(device), params.to(device)


def ours() -> LogProb:
    """The package's function."""
    from fastgen.functional import dmol_log_prob

    return dmol_log_prob


def published(x: Tensor, params: Tensor) -> Tensor:
    """The formula of PixelCNN++ as its ports to PyTorch write it: channels last, everything materialised."""
    x = (x.float() / 127.5 - 1).permute(0, 2, 3, 1)
    params = params.permute(0, 2, 3, 1)
    logits = params[..., :MIXTURES]
    rest = params[..., MIXTURES:].reshape(*x.shape, 3 * MIXTURES)
    means = rest[..., :MIXTURES]
    log_scales = rest[..., MIXTURES : 2 * MIXTURES].clamp(min=-7)
    coefficients = torch.tanh(rest[..., 2 * MIXTURES :])
    x = x.unsqueeze(-1) + torch.zeros(*x.shape, MIXTURES, device=x.device)
    second = means[..., 1:2, :] + coefficients[..., 0:1, :] * x[..., 0:1, :]
    third = means[..., 2:3, :] + coefficients[..., 1:2, :] * x[..., 0:1, :] + coefficients[..., 2:3, :] * x[..., 1:2, :]
    centered = x - torch.cat([means[..., 0:1, :], second, third], -2)
    inverse = torch.exp(-log_scales)
    plus = inverse * (centered + 1 / 255)
    minus = inverse * (centered - 1 / 255)
    middle = inverse * centered
    delta = torch.sigmoid(plus) - torch.sigmoid(minus)
    density = middle - log_scales - 2 * F.softplus(middle) - math.log(127.5)
    is_sharp = (delta > 1e-5).float()
    inside = is_sharp * torch.log(delta.clamp(min=1e-12)) + (1 - is_sharp) * density
    is_high = (x > 0.999).float()
    above = is_high * -F.softplus(minus) + (1 - is_high) * inside
    is_low = (x < -0.999).float()
    terms = is_low * (plus - F.softplus(plus)) + (1 - is_low) * above
    return torch.logsumexp(terms.sum(-2) + F.log_softmax(logits, -1), -1)


def agree(results: Mapping[str, object]) -> None:
    """Losses to 1e-5 of their size, gradients to 1e-3 of the largest: the published formula is the less exact one."""
    first, *others = cast("list[tuple[Tensor, ...]]", list(results.values()))
    for other in others:
        for a, b in zip(first, other):
            torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-3 * float(a.abs().max()))
