"""The vector quantizer: nearest entries with the straight-through gradient, against all distances at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.case import Builder, Case, Run

Quantize = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def cases() -> list[Case]:
    """Collect the cases of this subject: VQ-VAE's codebook of 512 entries of 64 values."""
    return [
        training((64, 64, 16, 16), 512, torch.float32, ("cpu",)),
        training((160, 64, 32, 32), 512, torch.float32, ("cuda",)),
        training((160, 64, 32, 32), 512, torch.bfloat16, ("cuda",)),
        training((16, 256, 32, 32), 8192, torch.float32, ("cuda",)),
    ]


def training(shape: tuple[int, int, int, int], n_codes: int, dtype: torch.dtype, devices: tuple[str, ...]) -> Case:
    """Values and indices of a batch, and the gradient of their sum by the batch."""
    n, dim, height, width = shape
    size = f"{n * height * width // 1024}k-{n_codes}-{dim}" + ("" if dtype == torch.float32 else "-bfloat16")

    def gradient_of(function: Callable[[], Quantize]) -> Builder:
        def build(device: str) -> Run:
            quantize = function()
            generator = torch.Generator().manual_seed(0)
            x = torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()
            codebook = torch.randn(n_codes, dim, generator=generator).to(device, dtype)

            def run() -> tuple[Tensor, ...]:
                quantized, indices = quantize(x, codebook)
                (gradient,) = torch.autograd.grad(quantized.sum(), x)
                return quantized.detach(), indices, gradient, x.detach(), codebook

            return run

        return build

    variants = {
        "all distances (cdist)": gradient_of(lambda: with_cdist),
        "all products": gradient_of(lambda: with_products),
        "all products, compiled": gradient_of(lambda: torch.compile(with_products)),
        "fastgen": gradient_of(ours),
    }
    if "cuda" in devices and dtype == torch.float32:
        variants["fastgen, tf32"] = gradient_of(ours_in_tf32)
    return Case(
        name=f"vector_quantize/nearest-and-gradient/{size}",
        variants=variants,
        baseline="all distances (cdist)",
        title=f"Vector quantizer, {n * height * width} vectors of {dim} values, {n_codes} entries, {dtype}",
        devices=devices,
        check=agree,
    )


def ours() -> Quantize:
    """The package's function."""
    from fastgen.functional import vector_quantize

    return vector_quantize


def ours_in_tf32() -> Quantize:
    """The same with 10 bits in the products, which may take an entry that is not quite the nearest."""
    from fastgen.functional import vector_quantize

    return lambda x, codebook: vector_quantize(x, codebook, tf32=True)


def with_cdist(x: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors in rows, `torch.cdist`, and the straight-through estimator as it is usually written."""
    rows = x.movedim(1, -1).reshape(-1, x.shape[1]).float()  # cdist does not take half precision
    indices = torch.cdist(rows, codebook.float()).argmin(1)
    return straight_through(x, codebook, indices.view(x.shape[0], *x.shape[2:]))


def with_products(x: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """The square of the distance multiplied out, |x|^2 + |e|^2 - 2 <x, e>, as most quantizers write it."""
    rows, entries = x.movedim(1, -1).reshape(-1, x.shape[1]).float(), codebook.float()
    squares = rows.square().sum(1, keepdim=True) + entries.square().sum(1)
    indices = (squares - 2 * rows @ entries.t()).argmin(1)
    return straight_through(x, codebook, indices.view(x.shape[0], *x.shape[2:]))


def straight_through(x: Tensor, codebook: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """x + sg(e - x)."""
    entries = F.embedding(indices, codebook).movedim(-1, 1)
    return x + (entries - x).detach(), indices


def agree(results: Mapping[str, object]) -> None:
    """No entry farther than the baseline's by more than rounding explains; gradients all ones."""
    baseline: Tensor | None = None
    for label, result in results.items():
        _, indices, gradient, x, codebook = cast("tuple[Tensor, ...]", result)
        assert bool((gradient == 1).all()), label
        distances = (x.movedim(1, -1).double() - codebook.double()[indices]).square().sum(-1)
        if baseline is None:
            baseline = distances
        part = 5e-3 if "tf32" in label else 1e-5
        assert float((distances - baseline).max()) <= part * float(baseline.max()), label
