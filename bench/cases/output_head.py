"""The last 1x1 convolution with the likelihood of its outputs: fused, so that the parameters never exist whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.case import Builder, Case, Run

MIXTURES, LEVELS, FILTERS = 10, 256, 160
LogProb = Callable[..., Tensor]  # of features, weight, bias, x


def cases() -> list[Case]:
    """Collect the cases of this subject."""
    return [
        training("dmol", (8, 3, 64, 64), torch.float32, ("cpu",)),
        training("dmol", (32, 3, 256, 256), torch.float32, ("cuda",)),
        training("dmol", (32, 3, 256, 256), torch.bfloat16, ("cuda",)),
        training("categorical", (8, 3, 32, 32), torch.float32, ("cpu",)),
        training("categorical", (8, 3, 256, 256), torch.bfloat16, ("cuda",)),
    ]


def training(kind: str, shape: tuple[int, int, int, int], dtype: torch.dtype, devices: tuple[str, ...]) -> Case:
    """The mean loss of a batch and its gradient by features, weight and bias."""
    size = "x".join(map(str, shape)) + ("" if dtype == torch.float32 else "-bfloat16")

    def gradient_of(log_prob: Callable[[str], LogProb]) -> Builder:
        def build(device: str) -> Run:
            function = log_prob(kind)
            x, *leaves = inputs(kind, shape, dtype, device)

            def run() -> tuple[Tensor, ...]:
                loss = -function(*leaves, x).mean()
                return loss.detach(), *torch.autograd.grad(loss, leaves)

            return run

        return build

    return Case(
        name=f"output_head/{kind}-loss-and-gradient/{size}",
        variants={
            "convolution, then likelihood": gradient_of(unfused),
            "plain PyTorch, compiled": gradient_of(lambda kind: torch.compile(plain(kind))),
            "fastgen, fused": gradient_of(fused),
        },
        baseline="convolution, then likelihood",
        title=f"{kind} head on {FILTERS} filters, loss and gradient, {size}",
        devices=devices,
        check=agree,
    )


def inputs(kind: str, shape: tuple[int, int, int, int], dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    """Levels, features, weight and bias; the same ones for every variant."""
    n, channels, height, width = shape
    n_params = channels * LEVELS if kind == "categorical" else 10 * MIXTURES
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, LEVELS, shape, generator=generator, dtype=torch.uint8)
    features = torch.randn(n, FILTERS, height, width, generator=generator)
    weight = torch.randn(n_params, FILTERS, 1, 1, generator=generator) / FILTERS**0.5
    bias = torch.zeros(n_params)
    return x.to(device), *(leaf.to(device, dtype).requires_grad_() for leaf in (features, weight, bias))


def fused(kind: str) -> LogProb:
    """The package's head."""
    from fastgen.functional import categorical_head_log_prob, dmol_head_log_prob

    return dmol_head_log_prob if kind == "dmol" else categorical_head_log_prob


def unfused(kind: str) -> LogProb:
    """A convolution, and the package's likelihood of all its outputs."""
    from fastgen.likelihoods import Categorical, DiscretizedLogisticMixture

    likelihood = DiscretizedLogisticMixture(3, MIXTURES) if kind == "dmol" else Categorical(3, LEVELS)
    return lambda features, weight, bias, x: likelihood.log_prob(x, F.conv2d(features, weight, bias))


def plain(kind: str) -> LogProb:
    """The formulae in plain PyTorch."""
    from fastgen.kernels.output_head import categorical_head_log_prob_reference, dmol_head_log_prob_reference

    return dmol_head_log_prob_reference if kind == "dmol" else categorical_head_log_prob_reference


def agree(results: Mapping[str, object]) -> None:
    """To what the formula in plain PyTorch, and half precision, lose: a part of the largest value."""
    first, *others = cast("list[tuple[Tensor, ...]]", list(results.values()))
    part = 2e-2 if first[1].dtype == torch.bfloat16 or first[1].is_cuda else 1e-3  # on CUDA in TF32
    for other in others:
        for a, b in zip(first, other):
            torch.testing.assert_close(b, a, rtol=part, atol=part * float(a.abs().max()))
