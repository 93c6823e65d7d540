"""The kernel distance against loops, moments of Gaussians, and its own spread over sets of images."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fastgen.evaluation import kernel_distance
from fastgen.evaluation.kernel_distance import polynomial_mmd


def normal(n: int, f: int, seed: int, mean: float = 0.0) -> Tensor:
    return torch.randn(n, f, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean


def test_the_estimate_is_that_of_loops_over_pairs() -> None:
    a, b = normal(7, 3, 0), normal(5, 3, 1, 0.5)

    def k(x: Tensor, y: Tensor) -> float:
        return float((x @ y / 3 + 1) ** 3)

    within = [np.mean([k(x, y) for x, y in itertools.permutations(s, 2)]) for s in (a, b)]
    across = np.mean([k(x, y) for x in a for y in b])
    assert polynomial_mmd(a, b) == pytest.approx(within[0] + within[1] - 2 * across, rel=1e-12)


def of_gaussians(mean: float) -> float:
    """E (xy + 1)^3 in one dimension, x and y normal: of moments 1, m, m^2 + 1, m^3 + 3m."""
    p, q = (1, 0, 1, 0), (1, mean, mean**2 + 1, mean**3 + 3 * mean)
    return sum(math.comb(3, i) * (p[i] - q[i]) ** 2 for i in range(4))


@pytest.mark.parametrize("mean", [0.0, 0.5])
def test_gaussians_by_their_moments_and_the_error_is_the_spread_over_sets(mean: float) -> None:
    found = [kernel_distance(normal(200, 1, 2 * s), normal(300, 1, 2 * s + 1, mean), seed=s) for s in range(60)]
    values = torch.tensor([each.value for each in found], dtype=torch.float64)
    spread = float(values.std())
    # without bias: the mean of 60 sets is within three of its errors of the truth
    assert float(values.mean()) == pytest.approx(of_gaussians(mean), abs=3 * spread / math.sqrt(60))
    error = float(torch.tensor([each.stderr for each in found]).mean())
    # where means differ the jackknife holds; where they agree the statistic is degenerate and the error too large
    assert 0.75 * spread < error < (1.4 if mean else 4) * spread


def test_subsets_are_a_function_of_the_seed_and_never_all_images() -> None:
    a, b = normal(50, 4, 0), normal(40, 4, 1)
    found = kernel_distance(a, b)
    assert found == kernel_distance(a, b) and found != kernel_distance(a, b, seed=1)
    assert (found.subset_size, found.n_subsets) == (20, 100) and found.std > 0
    assert kernel_distance(normal(3000, 2, 0), normal(2500, 2, 1), n_subsets=2).subset_size == 1000


def test_what_cannot_be_measured_is_refused() -> None:
    a = normal(10, 3, 0)
    for b, options, message in [
        (a[:3], {}, "at least 4 images; got 10 and 3"),
        (a, {"subset_size": 10}, r"of 2 to 9 images; got 100 of 10"),
        (a, {"n_subsets": 1}, "got 1 of 5"),
        (a[:, :2], {}, r"must be \[N, F\] and \[M, F\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            kernel_distance(a, b, **options)


def test_torch_fidelity_agrees_on_every_subset() -> None:
    metric = pytest.importorskip("torch_fidelity.metric_kid")
    a, b = normal(60, 8, 0), normal(60, 8, 1, 0.3)
    gram = [metric.kernel_poly(x.numpy(), y.numpy(), kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None,
                               kid_kernel_poly_coef0=1) for x, y in ((a, a), (a, b), (b, b))]  # fmt: skip
    assert polynomial_mmd(a, b) == pytest.approx(metric.mmd2(*gram), rel=1e-9)
