"""A step of Langevin dynamics, against a copy of as many bytes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor

from bench.case import Builder, Case, Run

COPY = "copy of as many bytes"
STEP_SIZE, TEMPERATURE = 0.01, 0.5
Step = Callable[[Tensor, Tensor], Tensor]


def cases() -> list[Case]:
    """The chains of a training step on small images, and a large batch of larger ones."""
    return [
        stepping((64, 1, 28, 28), ("cpu", "cuda")),
        stepping((64, 3, 32, 32), ("cpu", "cuda")),
        stepping((512, 3, 128, 128), ("cuda",)),
    ]


def stepping(shape: tuple[int, ...], devices: tuple[str, ...]) -> Case:
    """Images after a step, for given gradients."""
    size = 3 * torch.Size(shape).numel() * 4  # two in and one out

    def variant(make: Callable[[], Step]) -> Builder:
        def build(device: str) -> Run:
            step = make()
            generator = torch.Generator().manual_seed(0)
            x, gradient = (torch.randn(shape, generator=generator).div_(8).to(device) for _ in range(2))
            return lambda: step(x, gradient)

        return build

    def copy(device: str) -> Run:
        source = torch.zeros(size // 2, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    where = "x".join(map(str, shape))
    return Case(
        name=f"langevin/step/{where}",
        variants={
            "eager": variant(lambda: eager),
            "compiled": variant(lambda: torch.compile(eager)),
            "fastgen": variant(ours),
            COPY: copy,
        },
        baseline="eager",
        title=f"Langevin step, {where}, {size / 1e6:,.1f} MB to move",
        devices=devices,
        check=agree,
    )


def eager(x: Tensor, gradient: Tensor) -> Tensor:
    """As it is usually written, with noise of PyTorch's generator."""
    noise = torch.randn_like(x)
    return (x - STEP_SIZE / 2 * gradient + math.sqrt(STEP_SIZE) * TEMPERATURE * noise).clamp(-1, 1)


def ours() -> Step:
    """The package's function with a new step number at each call."""
    from fastgen.functional import langevin_step

    numbers = itertools.count()
    options = {"step_size": STEP_SIZE, "temperature": TEMPERATURE, "seed": 0}
    return lambda x, gradient: langevin_step(x, gradient, step=next(numbers), **options)  # type: ignore[arg-type]


def agree(results: Mapping[str, object]) -> None:
    """Each draws its own noise: the images agree in mean and variance, which hardly depend on it."""
    first, *others = [cast(Tensor, value) for label, value in results.items() if label != COPY]
    noise = math.sqrt(STEP_SIZE) * TEMPERATURE
    for other in others:
        assert abs(float((other - first).mean())) < 6 * noise * math.sqrt(2 / first.numel())
        assert abs(float((other - first).std()) / (noise * math.sqrt(2)) - 1) < 0.05
