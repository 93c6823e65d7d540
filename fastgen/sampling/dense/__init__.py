"""Exact cached sampling of networks over flattened pixels, such as MADE: the counterpart of the raster engine."""

from __future__ import annotations

from fastgen.sampling.dense.executor import DenseExecutor
from fastgen.sampling.dense.native import DenseNativeExecutor
from fastgen.sampling.dense.plan import plan_dense
from fastgen.sampling.dense.recording import record

__all__ = ["DenseExecutor", "DenseNativeExecutor", "plan_dense", "record"]
