"""Modes are counted: components of a mixture by distance, classes by what a classifier says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen.data import load
from fastgen.data.ring import RADIUS, STD, ring_centres
from fastgen.evaluation import class_coverage, mixture_coverage

CENTRES = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])


def test_points_belong_to_the_component_within_reach() -> None:
    points = torch.tensor([[0.0, 2.9], [0.0, 3.1], [10.0, 0.0], [10.0, -2.9], [40.0, 40.0], [7.1, 0.0]])
    found = mixture_coverage(points, CENTRES, std=1.0)
    assert found.counts == (1, 3, 0) and found.found == 2
    assert found.high_quality == pytest.approx(4 / 6)
    assert str(found) == "2 of 3 modes, 66.7% of high quality, counts 1 3 0"


def test_a_mode_is_found_with_a_tenth_of_its_share() -> None:
    for few, wanted in ((3, 2), (4, 3)):  # a tenth of 120 / 3 is 4
        points = CENTRES.repeat_interleave(torch.tensor([120 - 10 - few, 10, few]), 0)
        assert mixture_coverage(points, CENTRES, std=1.0).found == wanted


def test_the_ring_covers_itself_as_a_gaussian_does() -> None:
    data = load("ring", split="all")
    points, labels = data.tensors()
    assert data.shape == (2, 1, 1) and len(data) == 10_000 and data.n_classes == 8
    found = mixture_coverage(points.flatten(1), ring_centres(), STD)
    assert found.found == 8
    assert found.high_quality == pytest.approx(1 - math.exp(-4.5), abs=0.004)
    nearest = torch.cdist(points.flatten(1).double(), ring_centres()).argmin(1)
    assert torch.equal(nearest, labels)
    offsets = points.flatten(1).double() - ring_centres()[labels]
    assert float(offsets.std()) == pytest.approx(math.sqrt(STD**2 + 1 / 12), rel=0.02)  # rounding to levels
    torch.testing.assert_close((ring_centres() - 127.5).norm(dim=1), torch.full((8,), RADIUS, dtype=torch.float64))
    assert not torch.equal(points, load("ring", split="all", seed=1).tensors()[0])
    with pytest.raises(ValueError, match="'ring' has points, images of 2 channels and one pixel"):
        load("ring", size=8)


def classify(images: Tensor) -> Tensor:
    """The class is the level of the first pixel, with a probability of 0.9."""
    one_hot = F.one_hot(images[:, 0, 0, 0].long(), 3).double()
    return torch.log(0.85 * one_hot + 0.05)


def images_of(*classes: int) -> Tensor:
    return torch.tensor(classes, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def test_classes_are_counted_beside_the_shares_of_the_data() -> None:
    found = class_coverage(images_of(0, 0, 2, 0), classify, torch.tensor([0.5, 0.25, 0.25]), batch_size=3)
    assert found.counts == (3, 0, 1) and found.found == 2
    assert found.divergence == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(1.0))
    assert found.confidence == pytest.approx(0.9)
    same = class_coverage(images_of(0, 0, 1, 2), classify, torch.tensor([0.5, 0.25, 0.25]))
    assert same.divergence == pytest.approx(0, abs=1e-12) and same.found == 3


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="must be images; got none"):
        class_coverage(images_of(), classify, torch.tensor([0.5, 0.25, 0.25]))
    with pytest.raises(ValueError, match=r"shares must be \[K >= 2\], not negative, with sum 1"):
        class_coverage(images_of(0), classify, torch.tensor([0.5, 0.25, 0.5]))
    with pytest.raises(ValueError, match=r"points must be \[N, D\] and centres \[K, D\]"):
        mixture_coverage(torch.zeros(3, 3), CENTRES, 1.0)
    with pytest.raises(ValueError, match="std and reach must be positive; got 0"):
        mixture_coverage(CENTRES, CENTRES, 0)
