"""The moving average follows its formula, and forgets the initial weights quickly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastgen.training.ema import ExponentialMovingAverage


def test_average_is_the_recursion_with_its_warm_up() -> None:
    model = nn.Linear(2, 1).double()
    ema = ExponentialMovingAverage(model, 0.5)
    expected = model.weight.detach().clone()
    for t in range(20):
        with torch.no_grad():
            model.weight += torch.randn(1, 2, dtype=torch.float64)
        ema.update(model, t)
        decay = min(0.5, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * model.weight.detach()
        torch.testing.assert_close(ema.model.weight, expected, rtol=1e-12, atol=1e-12)


def test_average_is_a_copy_without_gradients_in_eval_mode() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    ema = ExponentialMovingAverage(model, 0.9)
    model(torch.randn(8, 3))
    ema.update(model, 0)
    assert not any(module.training for module in ema.model.modules())
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(ema.model[0].running_mean, model[0].running_mean)
    assert ema.model[0].weight.data_ptr() != model[0].weight.data_ptr()


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decay_is_checked(decay: float) -> None:
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\)"):
        ExponentialMovingAverage(nn.Linear(1, 1), decay)
