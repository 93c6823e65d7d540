"""Resampling by a filter of 4 x 4 taps, against the composition of zeros, padding, convolution and slices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.case import Builder, Case, Run

Resample = Callable[[Tensor], Tensor]


def cases() -> list[Case]:
    """Collect the cases of this subject: what StyleGAN2 does between two resolutions."""
    found = []
    for task in ("up", "down"):
        found += [
            case(task, (4, 64, 64, 64), torch.float32, ("cpu",)),
            case(task, (8, 64, 256, 256), torch.float16, ("cuda",)),
            case(task, (8, 64, 256, 256), torch.float16, ("cuda",), last=True),
            case(task, (4, 64, 64, 64), torch.float32, ("cpu",), penalty=True),
            case(task, (8, 64, 256, 256), torch.float32, ("cuda",), penalty=True),
        ]
    return found


def case(
    task: str,
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    devices: tuple[str, ...],
    *,
    last: bool = False,
    penalty: bool = False,
) -> Case:
    """Twice the size or half of it: value and gradient, or the gradient of a penalty on the gradient."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    f = taps[:, None] * taps / 64  # symmetric: no composition needs to turn it round
    n, channels, height, width = shape

    def window(x: Tensor, gain: float) -> Tensor:
        return (f * gain).to(x).expand(channels, 1, 4, 4)

    def composition(x: Tensor) -> Tensor:
        if task == "down":
            return F.conv2d(F.pad(x, (1, 1, 1, 1)), window(x, 1.0), groups=channels)[:, :, ::2, ::2]
        z = F.pad(x[:, :, :, None, :, None], (0, 1, 0, 0, 0, 1)).reshape(n, channels, 2 * height, 2 * width)
        return F.conv2d(F.pad(z, (2, 1, 2, 1)), window(x, 4.0), groups=channels)

    def library(x: Tensor) -> Tensor:
        if task == "down":
            return F.conv2d(x, window(x, 1.0), stride=2, padding=1, groups=channels)
        return F.conv_transpose2d(x, window(x, 4.0), stride=2, padding=1, groups=channels)

    def ours() -> Resample:
        from fastgen.functional import downsample2d, upsample2d

        function = upsample2d if task == "up" else downsample2d
        kept: dict[torch.device, Tensor] = {}
        return lambda x: function(x, kept.setdefault(x.device, f.to(x.device)))

    def variant(layer: Callable[[], Resample]) -> Builder:
        def build(device: str) -> Run:
            function = layer()
            generator = torch.Generator().manual_seed(0)
            layout = torch.channels_last if last else torch.contiguous_format
            x = torch.randn(shape, generator=generator).to(device, dtype, memory_format=layout).requires_grad_()
            grad = torch.randn(function(x).shape, generator=generator).to(device, dtype, memory_format=layout)

            def run() -> tuple[Tensor, ...]:
                y = function(x)
                if not penalty:
                    return y.detach(), *torch.autograd.grad(y, x, grad)
                (by_x,) = torch.autograd.grad((y * y).sum(), x, create_graph=True)
                return torch.autograd.grad((by_x * by_x).sum(), x)

            return run

        return build

    layers: dict[str, Builder] = {"composition": variant(lambda: composition)}
    if not penalty:  # torch.compile has no second derivative
        layers["composition, compiled"] = variant(lambda: torch.compile(composition))
    layers["strided or transposed convolution"] = variant(lambda: library)
    layers["fastgen"] = variant(ours)
    what = "gradient-penalty" if penalty else "forward-and-gradient"
    where = "x".join(map(str, shape)) + {torch.float16: "-float16"}.get(dtype, "") + "-channels-last" * last
    return Case(
        name=f"upfirdn2d/{task}-{what}/{where}",
        variants=layers,
        baseline="composition",
        title=f"4x4 filter, 2x {task}, {what.replace('-', ' ')}, {where}",
        devices=devices,
        check=agree,
    )


def agree(results: Mapping[str, object]) -> None:
    """To the last digits; half precision sums sixteen rounded terms."""
    first, *others = (cast("tuple[Tensor, ...]", value) for value in results.values())
    for other in others:
        for a, b in zip(first, other):
            part = 1e-2 if a.dtype == torch.float16 else 1e-4
            torch.testing.assert_close(b, a, rtol=part, atol=part * max(1.0, float(a.abs().max())))
