"""The compiled program for long sequences: caches are rings of columns, and one period of columns is all it holds.

Every operand of a step lies in a ring, in a row of as many columns as the sequence has (what was computed before it
began), or at a fixed place. So the steps of one column, moved along, are the steps of any other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastgen.likelihoods import Likelihood
from fastgen.sampling.executors.native import NativeExecutor, Program, Row, row_context
from fastgen.sampling.executors.steps import Step
from fastgen.sampling.ir import Attend, Pair, Value
from fastgen.sampling.plan import Chunk, Plan, Sums

SHORTEST = 1024  # columns of a sequence below which all of them are kept
PERIOD = 256  # columns that are encoded at least, so that few calls make a sequence
_OPERANDS = ("a", "b", "c")


class StreamExecutor(NativeExecutor):
    """The native executor for one row of many columns.

    Memory: of each value the columns that later ones still read, so a few seconds of sound take no more than one.
    """

    def __init__(self, plan: Plan, n: int, like: Tensor, likelihood: Likelihood, keep_parameters: bool = False) -> None:
        self.rings = ring_sizes(plan)
        self.split: dict[int, list[Chunk]] = {}
        super().__init__(plan, n, like, likelihood, keep_parameters)
        width, channels = self.graph.image.width, self.graph.image.channels
        self.drawn = like.new_zeros(n, width, channels)
        # some values start after the first column; from here on every column computes the same
        self.head = max(self.times.of(v).column for v in self.graph.values if not self.times.of(v).per_row)
        self.period = max(PERIOD, *self.rings.values())
        self.body = self._encode_body()
        self.moved_to = -1

    @staticmethod
    def fits(plan: Plan) -> bool:
        """Whether a plan is of one long row, every column of it computed alike."""
        image = plan.graph.image
        return (
            image.height == 1
            and image.width >= SHORTEST
            and all(v.stride == (1, 1) and not isinstance(v, Attend) for v in plan.graph.values)
            and all(store.right == 0 for store in plan.storage.values())
        )

    def _ring(self, value: Value) -> int:
        return self.rings.get(id(value), 0)

    def _late_chunks(self, sums: Sums, phase: Pair) -> list[Chunk]:
        """Single columns, as neighbours in a ring may lie at both its ends."""
        key = id(sums)
        if key not in self.split:
            self.split[key] = [part for chunk in sums.late[phase] for part in columns_of(chunk)]
        return self.split[key]

    # encoding ---------------------------------------------------------------------------------------------------

    def _steps_of(self, column: int, place: int) -> tuple[list[tuple[object, ...]], list[Pair]]:
        """The records of one column, whose draw takes the noise of column `place`; and its sub-steps."""
        records: list[tuple[object, ...]] = []
        pieces = []
        for substep in range(self.substeps):
            start = len(records)
            more, draws = self._encode_substep(0, column, substep, place)
            records += more
            pieces.append((start, len(records) - draws))
        image = self.buffers[id(self.graph.image)]
        drawn = Step("copy", self.drawn[:, column], (image.now[:, image.column(column), : self.image_shape[0]],))
        records += [self.encoder.step(drawn), *self._encode_kept(column)]
        return records, pieces

    def _encode_pixels(self, key: int) -> Program:
        """The columns before all values have started."""
        records: list[tuple[object, ...]] = []
        pieces = []
        for column in range(self.head):
            more, parts = self._steps_of(column, column)
            pieces.append([(len(records) + a, len(records) + b) for a, b in parts])
            records += more
        return Program(self.compiled, records, pieces)

    def _encode_body(self) -> Program:
        """A period of the other columns, made of one of them; `_move` takes it to its place."""
        model_column = self.period * (1 + self.head // self.period)  # all that it reads has been computed
        model_column = min(model_column, self.graph.image.width - 1)
        records, parts = self._steps_of(model_column, 0)
        body = Program(self.compiled, records, [])
        one, count = body.steps, len(records)
        whole = np.tile(one, self.period).reshape(self.period, count)
        whole["column"] += np.arange(self.period, dtype=np.int32)[:, None]
        distance = np.arange(self.period)[:, None] + self.head - model_column
        self.linear: list[tuple[NDArray[np.uintp], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []
        regions = self._regions()
        starts = regions["start"]
        for at in (*(whole[name]["at"] for name in _OPERANDS), whole["out"]):
            here = at[0].astype(np.int64)
            index = np.searchsorted(starts, here, "right") - 1
            region = regions[index]
            inside = (index >= 0) & (here < region["end"])
            offset = here - region["start"]
            step = region["column"]
            slot, rest = offset // step, offset % step
            ring = np.where(region["ring"] > 0, region["ring"], 1)
            turned = region["start"] + (slot + distance) % ring * step + rest
            at[:] = np.where(inside & (region["ring"] > 0), turned, here)
            linear = np.flatnonzero(inside & (region["ring"] == 0))
            self.linear.append((at, linear, here[linear] + distance * step[linear], step[linear]))
        body.steps, body.address = whole, whole.ctypes.data
        body.pieces = [[(j * count + a, j * count + b) for a, b in parts] for j in range(self.period)]
        self.per_column = count
        return body

    def _regions(self) -> NDArray[np.void]:
        """The memory that is laid out by columns, in the order of its addresses."""
        found = []
        by_column = [(b.now, b.ring) for b in self.buffers.values() if b.columns]
        rows = [*self.row_sums.values(), self.drawn]
        rows += [] if self.row_parameters is None else [self.row_parameters]
        for tensor, ring in [*by_column, *((t, 0) for t in rows)]:
            step = tensor.stride(1) * tensor.element_size()
            found.append((tensor.data_ptr(), tensor.data_ptr() + tensor.shape[1] * step, step, ring))
        kinds = [("start", np.int64), ("end", np.int64), ("column", np.int64), ("ring", np.int64)]
        return np.array(sorted(found), kinds)

    # running ----------------------------------------------------------------------------------------------------

    def _move(self, first: int) -> None:
        """Let the body compute the columns from `first` on, a multiple of the period behind the head."""
        if first != self.moved_to:
            for at, linear, address, step in self.linear:
                at[:, linear] = address + (first - self.head) * step
            self.moved_to = first

    def parameters(self, column: int, substep: int) -> Tensor:
        """Run the pixel's program up to its draw; parameters [N, P]."""
        if column < self.head:
            return super().parameters(column, substep)
        place = (column - self.head) % self.period
        self._move(column - place)
        self.body.run(self.body.pieces[place][substep], self.everyone)
        return self.results[column % len(self.results)]

    def end_row(self) -> None:
        """No row follows."""

    def draw_row(self, uniforms: Tensor, temperature: Tensor, kept: Tensor | None, mask: Tensor | None) -> Tensor:
        """All columns, drawn: [N, W, C], valid until the next call. Shapes as in `NativeExecutor.draw_row`."""
        width = self.graph.image.width

        def context(first: int) -> Row:
            parts = (None if t is None else t[first:] for t in (kept, mask))
            return row_context(self.likelihood, uniforms[first:], temperature, *parts)

        head = min(self.head, width)
        if head:
            stop = len(self.current.steps) if head == self.head else self.current.pieces[head][0][0]
            self._run_all(self.current, context(0), stop)
        for first in range(self.head, width, self.period):
            self._move(first)
            self._run_all(self.body, context(first), min(self.period, width - first) * self.per_column)
        return self.drawn


def ring_sizes(plan: Plan) -> dict[int, int]:
    """How many columns of each value its readers look back, itself included, up to a power of two."""
    times = plan.schedule
    lag = {id(v): 1 for v in plan.graph.values if not times.of(v).per_row}
    for value in plan.graph.values:
        for read in value.reads:
            if id(read.base) in lag:
                back = times.of(value).column - times.of(read.base).column - read.raw_shift()[1]
                lag[id(read.base)] = max(lag[id(read.base)], back + 1)
    return {key: 1 << (columns - 1).bit_length() for key, columns in lag.items()}


def columns_of(chunk: Chunk) -> list[Chunk]:
    """The taps of a chunk, one by one."""
    if chunk.width == 1 or chunk.weight is None:
        return [chunk]
    parts = chunk.weight.chunk(chunk.width)
    return [replace(chunk, offset=chunk.offset + i, width=1, weight=part) for i, part in enumerate(parts)]
