"""Training steps of StyleGAN2 at 64x64 by our ops, against the same network on plain PyTorch operations.

Weights, layers, losses and random numbers are the same; `plain_operations` puts compositions in the place of `bias_act`
and `upfirdn2d`. torch.compile has no second derivative, so it is there only where no penalty is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.case import Builder, Case, Run

SIZE = 64
TASKS = {
    "discriminator-r1-step": "real and generated images, R1, Adam",
    "generator-path-length-step": "images, their logits, the path length, Adam",
    "generator-step": "images, their logits, Adam",
}


def cases() -> list[Case]:
    """Collect the cases of this subject: narrow on a CPU, as wide as the paper's on a GPU."""
    found = []
    for task in TASKS:
        found += [
            case(task, 8, (16, 32, 64, 64, 64), torch.float32, ("cpu",)),
            case(task, 32, (512, 512, 512, 512, 512), torch.bfloat16, ("cuda",)),
            case(task, 32, (512, 512, 512, 512, 512), torch.float32, ("cuda",)),
        ]
    return found


def case(task: str, batch: int, n_filters: Sequence[int], dtype: torch.dtype, devices: tuple[str, ...]) -> Case:
    """One player's step, optimiser included; bfloat16 by autocast."""

    def variant(context: Callable[[], contextlib.AbstractContextManager[object]], compiled: bool = False) -> Builder:
        def build(device: str) -> Run:
            take = step(task, batch, n_filters, dtype, device, compiled)

            def run() -> tuple[Tensor, ...]:
                with context():
                    return take()

            return run

        return build

    variants: dict[str, Builder] = {
        "plain PyTorch": variant(plain_operations),
        "plain PyTorch, weights of each image": variant(lambda: plain_operations(form="grouped")),
    }
    if task == "generator-step":
        variants["plain PyTorch, compiled"] = variant(plain_operations, compiled=True)
    variants["fastgen"] = variant(contextlib.nullcontext)
    where = f"{batch}x3x{SIZE}x{SIZE}" + "-bfloat16" * (dtype == torch.bfloat16)
    return Case(
        name=f"stylegan2/{task}/{where}",
        variants=variants,
        baseline="plain PyTorch",
        title=f"StyleGAN2, {SIZE}x{SIZE}, {n_filters[0]} to {n_filters[-1]} channels, {TASKS[task]}, {where}",
        devices=devices,
        check=lambda results: agree(results, 5e-2 if dtype == torch.bfloat16 else 1e-3),
    )


def step(
    task: str, batch: int, n_filters: Sequence[int], dtype: torch.dtype, device: str, compiled: bool
) -> Callable[[], tuple[Tensor, ...]]:
    """A function that takes a step and returns the loss and the norm of its gradient."""
    from fastgen.models import StyleGAN2
    from fastgen.training.adversarial import AdversarialTraining

    torch.manual_seed(0)
    model = StyleGAN2(3, 128, n_filters, image_size=(SIZE, SIZE)).to(device).train()
    penalties = {"r1_interval": 1, "path_length_interval": 1, "path_length": 2.0 * (task != "generator-step")}
    rules = AdversarialTraining(model, penalties, batch)
    phase = rules.phases()[0 if task.startswith("discriminator") else 1]
    if compiled:
        model.generator.synthesis.compile()
        model.discriminator.compile()
    optimizer = torch.optim.Adam(phase.parameters, lr=1e-4, betas=phase.betas or (0.9, 0.999), fused=True)
    x = (torch.rand(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1).to(device)

    def take() -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        rules.begin_step(0.0)
        with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = phase.loss(x, None)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=list(phase.parameters))
        norm = nn.utils.get_total_norm([p.grad for p in phase.parameters if p.grad is not None])
        optimizer.step()
        return loss.detach(), norm

    return take


@contextlib.contextmanager
def plain_operations(form: str = "auto") -> Iterator[None]:
    """Within it the layers take compositions of PyTorch's operations; form: of the modulated convolution."""
    from fastgen.nn import equalized, modulated, resample

    def up_twice(x: Tensor, f: Tensor) -> Tensor:
        return resampled(x, f, up=2, padding=(2, 1, 2, 1), gain=4.0)

    with contextlib.ExitStack() as stack:
        replace: list[tuple[Any, str, Callable[..., Any]]] = [
            (equalized, "bias_act", activated),
            (modulated, "bias_act", activated),
        ]
        replace += [(resample, "upfirdn2d", resampled), (resample, "upsample2d", up_twice)]
        if form != "auto":
            replace.append((modulated, "modulation_form", lambda x, weight: form))
        for module, name, function in replace:
            stack.enter_context(mock.patch.object(module, name, function))
        yield


def activated(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    *,
    gain: float | None = None,
    clamp: float | None = None,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """`bias_act` of a leaky ReLU or of nothing, operation by operation."""
    if scale is not None:
        x = x * scale.to(x.dtype)[:, :, None, None]
    if noise is not None:
        x = x + noise.to(x.dtype)
    if b is not None:
        x = x + b.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 2))
    if act == "lrelu":
        x = F.leaky_relu(x, 0.2)
    gain = (2**0.5 if act == "lrelu" else 1.0) if gain is None else gain
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def resampled(
    x: Tensor, f: Tensor, up: int = 1, down: int = 1, padding: Sequence[int] = (0, 0, 0, 0), gain: float = 1.0
) -> Tensor:
    """`upfirdn2d` as zeros, padding, a convolution of each channel, every down-th pixel; f is symmetric."""
    n, channels, height, width = x.shape
    if up > 1:
        x = F.pad(x[:, :, :, None, :, None], (0, up - 1, 0, 0, 0, up - 1)).reshape(n, channels, height * up, width * up)
    window = (f * gain).to(x.dtype).expand(channels, 1, *f.shape)
    return F.conv2d(F.pad(x, list(padding)), window, groups=channels)[:, :, ::down, ::down]


def agree(results: Mapping[str, object], part: float) -> None:
    """To the digits that sums over a network leave; in half precision eager operations round one by one."""
    first, *others = (cast("tuple[Tensor, ...]", value) for value in results.values())
    for other in others:
        for a, b in zip(first, other):
            torch.testing.assert_close(b, a, rtol=part, atol=part)
