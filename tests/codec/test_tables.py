"""Whole-number distributions: they follow the likelihood, sum to 2^24 and leave no level impossible."""

from __future__ import annotations

import math

import pytest
import torch

from fastgen.codec.tables import PRECISION, frequencies, probabilities
from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Gaussian, Likelihood


@pytest.mark.parametrize(
    "likelihood",
    [
        Bernoulli(2),
        Categorical(3, 5),
        DiscretizedLogisticMixture(3, 4, bits=3),
        DiscretizedLogisticMixture(1, 2, bits=8),
    ],
    ids=lambda likelihood: type(likelihood).__name__,
)
def test_channel_by_channel_they_multiply_to_the_likelihood(likelihood: Likelihood) -> None:
    params = torch.randn(6, likelihood.n_params, dtype=torch.float64)
    x = torch.randint(0, likelihood.levels, (6, likelihood.channels)).to(torch.uint8)
    total = torch.zeros(6, dtype=torch.float64)
    for c in range(likelihood.channels):
        table = probabilities(likelihood, params, x[:, :c])
        torch.testing.assert_close(table.sum(1), torch.ones(6, dtype=torch.float64), rtol=1e-9, atol=0)
        total += table.gather(1, x[:, c : c + 1].long())[:, 0].log()
    expected = likelihood.log_prob(x[:, :, None, None], params[:, :, None, None])[:, 0, 0]
    torch.testing.assert_close(total, expected, rtol=1e-8, atol=1e-8)


def test_frequencies_cost_what_the_probabilities_say() -> None:
    probability = torch.distributions.Dirichlet(torch.full((256,), 0.05, dtype=torch.float64)).sample((50,))
    counts = frequencies(probability)
    assert counts.dtype == torch.int64 and int(counts.min()) >= 1
    assert (counts.sum(1) == 1 << PRECISION).all()
    entropy = -torch.xlogy(probability, probability).sum(1) / math.log(2)
    cost = -(probability * (counts.double() / (1 << PRECISION)).log2()).sum(1)
    assert (cost - entropy).max() < 1e-3 and (cost >= entropy - 1e-12).all()


def test_impossible_levels_can_be_coded() -> None:
    counts = frequencies(torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64))
    assert counts.tolist() == [[1, (1 << PRECISION) - 2, 1]]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_diverged_weights_are_named(value: float) -> None:
    with pytest.raises(ValueError, match="weights have diverged"):
        frequencies(torch.tensor([[0.5, value]], dtype=torch.float64))


def test_densities_are_refused() -> None:
    with pytest.raises(ValueError, match="must give every level a probability"):
        probabilities(Gaussian(1), torch.zeros(1, 2), torch.zeros(1, 0))
