"""The Fréchet distance against its closed form, scipy's matrix square root and, where installed, torch-fidelity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fastgen.evaluation import frechet_distance, gaussian_frechet_distance


def features(n: int, f: int, seed: int) -> Tensor:
    """Correlated features of which the last is nearly constant."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(f, f, generator=generator, dtype=torch.float64)
    mix[:, -1] *= 1e-5
    return torch.randn(n, f, generator=generator, dtype=torch.float64) @ mix + seed


def by_scipy(a: Tensor, b: Tensor) -> float:
    linalg = pytest.importorskip("scipy.linalg")
    s, t = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    root = linalg.sqrtm(s @ t)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * np.trace(root).real)


def test_gaussians_in_closed_form() -> None:
    zero, eye = torch.zeros(3), torch.eye(3)
    # of commuting covariances the trace is |sqrt(S) - sqrt(T)|^2 of the spectra
    s, t = torch.tensor([1.0, 4.0, 0.0]), torch.tensor([9.0, 1.0, 0.25])
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    turned = [rotation @ torch.diag(v.double()) @ rotation.T for v in (s, t)]
    expected = 4 + 1 + 0.25
    assert gaussian_frechet_distance(zero, turned[0], zero, turned[1]) == pytest.approx(expected, abs=1e-9)
    assert gaussian_frechet_distance(zero, turned[0], zero + 2, turned[1]) == pytest.approx(expected + 12, abs=1e-9)
    assert gaussian_frechet_distance(zero, eye, zero + 1, eye) == pytest.approx(3, abs=1e-12)


@pytest.mark.parametrize("f", [1, 2, 17])
def test_it_is_that_of_scipys_square_root(f: int) -> None:
    a, b = features(200, f, 1), features(150, f, 2)
    if f == 1:  # (m - n)^2 + (s - t)^2
        s, t = a.std(), b.std()
        assert frechet_distance(a, b) == pytest.approx(float((a.mean() - b.mean()) ** 2 + (s - t) ** 2), rel=1e-9)
    else:
        assert frechet_distance(a, b) == pytest.approx(by_scipy(a, b), rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a.float(), b.float()) == pytest.approx(frechet_distance(a, b), rel=1e-4)


def test_a_set_is_at_distance_zero_of_itself_whatever_its_scale() -> None:
    for scale in (1e-3, 1.0, 1e3):
        a = scale * features(100, 20, 3)
        assert frechet_distance(a, a.flip(0)) < 1e-12 * float(a.var(0).sum())


def test_too_few_images_are_said_and_still_measured() -> None:
    a, b = features(8, 12, 1), features(40, 12, 2)
    with pytest.warns(UserWarning, match="8 images give a singular covariance of 12 features"):
        found = frechet_distance(a, b)
    # rank 7 of 12: sums of singular values of the centred features themselves need no covariance
    centred = [(x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (a, b)]
    cross = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    traces = sum(x.square().sum() for x in centred)
    expected = (a.mean(0) - b.mean(0)).square().sum() + traces - 2 * cross
    assert found == pytest.approx(float(expected), rel=1e-6)


def test_bad_features_are_refused() -> None:
    a = features(10, 3, 0)
    for b, message in [
        (features(10, 4, 0), r"must be \[N, F\] and \[M, F\]; got \[10, 3\] and \[10, 4\]"),
        (a[:1], "at least 2 images; got 10 and 1"),
        (torch.full_like(a, torch.nan), "features must be finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            frechet_distance(a, b)


def test_torch_fidelity_agrees() -> None:
    metric = pytest.importorskip("torch_fidelity.metric_fid")
    a, b = features(300, 16, 1), features(200, 16, 2)
    statistics = [metric.fid_features_to_statistics(x) for x in (a, b)]
    theirs = metric.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-6)
