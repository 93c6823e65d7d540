"""Ways to run a plan."""

from fastgen.sampling.executors.base import Executor
from fastgen.sampling.executors.cached import CachedExecutor
from fastgen.sampling.executors.naive import NaiveExecutor
from fastgen.sampling.executors.native import NativeExecutor, why_not
from fastgen.sampling.executors.stream import StreamExecutor

__all__ = ["CachedExecutor", "Executor", "NaiveExecutor", "NativeExecutor", "StreamExecutor", "why_not"]
