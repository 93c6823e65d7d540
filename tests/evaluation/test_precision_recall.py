"""Precision, recall, density and coverage against loops over pairs, for any size of the parts that are held."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from fastgen.evaluation import precision_recall


def by_loops(drawn: Tensor, real: Tensor, k: int) -> tuple[float, float, float, float]:
    def radii(x: Tensor) -> list[float]:
        return [sorted(float((p - q).norm()) for j, q in enumerate(x) if j != i)[k - 1] for i, p in enumerate(x)]

    of_real, of_drawn = radii(real), radii(drawn)
    inside = [[float((d - r).norm()) <= of_real[i] for i, r in enumerate(real)] for d in drawn]
    precision = sum(map(any, inside)) / len(drawn)
    density = sum(map(sum, inside)) / (k * len(drawn))
    coverage = sum(any(row[i] for row in inside) for i in range(len(real))) / len(real)
    recall = sum(any(float((r - d).norm()) <= of_drawn[j] for j, d in enumerate(drawn)) for r in real) / len(real)
    return precision, recall, density, coverage


@pytest.mark.parametrize(("k", "at_once"), [(1, 4), (3, 7), (3, 1024), (5, 3)])
def test_they_are_those_of_loops_over_pairs(k: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["fastgen.evaluation.precision_recall"], "AT_ONCE", at_once)
    drawn = torch.randn(23, 3, dtype=torch.float64) * 0.7 + 1.2
    real = torch.randn(17, 3, dtype=torch.float64)
    found = precision_recall(drawn, real, k=k)
    expected = by_loops(drawn, real, k)
    assert all(0 < share < 1 for share in (expected[0], expected[1], expected[3]))
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(expected, abs=1e-12)


def test_equal_sets_and_sets_far_apart() -> None:
    x = torch.randn(40, 5)
    same = precision_recall(x, x.flip(0))
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    apart = precision_recall(x, x + 1000)
    assert (apart.precision, apart.recall, apart.density, apart.coverage) == (0, 0, 0, 0)
    copies = x[:1].expand(10, -1)  # of one image: equal images are within a distance of zero
    assert precision_recall(copies, x).precision == 1
    assert precision_recall(copies, copies).precision == 1


def test_collapse_costs_recall_and_noise_costs_precision() -> None:
    real = torch.randn(200, 2, dtype=torch.float64)
    narrow = precision_recall(0.1 * torch.randn(200, 2, dtype=torch.float64), real)
    wide = precision_recall(5 * torch.randn(200, 2, dtype=torch.float64), real)
    assert narrow.precision > 0.95 and narrow.recall < 0.4 and narrow.density > 1 and narrow.coverage < 0.4
    assert wide.precision < 0.4 and wide.recall > 0.8


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 images; got 3 and 9"):
        precision_recall(torch.zeros(3, 2), torch.zeros(9, 2))
    with pytest.raises(ValueError, match="k must be at least 1; got 0"):
        precision_recall(torch.zeros(3, 2), torch.zeros(9, 2), k=0)


def test_torch_fidelity_agrees() -> None:
    metric = pytest.importorskip("torch_fidelity.metric_prc")
    drawn, real = torch.randn(120, 6) * 1.2, torch.randn(150, 6)
    theirs = metric.calculate_precision_recall_full(drawn, real, 3)
    found = precision_recall(drawn, real, k=3)
    assert (found.precision, found.recall) == pytest.approx(theirs, abs=1e-6)
