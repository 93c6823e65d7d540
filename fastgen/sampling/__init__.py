"""Exact cached sampling of any causal network, derived from its forward."""

from __future__ import annotations

from fastgen.sampling.ancestral import available_methods, prepare, sample, teacher_forced
from fastgen.sampling.distributed import sample_distributed, shard
from fastgen.sampling.explain import Explanation, explain
from fastgen.sampling.readiness import CausalityError
from fastgen.sampling.trace import TraceError

__all__ = [
    "CausalityError",
    "Explanation",
    "TraceError",
    "available_methods",
    "explain",
    "prepare",
    "sample",
    "sample_distributed",
    "shard",
    "teacher_forced",
]
