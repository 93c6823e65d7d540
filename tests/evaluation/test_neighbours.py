"""Nearest training images are found in any batches, and a bound of samples is measured as any other figure."""

from __future__ import annotations

import math

import pytest
import torch

from fastgen.data import TensorImages
from fastgen.evaluation import evaluate, evaluate_bound, nearest_neighbours
from fastgen.models import VAE, PixelCNN


@pytest.mark.parametrize("batch_size", [3, 7, 100])
def test_neighbours_are_those_of_a_sorted_list_of_distances(batch_size: int) -> None:
    train = torch.randint(0, 256, (20, 3, 4, 5), dtype=torch.uint8)
    wanted = torch.randint(0, 256, (6, 3, 4, 5), dtype=torch.uint8)
    wanted[2] = train[13]
    data = TensorImages("train", train, torch.zeros(20, dtype=torch.int64))
    distances, indices = nearest_neighbours(wanted, data, 4, batch_size=batch_size)
    every = (wanted[:, None].double() - train[None].double()).square().flatten(2).mean(2).sqrt()
    order = every.argsort(1)[:, :4]
    assert torch.equal(indices, order)
    torch.testing.assert_close(distances.double(), every.gather(1, order), rtol=1e-5, atol=1e-5)
    assert indices[2, 0] == 13 and distances[2, 0] == 0


def test_neighbours_of_other_shapes_are_refused() -> None:
    data = TensorImages("train", torch.zeros(5, 1, 4, 4, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"images must be of \[1, 4, 4\]"):
        nearest_neighbours(torch.zeros(2, 1, 4, 5, dtype=torch.uint8), data, 2)
    with pytest.raises(ValueError, match=r"k in 1\.\.5; got .* and k=6"):
        nearest_neighbours(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), data, 6)


def test_the_importance_weighted_bound_is_that_of_the_model() -> None:
    model = VAE(1, 2, (5,), image_size=(4, 4))
    with torch.no_grad():
        model.posterior.bias.add_(1.0)  # far from the posterior: samples matter
    x = torch.randint(0, 2, (30, 1, 4, 4), dtype=torch.uint8)
    one, many = evaluate(model, x), evaluate_bound(model, x, n_samples=200, batch_size=7)
    assert many == evaluate_bound(model, x, n_samples=200, batch_size=7)  # estimated alike every time
    assert many.nats < one.nats - 0.3
    assert many.bits_per_dim == pytest.approx(many.nats / (16 * math.log(2)))
    assert many.stderr > 0 and not many.others
    with pytest.raises(ValueError, match="PixelCNN has none; use evaluate"):
        evaluate_bound(PixelCNN(1, n_blocks=1, n_filters=2, image_size=(4, 4)), x, n_samples=2)
