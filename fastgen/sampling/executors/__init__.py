"""Ways to run a plan."""

from fastgen.sampling.executors.base import Executor
from fastgen.sampling.executors.cached import CachedExecutor
from fastgen.sampling.executors.cached_stream import CachedStreamExecutor
from fastgen.sampling.executors.cuda_graph import GraphExecutor, GraphStreamExecutor, why_no_graphs
from fastgen.sampling.executors.lowered import LoweredExecutor, LoweredStreamExecutor
from fastgen.sampling.executors.megakernel import MegakernelExecutor, MegakernelStreamExecutor, why_no_megakernel
from fastgen.sampling.executors.naive import NaiveExecutor
from fastgen.sampling.executors.native import NativeExecutor, why_not
from fastgen.sampling.executors.stream import StreamExecutor

__all__ = [
    "CachedExecutor",
    "CachedStreamExecutor",
    "Executor",
    "GraphExecutor",
    "GraphStreamExecutor",
    "LoweredExecutor",
    "LoweredStreamExecutor",
    "MegakernelExecutor",
    "MegakernelStreamExecutor",
    "NaiveExecutor",
    "NativeExecutor",
    "StreamExecutor",
    "why_no_graphs",
    "why_no_megakernel",
    "why_not",
]
