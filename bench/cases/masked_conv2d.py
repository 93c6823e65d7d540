"""A masked convolution layer: a window cropped to its live taps, against the whole window times a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.case import Case, Run


def cases() -> list[Case]:
    """First and later layers of a PixelCNN, forward alone and with gradients."""
    return [
        _case("A", 7, (16, 3, 32, 32), 64, gradient=False),
        _case("A", 7, (16, 3, 32, 32), 64, gradient=True),
        _case("B", 3, (16, 64, 32, 32), 64, gradient=False),
        _case("B", 3, (16, 64, 32, 32), 64, gradient=True, tags=("readme",)),
    ]


def _case(
    mask_type: str,
    kernel: int,
    shape: tuple[int, int, int, int],
    out_channels: int,
    *,
    gradient: bool,
    tags: tuple[str, ...] = (),
) -> Case:
    work = "forward-and-gradient" if gradient else "forward"
    size = f"{'x'.join(map(str, shape))}-to-{out_channels}"

    def variant(make: Callable[[Tensor, Tensor, str], Run]) -> Callable[[str], Run]:
        def build(device: str) -> Run:
            generator = torch.Generator().manual_seed(0)
            x = torch.randn(shape, generator=generator)
            weight = torch.randn(out_channels, shape[1], kernel, kernel, generator=generator) / kernel**2
            return make(x.to(device), weight.to(device), device)

        return build

    def finish(x: Tensor, parameters: list[Tensor], forward: Callable[[Tensor], Tensor]) -> Run:
        if not gradient:
            return lambda: _no_grad(forward, x)
        x.requires_grad_()

        def run() -> list[Tensor]:
            y = forward(x)
            return [y.detach(), *torch.autograd.grad(y, [x, *parameters], torch.ones_like(y))]

        return run

    def masked(x: Tensor, weight: Tensor, device: str) -> Run:
        mask = torch.ones(kernel, kernel)
        mask[kernel // 2, kernel // 2 + (mask_type == "B") :] = 0
        mask[kernel // 2 + 1 :] = 0
        mask = mask.to(device)
        weight, bias = weight.requires_grad_(), torch.zeros(out_channels, device=device, requires_grad=True)
        return finish(x, [weight, bias], lambda x: F.conv2d(x, weight * mask, bias, padding=kernel // 2))

    def cropped(x: Tensor, weight: Tensor, device: str) -> Run:
        from fastgen.nn import MaskedConv2d

        layer = MaskedConv2d(shape[1], out_channels, kernel, mask_type=mask_type).to(device)
        layer.load_state_dict({"weight": weight, "bias": torch.zeros(out_channels)})
        return finish(x, list(layer.parameters()), layer)

    return Case(
        name=f"masked_conv2d/{work}-{kernel}x{kernel}-{mask_type}/{size}",
        variants={"weight * mask": variant(masked), "fastgen.nn.MaskedConv2d": variant(cropped)},
        baseline="weight * mask",
        title=f'{kernel}x{kernel} convolution, mask "{mask_type}", {work.replace("-", " ")}, {size.replace("-", " ")}',
        tags=tags,
        check=_agree,
    )


def _no_grad(forward: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [forward(x)]


def _agree(results: Mapping[str, object]) -> None:
    plain, ours = results.values()
    for one, other in zip(plain, ours, strict=True):  # type: ignore[call-overload]
        # Two orders of summing up to a few thousand products in float32 (TF32 is off by default).
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)
