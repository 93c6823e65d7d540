"""Moving averages of weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from fastgen.training.sharded import local, share_of, whole_of

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
        self._shares: list[Tensor] | None = None  # of the averages, where processes share the weights
        self._like: list[nn.Parameter] = []

    @torch.no_grad()
    def follow_shares(self, model: nn.Module) -> None:
        """Keep, from now on, only this process's share of each average, as `model` does of its weights."""
        self._like = list(model.parameters())
        self._shares = [
            local(share_of(average, weight)).clone()
            for average, weight in zip(self.model.parameters(), self._like, strict=True)
        ]

    @torch.no_grad()
    def update(self, model: nn.Module, t: int) -> None:
        """Fold in the weights of `model` after update number `t` (from 0)."""
        decay = min(self.decay, (1 + t) / (10 + t))
        averages: list[Tensor] = []
        latest: list[Tensor] = []
        held: Iterable[Tensor] = self.model.parameters()
        weights: Iterable[Tensor] = model.parameters()
        if self._shares is not None:
            held, weights = self._shares, [local(weight) for weight in model.parameters()]
        for average, weight, averaged in zip(held, weights, self._averaged, strict=True):
            if averaged:
                averages.append(average)
                latest.append(weight)
            else:
                average.copy_(weight)
        if averages:
            torch._foreach_lerp_(averages, latest, 1 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)

    @torch.no_grad()
    def gather(self) -> None:
        """Make `model` whole from all processes' shares; nothing to do where it is."""
        for average, share, like in zip(self.model.parameters(), self._shares or (), self._like):
            average.copy_(whole_of(share, like))

    @torch.no_grad()
    def scatter(self) -> None:
        """Take this process's shares from `model`, whose averages have been replaced."""
        for average, share, like in zip(self.model.parameters(), self._shares or (), self._like):
            share.copy_(local(share_of(average, like)))


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
    model.load_state_dict({name: share_of(value, own[name]) for name, value in weights.items()})
