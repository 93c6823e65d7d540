"""What a codebook learns from: the loss and its gradients, embedding, and the statistics of the codes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastgen.functional import code_statistics, embed_codes, vector_quantize_loss

E, W = 0.25, 1.5


def make(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 2, 5, generator=generator, dtype=torch.float64).to(dtype)
    codebook = torch.randn(6, 4, generator=generator, dtype=torch.float64).to(dtype)
    indices = torch.randint(0, 5, (3, 2, 5), generator=generator)  # entry 5 stays unused
    return x, codebook, indices


def test_loss_and_gradients_are_the_formulae() -> None:
    x, codebook, indices = make()
    x.requires_grad_()
    codebook.requires_grad_()
    loss = vector_quantize_loss(x, codebook, indices, commitment=E, codebook_weight=W)
    by_x, by_codebook = torch.autograd.grad(loss, (x, codebook))
    rows, flat = x.detach().movedim(1, -1).reshape(-1, 4), indices.reshape(-1)
    difference = rows - codebook.detach()[flat]
    torch.testing.assert_close(loss.detach(), (E + W) * difference.square().mean())
    wanted = (2 * E / x.numel()) * difference
    torch.testing.assert_close(by_x.movedim(1, -1).reshape(-1, 4), wanted)
    scattered = torch.zeros(6, 4, dtype=torch.float64)
    for row, k in zip(difference, flat.tolist()):
        scattered[k] -= 2 * W / x.numel() * row
    torch.testing.assert_close(by_codebook, scattered)
    assert (by_codebook[5] == 0).all()


def test_loss_of_half_precision_and_of_nothing() -> None:
    x, codebook, indices = make(torch.bfloat16)
    loss = vector_quantize_loss(x, codebook, indices)
    assert loss.dtype == torch.float32
    exact = vector_quantize_loss(x.double(), codebook.double(), indices)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0)
    assert vector_quantize_loss(x[:0], codebook, indices[:0]) == 0


def test_commitment_alone_leaves_the_codebook_alone() -> None:
    x, codebook, indices = make()
    loss = vector_quantize_loss(x.requires_grad_(), codebook.requires_grad_(), indices, codebook_weight=0)
    assert torch.autograd.grad(loss, codebook, allow_unused=True)[0] is None


def test_embed_codes_gradcheck() -> None:
    _, codebook, indices = make()
    assert embed_codes(indices, codebook).shape == (3, 4, 2, 5)
    assert torch.equal(embed_codes(indices, codebook)[1, :, 0, 2], codebook[indices[1, 0, 2]])
    assert torch.autograd.gradcheck(lambda c: embed_codes(indices, c), (codebook.requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_statistics(dtype: torch.dtype) -> None:
    x, _, indices = make(dtype)
    counts, sums = code_statistics(x.requires_grad_(), indices, 6)
    assert counts.dtype == torch.int64 and sums.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert not sums.requires_grad and counts.tolist() == torch.bincount(indices.flatten(), minlength=6).tolist()
    for k in range(6):
        chosen = x.detach().movedim(1, -1)[indices == k].double()
        torch.testing.assert_close(sums[k].double(), chosen.sum(0), rtol=1e-5, atol=1e-5)
    counts, sums = code_statistics(x[:0], indices[:0], 6)
    assert not counts.any() and not sums.any()


def test_errors() -> None:
    x, codebook, indices = make()
    with pytest.raises(ValueError, match=r"vector_quantize_loss: indices must be .*got \[3, 2, 4\]"):
        vector_quantize_loss(x, codebook, indices[..., :4])
    with pytest.raises(TypeError, match="code_statistics: indices must be integers"):
        code_statistics(x, indices.double(), 6)
    with pytest.raises(ValueError, match="code_statistics: n_codes"):
        code_statistics(x, indices, 0)
    with pytest.raises(TypeError, match="embed_codes: indices must be integers"):
        embed_codes(indices.double(), codebook)
