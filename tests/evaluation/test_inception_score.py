"""The inception score at its ends, against the entropies written out, and against torch-fidelity where installed."""

from __future__ import annotations

import pytest
import torch

from fastgen.evaluation import inception_score


def test_its_ends() -> None:
    sure = 1e3 * torch.eye(5).repeat(40, 1)
    assert inception_score(sure, splits=1).value == pytest.approx(5)  # every class, each image sure of its own
    assert inception_score(1e3 * torch.eye(5)[:1].repeat(40, 1), splits=4) == pytest.approx((1, 0))  # one class
    assert inception_score(torch.zeros(40, 5), splits=4) == pytest.approx((1, 0))  # sure of none


def test_it_is_the_difference_of_entropies() -> None:
    logits = 2 * torch.randn(30, 4, dtype=torch.float64)
    p = logits.softmax(1)
    mean = p.mean(0)
    information = -(mean * mean.log()).sum() + (p * p.log()).sum(1).mean()
    assert inception_score(logits, splits=1).value == pytest.approx(float(information.exp()), rel=1e-12)


def test_images_sorted_by_class_are_shuffled_before_they_are_split() -> None:
    sure = 1e3 * torch.eye(5).repeat_interleave(40, 0)
    found = inception_score(sure, splits=5)
    assert found.value > 4.5 and 0 < found.std < 0.5
    assert found == inception_score(sure, splits=5) != inception_score(sure, splits=5, seed=1)


def test_bad_logits_are_refused() -> None:
    for logits, splits, message in [
        (torch.zeros(9, 3), 10, r"splits must be in 1\.\.9"),
        (torch.zeros(9, 3), 0, "got 0"),
        (torch.zeros(9, 1), 1, r"\[N, K >= 2\]"),
        (torch.full((9, 3), torch.nan), 1, "must be finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            inception_score(logits, splits=splits)


def test_torch_fidelity_agrees() -> None:
    metric = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 3 * torch.randn(100, 7)
    theirs = metric.isc_features_to_metric(logits, splits=1, shuffle=False)["inception_score_mean"]
    assert inception_score(logits, splits=1).value == pytest.approx(theirs, rel=1e-9)
    # with one image a class in each split the order does not matter: their splits and ours are then the same
    equal = torch.eye(5).repeat(10, 1)
    theirs = metric.isc_features_to_metric(equal, splits=10, shuffle=False)
    assert inception_score(equal.flip(0)[:5], splits=1).value == pytest.approx(theirs["inception_score_mean"])
