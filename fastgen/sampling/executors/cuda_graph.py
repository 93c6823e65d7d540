"""Rows of launches as CUDA graphs: a row with all its draws is one call of the host, which never waits for it.

There is a graph for every phase of the rows (and for the few rows at the top and the bottom that are like no other).
The first row of a phase runs call by call, which compiles what has to be compiled, and is recorded afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.kernels._common.tiling import runs_triton
from fastgen.likelihoods import Likelihood
from fastgen.sampling.executors.lowered import LoweredExecutor, LoweredStreamExecutor
from fastgen.sampling.executors.steps import Call
from fastgen.sampling.plan import Plan


def why_no_graphs(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why programs cannot be captured for a device and dtype, or None if they can."""
    if device.type != "cuda":
        return f"it runs on CUDA devices; the model is on {device.type}"
    if dtype not in (torch.float32, torch.float64):
        return f"it keeps its caches in float32 or float64; got {dtype} (see `precision` for the weights)"
    if dtype == torch.float32 and not runs_triton(device):
        return "Triton cannot run here; install triton and unset TRITON_INTERPRET"
    return None


class Replayed(LoweredExecutor):
    """Rows that are recorded when they run for the first time, and replayed from then on."""

    def __init__(
        self,
        plan: Plan,
        n: int,
        like: Tensor,
        likelihood: Likelihood,
        keep_parameters: bool = False,
        *,
        precision: str | None = None,
        impl: str = "auto",
    ) -> None:
        super().__init__(plan, n, like, likelihood, keep_parameters, precision=precision, impl=impl)
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def run_row(self, key: int) -> None:
        """Replay the rows of a phase; the first time, run and record them."""
        if key in self.graphs:
            self.graphs[key].replay()
            return
        with torch.cuda.device(self.like.device):
            program = self.row_program(key)
            _run(program)
            shared = next(iter(self.graphs.values())).pool() if self.graphs else None
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=shared):
                _run(program)
            self.graphs[key] = graph


class GraphExecutor(Replayed):
    """The launches of a row, replayed.

    Memory: that of `LoweredExecutor`, and about a kilobyte for each launch of a row in each phase of the rows.
    """


class GraphStreamExecutor(Replayed, LoweredStreamExecutor):
    """The launches of a piece of a long sequence, replayed."""


def _run(program: list[Call]) -> None:
    for call in program:
        call()
