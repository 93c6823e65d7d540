"""Recipes, the training loop, moving averages and checkpoints.

Names are looked up on first use, so that listing the recipes does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastgen.training.checkpoint import Checkpoint as Checkpoint
    from fastgen.training.checkpoint import read_checkpoint as read_checkpoint
    from fastgen.training.checkpoint import write_checkpoint as write_checkpoint
    from fastgen.training.ema import ExponentialMovingAverage as ExponentialMovingAverage
    from fastgen.training.loop import TrainingResult as TrainingResult
    from fastgen.training.loop import train as train
    from fastgen.training.recipes import RECIPES as RECIPES
    from fastgen.training.recipes import Recipe as Recipe
    from fastgen.training.recipes import get_recipe as get_recipe

_HOMES = {
    "Checkpoint": "checkpoint",
    "read_checkpoint": "checkpoint",
    "write_checkpoint": "checkpoint",
    "ExponentialMovingAverage": "ema",
    "TrainingResult": "loop",
    "train": "loop",
    "RECIPES": "recipes",
    "Recipe": "recipes",
    "get_recipe": "recipes",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
