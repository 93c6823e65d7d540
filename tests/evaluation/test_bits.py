"""Bits per dimension count every image once, and leave the model and the random state as they were."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fastgen.data import TensorImages
from fastgen.evaluation import evaluate_bits


class KnownDensity(nn.Module):
    """log p(x) = -(first level of x) nats, plus a nat for each label: what the mean must be is plain arithmetic."""

    def __init__(self, n_classes: int = 0) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.weight = nn.Parameter(torch.zeros(()))
        self.inner = nn.Dropout(0.5)

    def log_prob(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        assert not self.training and not self.inner.training
        log_prob = -x[:, 0, 0, 0].float() + self.weight
        return log_prob if cond is None else log_prob + cond


def images(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 2, 3, 4).clone()


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7, 10, 64])
def test_the_last_batch_has_no_more_weight_than_its_images(batch_size: int) -> None:
    result = evaluate_bits(KnownDensity(), images(10), batch_size=batch_size)
    assert (result.images, result.dims) == (10, 24)
    assert result.nats == pytest.approx(4.5, abs=1e-12)
    assert result.bits_per_dim == pytest.approx(4.5 / (24 * math.log(2)), abs=1e-12)
    spread = torch.arange(10.0).std().item() / (24 * math.log(2))
    assert result.stderr == pytest.approx(spread / math.sqrt(10), rel=1e-6)


def test_labels_reach_a_conditional_model_only() -> None:
    labels = torch.arange(10) % 2
    assert evaluate_bits(KnownDensity(n_classes=2), images(10), labels).nats == pytest.approx(4.0)
    assert evaluate_bits(KnownDensity(), images(10), labels).nats == pytest.approx(4.5)
    dataset = TensorImages("two", images(10), labels, ("even", "odd"))
    assert evaluate_bits(KnownDensity(n_classes=2), dataset, batch_size=3).nats == pytest.approx(4.0)


def test_modes_gradients_and_random_state_are_left_alone() -> None:
    model = KnownDensity().train()
    model.inner.eval()
    state = torch.get_rng_state()
    evaluate_bits(model, images(5), batch_size=2)
    assert model.training and not model.inner.training
    assert model.weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)


def test_modes_return_after_an_error_too() -> None:
    class Broken(KnownDensity):
        def log_prob(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
            raise RuntimeError("no")

    model = Broken().train()
    with pytest.raises(RuntimeError):
        evaluate_bits(model, images(2))
    assert model.training and model.inner.training


def test_one_image_has_no_spread() -> None:
    assert evaluate_bits(KnownDensity(), images(1)).stderr == 0.0


def test_what_cannot_be_evaluated_is_refused() -> None:
    with pytest.raises(ValueError, match=r"images must be \[N, C, H, W\] with N > 0; got \[0, 2, 3, 4\]"):
        evaluate_bits(KnownDensity(), images(0))
    with pytest.raises(ValueError, match="got 3 labels for 5 images"):
        evaluate_bits(KnownDensity(3), images(5), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="needs labels"):
        evaluate_bits(KnownDensity(3), images(5))
    model = KnownDensity()
    model.weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match="got nan for image 0"):
        evaluate_bits(model, images(5))
