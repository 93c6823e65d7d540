"""One phase of a training step: its loss, its gradient over micro-batches and processes, its optimiser."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastgen.models import Phase
from fastgen.models.base import Terms
from fastgen.training.distributed import Ranks
from fastgen.training.recipes import Recipe
from fastgen.training.sharded import whole

FUSED = ("adam", "adamw", "sgd")  # whose steps PyTorch fuses


class Turn:
    """A phase and its optimiser.

    Attributes:
        phase: what is minimised, and by which weights.
        optimizer: of these weights.
        scaler: of the loss in float16, else None.
    """

    def __init__(self, phase: Phase, recipe: Recipe, device: torch.device, ranks: Ranks, *, sharded: bool) -> None:
        """`sharded` weights communicate by themselves; others through DistributedDataParallel."""
        self.phase, self.recipe, self.device = phase, recipe, device
        self.optimizer = make_optimizer(phase, recipe, device)
        self.scaler = torch.amp.GradScaler(device.type) if recipe.precision == "float16" else None
        loss: Callable[[Tensor, Any], Terms] = phase.loss
        if recipe.compile != "none":
            mode = None if recipe.compile == "default" else recipe.compile
            loss = torch.compile(loss, mode=mode)
        self._loss = loss
        self._sharded = sharded
        self._shares_gradients = ranks.several and not sharded
        self._parallel: nn.parallel.DistributedDataParallel | None = None  # from the first step on

    def take(self, rate: float, x: Tensor, cond: Any) -> tuple[dict[str, Tensor], Tensor, bool]:
        """One step of the optimiser at the learning rate `rate`.

        Returns what is logged ("loss" and the loss's other terms), the norm of the gradient, and whether the step was
        left out because it overflowed or was too long.
        """
        recipe, parameters = self.recipe, self.phase.parameters
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        figures = self._gradients(x, cond)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = whole(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
        if recipe.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, recipe.clip_norm, norm)
        left_out = False
        if recipe.skip_norm is not None:
            left_out = bool(norm > recipe.skip_norm)  # looking waits for the device, once a step
        if self.scaler is not None:
            left_out = left_out or not bool(torch.isfinite(norm))
            if not left_out:
                self.scaler.step(self.optimizer)
            self.scaler.update()
        elif not left_out:
            self.optimizer.step()
        if self.phase.after is not None and not left_out:
            self.phase.after()
        return figures, norm, left_out

    def _gradients(self, x: Tensor, cond: Any) -> dict[str, Tensor]:
        """Add up the gradients of the micro-batches; what is logged is their mean."""
        count = self.recipe.accumulate
        totals: dict[str, Tensor] = {}
        for index, (part, its_cond) in enumerate(zip(x.chunk(count), _parts(cond, len(x), count), strict=True)):
            last = index == count - 1
            with self._parallel.no_sync() if self._parallel and not last else contextlib.nullcontext():
                terms = self._terms(part, its_cond)
                loss = terms["loss"] / count if count > 1 else terms["loss"]
                if self.scaler is not None:
                    loss = self.scaler.scale(loss)
                # sharded weights are no leaves of the graph: it begins at the whole ones that they are gathered to
                loss.backward(inputs=None if self._sharded else list(self.phase.parameters))
            for key, term in terms.items():
                mean = term.detach() / count if count > 1 else term.detach()
                totals[key] = totals[key] + mean if key in totals else mean
        if self._shares_gradients and self._parallel is None:
            self._average_gradients()
            self._parallel = self._data_parallel()
        return totals

    def _average_gradients(self) -> None:
        """What DistributedDataParallel does later, once it is known which weights take part."""
        for parameter in self.phase.parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()

    def _data_parallel(self) -> nn.parallel.DistributedDataParallel:
        """The loss with gradients that are means over the processes, found while others are still computed."""
        device = self.device
        return nn.parallel.DistributedDataParallel(
            _Loss(self._loss, self.phase),
            device_ids=[device.index] if device.type == "cuda" else None,
            find_unused_parameters=any(parameter.grad is None for parameter in self.phase.parameters),
        )

    def _terms(self, x: Tensor, cond: Any) -> Terms:
        precision = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(self.recipe.precision)
        with torch.autocast(self.device.type, precision, enabled=precision is not None):
            terms: Terms = (self._parallel or self._loss)(x, cond)
        return terms

    def scaler_state(self) -> Tensor | None:
        """What the loss is scaled by, and for how many steps it has been: [2]."""
        if self.scaler is None:
            return None
        state = self.scaler.state_dict()
        return torch.tensor([state["scale"], state["_growth_tracker"]], dtype=torch.float64)

    def set_scaler_state(self, state: Tensor) -> None:
        """Undo `scaler_state`."""
        if self.scaler is not None:
            scale, tracker = state.tolist()
            now = {**self.scaler.state_dict(), "scale": scale, "_growth_tracker": int(tracker)}
            self.scaler.load_state_dict(now)


def make_optimizer(phase: Phase, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    """The recipe's optimiser of the phase's weights."""
    betas = phase.betas or recipe.betas
    options: dict[str, Any] = {"lr": recipe.lr}
    if recipe.optimizer in ("adam", "adamw", "adamax"):
        options["betas"] = betas
    elif recipe.optimizer == "rmsprop":
        options["alpha"] = betas[1]
    else:
        options["momentum"] = betas[0]
    if recipe.optimizer in ("adamw", "sgd"):
        options["weight_decay"] = recipe.weight_decay
    if recipe.optimizer in FUSED:
        options["fused"] = device.type in ("cpu", "cuda")
    classes: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "adamax": torch.optim.Adamax,
        "rmsprop": torch.optim.RMSprop,
        "sgd": torch.optim.SGD,
    }
    return classes[recipe.optimizer](list(phase.parameters), **options)


class _Loss(nn.Module):
    """The loss of a phase as a module that owns the phase's weights, as DistributedDataParallel wants it."""

    def __init__(self, loss: Callable[[Tensor, Any], Terms], phase: Phase) -> None:
        super().__init__()
        self.weights = nn.ParameterList(phase.parameters)
        self._loss = loss

    def forward(self, x: Tensor, cond: Any) -> Terms:
        # terms that are only logged must not look as if their weights took part in the loss
        return {key: term if key == "loss" else term.detach() for key, term in self._loss(x, cond).items()}


def _parts(cond: Any, n: int, count: int) -> list[Any]:
    """The condition of each micro-batch: tensors of n rows are cut, in tuples and dicts too."""
    if count == 1:
        return [cond]
    if isinstance(cond, Tensor) and cond.dim() and len(cond) == n:
        return list(cond.chunk(count))
    if isinstance(cond, dict):
        columns = {key: _parts(value, n, count) for key, value in cond.items()}
        return [{key: column[index] for key, column in columns.items()} for index in range(count)]
    if isinstance(cond, tuple):
        return list(zip(*(_parts(value, n, count) for value in cond), strict=True))
    return [cond] * count
