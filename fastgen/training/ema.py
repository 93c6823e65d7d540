"""Moving averages of weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class ExponentialMovingAverage(Generic[Model]):
    """a <- d a + (1 - d) w after every step, with d = min(decay, (1 + t) / (10 + t)) at update t = 0, 1, ...

    `model` is a copy that holds the averages (and the latest buffers), in eval mode, ready to evaluate or
    sample. The limit on d lets the average forget the initial weights quickly.

    Source: Polyak and Juditsky, 1992; the warm-up is the one of TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, model: Model, decay: float, latest: Iterable[nn.Parameter] = ()) -> None:
        """Start from the present weights of `model`; those of its weights in `latest` are copied, not averaged."""
        if not 0 <= decay < 1:
            raise ValueError(f"ExponentialMovingAverage: decay must be in [0, 1); got {decay}")
        self.decay = decay
        self.model: Model = copy.deepcopy(model).eval().requires_grad_(False)
        copied = {id(parameter) for parameter in latest}
        self._averaged = [id(parameter) not in copied for parameter in model.parameters()]

    @torch.no_grad()
    def update(self, model: nn.Module, t: int) -> None:
        """Fold in the weights of `model` after update number `t` (from 0)."""
        decay = min(self.decay, (1 + t) / (10 + t))
        averages: list[Tensor] = []
        latest: list[Tensor] = []
        for average, weight, averaged in zip(self.model.parameters(), model.parameters(), self._averaged, strict=True):
            if averaged:
                averages.append(average)
                latest.append(weight)
            else:
                average.copy_(weight)
        if averages:
            torch._foreach_lerp_(averages, latest, 1 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)


def load_weights(model: nn.Module, weights: dict[str, Tensor], what: str) -> None:
    """Copy `weights` into `model`, naming every missing, extra or misshapen entry on failure.

    Raises:
        ValueError: the names or shapes differ from the model's.
    """
    own = model.state_dict()
    problems = [f"missing {name}" for name in own if name not in weights]
    problems += [f"unexpected {name}" for name in weights if name not in own]
    problems += [
        f"{name} is {list(weights[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise ValueError(f"{what}: the weights do not fit {type(model).__name__}: {shown}")
    model.load_state_dict(weights)
