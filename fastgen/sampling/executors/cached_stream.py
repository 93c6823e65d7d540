"""The calls of PyTorch for long sequences: caches are rings of columns, and programs belong to places in the rings.

A column is like the one that lies a whole ring before it: the same memory, and so the same calls. Each value has its
own period, that of the rings that it touches, so that a wide dilation does not multiply the programs of all layers.
"""

from __future__ import annotations

from torch import Tensor

from fastgen.sampling.executors.cached import CachedExecutor
from fastgen.sampling.executors.steps import Call, bind
from fastgen.sampling.executors.stream import columns_of, ring_sizes
from fastgen.sampling.ir import Pair, Pointwise, Value
from fastgen.sampling.plan import Chunk, Plan, Sums


class CachedStreamExecutor(CachedExecutor):
    """The cached executor for one row of many columns; `StreamExecutor.fits` says for which plans.

    Memory: of each value the columns that later ones still read, and a program for each of these. Only what was
    computed before the first column, such as what a condition adds, has as many columns as the sequence.
    """

    def __init__(self, plan: Plan, n: int, like: Tensor) -> None:
        self.rings = ring_sizes(plan)
        self.split: dict[int, list[Chunk]] = {}
        super().__init__(plan, n, like)
        # the sums of one column lie at one place, whichever column it is
        self.sums = {key: like.new_zeros(n, total.shape[2]) for key, total in self.row_sums.items()}
        self.parts = [[_Part(self, g, *item) for item in values] for g, values in enumerate(self.pixel_values)]

    def begin_row(self, row: int) -> None:
        """Compute what is known before the first column."""
        self._run_row(row)

    def parameters(self, column: int, substep: int) -> Tensor:
        """Run the column's program; parameters [N, P]."""
        for part in self.parts[substep]:
            if column >= part.start:
                if part.row_sum is not None and part.sum is not None:
                    part.sum.copy_(part.row_sum[:, column - part.start])
                for call in part.program(column):
                    call()
        return self.results[column % len(self.results)]

    def end_row(self) -> None:
        """No row follows."""

    def _ring(self, value: Value) -> int:
        return self.rings.get(id(value), 0)

    def _row_sum(self, value: Value, column: int) -> Tensor:
        return self.sums[id(value)]

    def _late_chunks(self, sums: Sums, phase: Pair) -> list[Chunk]:
        """Single columns, as neighbours in a ring may lie at both its ends."""
        key = id(sums)
        if key not in self.split:
            self.split[key] = [part for chunk in sums.late[phase] for part in columns_of(chunk)]
        return self.split[key]


class _Part:
    """One value of one sub-step, and its calls at every place in the rings that it touches."""

    def __init__(self, executor: CachedStreamExecutor, substep: int, value: Value, runs: list[Pair]) -> None:
        self.executor, self.substep, self.values = executor, substep, [(value, runs)]
        self.start = executor.times.of(value).column  # it lags behind the columns that are drawn
        self.width = executor.graph.image.width
        buffers = [executor.buffers[id(v)] for v in (value, *self._read_at_columns(value))]
        self.period = min(self.width, max(b.ring or self.width if b.columns else 1 for b in buffers))
        self.programs: dict[int, list[Call]] = {}
        self.row_sum, self.sum = executor.row_sums.get(id(value)), executor.sums.get(id(value))

    def _read_at_columns(self, value: Value) -> list[Value]:
        """What its calls read: not what the row sum holds, and the factors of a product that its sum takes."""
        early = self.executor.times.early
        bases = [read.base for read in value.reads if isinstance(value, Pointwise) or not early(read, value)]
        factors = [read.base for base in bases if id(base) in self.executor.fused for read in base.reads]
        return bases + factors

    def program(self, column: int) -> list[Call]:
        """What is computed of the value at a column, which is not before `start`."""
        place = column % self.period
        if place not in self.programs:
            # the last column of this place: only there do all taps lie inside the sequence that ever do
            last = column + (self.width - 1 - column) // self.period * self.period
            steps = self.executor._pixel_steps(0, last, self.substep, self.values)
            self.programs[place] = [call for step in steps for call in bind(step, self.executor._temporary)]
        return self.programs[place]
