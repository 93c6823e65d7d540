"""Ways to run a causal network pixel by pixel. All of them give the same parameters for the same pixels."""

from __future__ import annotations

from fastgen.sampling.executors.base import Executor
from fastgen.sampling.executors.cached import CachedExecutor
from fastgen.sampling.executors.naive import NaiveExecutor

__all__ = ["CachedExecutor", "Executor", "NaiveExecutor"]
