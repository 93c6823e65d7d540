"""The oracle of the output heads, against a linear map and a distribution written out pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical

from fastgen.kernels.output_head import categorical_head_log_prob_reference, dmol_head_log_prob_reference


def leaves(n_params: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 2, 3), (n_params, 3), (n_params,))
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


def test_categorical_is_the_distribution_of_the_linear_map() -> None:
    features, weight, bias = leaves(2 * 5)
    x = torch.randint(0, 5, (2, 2, 2, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    got = categorical_head_log_prob_reference(features, weight, bias, x, levels=5)
    for n in range(2):
        for i in range(2):
            for j in range(3):
                logits = (weight @ features[n, :, i, j] + bias).view(2, 5)
                expected = Categorical(logits=logits).log_prob(x[n, :, i, j].long()).sum()
                torch.testing.assert_close(got[n, i, j], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tails", ["exact", "pixelcnn++"])
def test_mixture_sums_to_one_over_the_levels(tails: str) -> None:
    features, weight, bias = leaves(4 * 3)  # four mixtures of one channel
    total = torch.zeros(2, 2, 3, dtype=torch.float64)
    for level in range(8):
        x = torch.full((2, 1, 2, 3), level, dtype=torch.uint8)
        total += dmol_head_log_prob_reference(features, weight, bias, x, bits=3, tails=tails).exp()
    # the published tails approximate bins of little mass by the density at their centre
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12 if tails == "exact" else 1e-4)


def test_gradients() -> None:
    x = torch.randint(0, 5, (2, 1, 2, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    assert torch.autograd.gradcheck(lambda *t: categorical_head_log_prob_reference(*t, x, levels=5), leaves(5))
    assert torch.autograd.gradcheck(lambda *t: dmol_head_log_prob_reference(*t, x, bits=3), leaves(6))
