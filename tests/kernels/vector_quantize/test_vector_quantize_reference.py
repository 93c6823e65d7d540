"""The oracle of the quantizer, against distances written out one vector at a time."""

from __future__ import annotations

import torch

from fastgen.kernels.vector_quantize import vector_quantize_reference


def test_takes_the_nearest_entry() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    codebook = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    values, indices = vector_quantize_reference(x, codebook)
    for n in range(2):
        for i in range(4):
            for j in range(5):
                distances = [float((x[n, :, i, j] - entry).square().sum()) for entry in codebook]
                nearest = distances.index(min(distances))
                assert int(indices[n, i, j]) == nearest
                assert torch.equal(values[n, :, i, j], codebook[nearest])
    assert indices.unique().numel() > 3


def test_the_gradient_goes_straight_through() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    codebook = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    out = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    by_x, by_codebook = torch.autograd.grad(
        vector_quantize_reference(x, codebook)[0], (x, codebook), out, allow_unused=True
    )
    assert torch.equal(by_x, out)
    assert by_codebook is None or not by_codebook.any()
