"""Gates and the ELU of an input and its negative, with what surrounds them, against a copy of as many bytes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.case import Builder, Case, Run

DROPOUT = 0.5
COPY = "copy of as many bytes"
Layer = Callable[..., Tensor]


def cases() -> list[Case]:
    """Collect the cases of this subject: F filters, what a layer of PixelCNN or PixelCNN++ has."""
    return [
        gate("tanh", (16, 160, 32, 32), torch.float32, ("cpu", "cuda")),
        gate("tanh", (64, 256, 32, 32), torch.bfloat16, ("cuda",), surrounded=True),
        gate("linear", (64, 160, 32, 32), torch.float32, ("cuda",), surrounded=True),
        elu((16, 160, 32, 32), torch.float32, ("cpu", "cuda")),
        elu((64, 160, 32, 32), torch.bfloat16, ("cuda",), dropout=True),
    ]


def gate(
    kind: str,
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    devices: tuple[str, ...],
    *,
    surrounded: bool = False,
) -> Case:
    """A gate to `shape`, forward and gradients; surrounded by a bias for each image before and a residual after."""
    n, filters, height, width = shape

    def eager(x: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        if bias is not None:
            x = x + bias[:, :, None, None]
        a, b = x.chunk(2, dim=1)
        y = (torch.tanh(a) if kind == "tanh" else a) * torch.sigmoid(b)
        return y if residual is None else y + residual

    def ours() -> Layer:
        from fastgen.functional import gated_activation

        return functools.partial(gated_activation, kind=kind)

    shapes: list[tuple[int, ...]] = [(n, 2 * filters, height, width)]
    if surrounded:
        shapes += [(n, 2 * filters), shape]
    # x and the residual in, y out; x and the gradient in, the gradient by x out
    return case(
        f"gated_activation/{kind}{'-bias-residual' * surrounded}-forward-and-gradient",
        f"{kind} gate{', bias and residual' * surrounded}",
        shapes,
        shape,
        dtype,
        devices,
        {"eager": lambda: eager, "compiled": lambda: torch.compile(eager), "fastgen": ours},
        moved=3 + surrounded + 5,
        check=agree,
    )


def elu(
    shape: tuple[int, int, int, int], dtype: torch.dtype, devices: tuple[str, ...], *, dropout: bool = False
) -> Case:
    """ELU of [x, -x] from `shape`, forward and gradients; with dropout, that of PyTorch in the others."""
    n, filters, height, width = shape

    def eager(x: Tensor) -> Tensor:
        y = F.elu(torch.cat((x, -x), dim=1))
        return F.dropout(y, DROPOUT) if dropout else y

    def ours() -> Layer:
        from fastgen.functional import concat_elu

        return functools.partial(concat_elu, dropout=DROPOUT, seed=0) if dropout else concat_elu

    return case(
        f"concat_elu/{'dropout-' * dropout}forward-and-gradient",
        f"concatenated ELU{' and dropout' * dropout}",
        [shape],
        (n, 2 * filters, height, width),
        dtype,
        devices,
        {"eager": lambda: eager, "compiled": lambda: torch.compile(eager), "fastgen": ours},
        moved=3 + 4,
        check=agree_where_kept if dropout else agree,
    )


def case(
    name: str,
    title: str,
    shapes: list[tuple[int, ...]],
    out: tuple[int, ...],
    dtype: torch.dtype,
    devices: tuple[str, ...],
    layers: Mapping[str, Callable[[], Layer]],
    *,
    moved: int,
    check: Callable[[Mapping[str, object]], None],
) -> Case:
    """Forward and gradients of layers of inputs of `shapes`, which read and write `moved` times the smaller side."""
    n, channels, height, width = shapes[0]
    elements = n * min(channels, out[1]) * height * width
    size = moved * elements * dtype.itemsize

    def variant(layer: Callable[[], Layer]) -> Builder:
        def build(device: str) -> Run:
            function = layer()
            *inputs, grad = draw([*shapes, out], dtype, device)
            leaves = [t.requires_grad_() for t in inputs]

            def run() -> tuple[Tensor, ...]:
                y = function(leaves[0], **dict(zip(("bias", "residual"), leaves[1:])))
                return y.detach(), *torch.autograd.grad(y, leaves, grad)

            return run

        return build

    def copy(device: str) -> Run:
        source = torch.zeros(size // 2, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    where = "x".join(map(str, shapes[0])) + ("-bfloat16" if dtype == torch.bfloat16 else "")
    return Case(
        name=f"{name}/{where}",
        variants={**{label: variant(layer) for label, layer in layers.items()}, COPY: copy},
        baseline="eager",
        title=f"{title}, forward and gradients, {where}, {size / 1e6:,.0f} MB to move",
        devices=devices,
        check=check,
    )


def draw(shapes: list[tuple[int, ...]], dtype: torch.dtype, device: str) -> list[Tensor]:
    """Tensors of shapes, the same ones for every variant; images with channels last in half precision."""
    generator = torch.Generator().manual_seed(0)
    found = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
    if dtype == torch.bfloat16:
        found = [t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in found]
    return found


def agree(results: Mapping[str, object]) -> None:
    """To the last digits; eager half precision rounds after every operation, and sums thousands of such terms."""
    eager, *others = _without_copy(results)
    half = eager[0].dtype == torch.bfloat16
    for other in others:
        for a, b in zip(eager, other):
            part = 2e-2 if half else 1e-5
            torch.testing.assert_close(b, a, rtol=part, atol=part * max(1.0, float(a.abs().max())))


def agree_where_kept(results: Mapping[str, object]) -> None:
    """Each draws its own mask: values agree where both keep them, and as many are dropped."""
    eager, *others = _without_copy(results)
    for other in others:
        kept = (eager[0] != 0) & (other[0] != 0)
        torch.testing.assert_close(other[0][kept], eager[0][kept], rtol=2e-2, atol=2e-2)
        for found in (eager, other):
            assert abs(float((found[0] == 0).double().mean()) - DROPOUT) < 0.01
            assert found[1].isfinite().all()


def _without_copy(results: Mapping[str, object]) -> list[tuple[Tensor, ...]]:
    return [cast("tuple[Tensor, ...]", value) for label, value in results.items() if label != COPY]
