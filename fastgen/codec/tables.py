"""Distributions of the next symbols, as whole numbers that encoder and decoder share to the last unit."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.functional import dmol_conditional, dmol_log_prob
from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Likelihood, level_dtype

PRECISION = 24
"""The frequencies of a distribution add up to 2^PRECISION."""


def check_likelihood(likelihood: Likelihood) -> None:
    """Raise ValueError for a likelihood of which no table can be made: one with a density instead of levels."""
    if not isinstance(likelihood, (Bernoulli, Categorical, DiscretizedLogisticMixture)) or likelihood.levels > 2**16:
        raise ValueError(
            "codec: the likelihood must give every level a probability (Bernoulli, Categorical, "
            f"DiscretizedLogisticMixture of at most 16 bits); got {likelihood.config}; train with one of these"
        )


def probabilities(likelihood: Likelihood, params: Tensor, before: Tensor) -> Tensor:
    """P(x_c = k | x_<c, params) for every level k of the channel after `before`.

    Shapes: params [N, P], before [N, c] -> [N, levels].
    Dtypes: before levels -> float64.
    Raises: as `check_likelihood`.
    """
    check_likelihood(likelihood)
    c, levels = before.shape[1], likelihood.levels
    if isinstance(likelihood, DiscretizedLogisticMixture):
        one = dmol_conditional(params, before, channels=likelihood.channels, bits=likelihood.bits)
        grid = torch.arange(levels, device=params.device)
        x = _as_op_takes(grid, levels).expand(len(params), 1, 1, levels)
        wide = one[:, :, None, None].expand(-1, -1, 1, levels)
        return dmol_log_prob(x, wide, bits=likelihood.bits)[:, 0].double().exp()
    own = params[:, likelihood.channel(c)[1]].double()
    if isinstance(likelihood, Bernoulli):
        return torch.cat((torch.sigmoid(-own), torch.sigmoid(own)), 1)
    return torch.softmax(own, 1)


def _as_op_takes(levels: Tensor, count: int) -> Tensor:
    """Levels in the dtype of the likelihood; more than 256 as signals."""
    return levels.to(level_dtype(count)) if count <= 256 else levels.double() * (2 / (count - 1)) - 1


def frequencies(probability: Tensor) -> Tensor:
    """1 + floor(p (2^24 - L)), and what is left to the largest: positive, in sum 2^24.

    No level is impossible, so that any image can be coded, and a level costs at most log2(1 + L / (2^24 p)) bits more
    than p says.

    Shapes: [N, L] -> int64 [N, L]. Dtypes: float64, nonnegative, of any sum above 0.
    Raises: ValueError for probabilities that are not finite: the model's weights have diverged.
    """
    total = probability.sum(1, keepdim=True)
    if not bool((torch.isfinite(total) & (total > 0)).all()):
        raise ValueError("codec: probabilities must be finite; got NaN or infinity; the model's weights have diverged")
    room = (1 << PRECISION) - probability.shape[1]
    counts = 1 + torch.floor(probability / total * room).long()
    rest = (1 << PRECISION) - counts.sum(1, keepdim=True)
    return counts.scatter_add_(1, counts.argmax(1, keepdim=True), rest)
