"""What is stored, for how long, and which products are summed once per row and which per pixel.

The plan is made from the graph and its schedule alone: no tensors of the batch, no device. An executor binds it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastgen.sampling.ir import Affine, Graph, Pair, Pointwise, Read, Value
from fastgen.sampling.readiness import Schedule, schedule
from fastgen.sampling.trace import TraceError


@dataclass
class Chunk:
    """Neighbouring taps of one base that one matrix product takes together.

    At output column `phase + D q` it reads columns offset + step q, ..., + width - 1, channels c0:c1 of each.
    """

    read: Read  # one of the merged reads: it has the base and says which row
    offset: int
    step: int
    width: int
    c0: int
    c1: int
    weight: Tensor | None  # [width (c1 - c0), channels of the reader], None for the identity


@dataclass
class Storage:
    """How a value is held: a ring of rows, one row, or one pixel."""

    columns: bool = False  # all columns of its newest row, or just the current one
    left: int = 0  # zero columns on both sides, for windows that reach over the border
    right: int = 0
    depth: int = 0  # finished rows older than the newest one that are still read
    twin: bool = False  # also holds its negative, for concat_elu


@dataclass
class Sums:
    """An affine value by phase of its output lattice: the chunks that a row start can sum, and those left per pixel."""

    phases: Pair
    early: dict[Pair, list[Chunk]] = field(default_factory=dict)
    late: dict[Pair, list[Chunk]] = field(default_factory=dict)


@dataclass
class Plan:
    """Everything an executor needs to know."""

    graph: Graph
    schedule: Schedule
    storage: dict[int, Storage]
    sums: dict[int, Sums]
    period: Pair  # of the lattices of all values, in raw rows and columns

    def row_of(self, value: Value, raw: int) -> int | None:
        """The row of a value that raw row `raw` computes, if any."""
        row, rest = divmod(raw - self.schedule.of(value).row, value.stride[0])
        return row if rest == 0 and 0 <= row < value.height else None

    def newest(self, value: Value, raw: int) -> int:
        """The newest row of a value that is finished when raw row `raw` starts (row class: after its turn)."""
        issue = self.schedule.of(value)
        return (raw - issue.row - (0 if issue.per_row else 1)) // value.stride[0]

    def lag(self, read: Read, row: int, raw: int) -> int:
        """How many rows before the newest one is what `row` of the reader, computed in raw row `raw`, reads."""
        return self.newest(read.base, raw) - base_row(read, row)

    def has_row_sum(self, value: Value) -> bool:
        """Whether part of a value of the pixel class is summed when its row starts."""
        static = value.static if isinstance(value, Affine) else None
        return (static is not None and static.shape[2:] != (1, 1)) or any(self.sums[id(value)].early.values())


def base_row(read: Read, row: int) -> int:
    """The row of the base that `row` of the reader takes."""
    return (read.num[0] * row + read.shift[0]) // read.den[0]


def plan(graph: Graph, parts: list[slice]) -> Plan:
    """Derive the plan of a graph whose channel groups are drawn from the output slices `parts`.

    Raises: CausalityError, TraceError.
    """
    times = schedule(graph, parts)
    period = (
        math.lcm(*(value.stride[0] for value in graph.values)),
        math.lcm(*(value.stride[1] for value in graph.values)),
    )
    result = Plan(graph, times, {id(v): Storage() for v in graph.values}, {}, period)
    for value in graph.values:
        _check(value, times)
        if isinstance(value, Affine):
            result.sums[id(value)] = _sums(value, times)
    result.storage[id(graph.image)].columns = True
    for value in graph.values:
        result.storage[id(value)].columns |= times.of(value).per_row
        for read in value.reads:
            _reserve(result, value, read)
    for value in graph.values:
        store = result.storage[id(value)]
        if not store.columns:
            store.left = store.right = 0
        if isinstance(value, Pointwise) and value.op == "concat_elu":
            source = value.args[0]
            result.storage[id(source.base)].twin |= (source.c0, source.c1) == (0, source.base.channels)
    for sums in result.sums.values():
        for chunk in (c for table in (sums.early, sums.late) for chunks in table.values() for c in chunks):
            if chunk.width > 1:  # windows are contiguous only without the negative in between
                result.storage[id(chunk.read.base)].twin = False
    return result


def _check(value: Value, times: Schedule) -> None:
    """Refuse the reads that no executor has a place for."""
    for read in value.reads:
        mine, its = times.of(value), times.of(read.base)
        if (
            isinstance(value, Pointwise)
            and not mine.per_row
            and mine.row // value.stride[0] != its.row // value.stride[0]
        ):
            raise TraceError(
                f"raster engine: module {value.path!r} combines values that are known in different rows; "
                'shift them in a convolution, or sample with method="naive"'
            )


def _sums(value: Affine, times: Schedule) -> Sums:
    """Group the terms of an affine value into matrix products."""
    period = (math.lcm(*(r.den[0] for r in value.terms)), math.lcm(*(r.den[1] for r in value.terms)))
    sums = Sums(period)
    per_row = times.of(value).per_row
    for py in range(period[0]):
        for px in range(period[1]):
            early: list[Read] = []
            late: list[Read] = []
            for read in value.terms:
                at = (read.num[0] * py + read.shift[0], read.num[1] * px + read.shift[1])
                if at[0] % read.den[0] == 0 and at[1] % read.den[1] == 0:
                    (early if per_row or times.early(read, value) else late).append(read)
            sums.early[py, px] = _chunks(early, px, period[1])
            sums.late[py, px] = _chunks(late, px, period[1])
    return sums


def _chunks(reads: list[Read], phase: int, period: int) -> list[Chunk]:
    """Merge reads of one base row into runs that are contiguous in memory."""
    rows: dict[tuple[object, ...], list[Chunk]] = {}
    for read in reads:
        offset = (read.num[1] * phase + read.shift[1]) // read.den[1]
        step = read.num[1] * period // read.den[1]
        key = (id(read.base), read.num[0], read.den[0], read.shift[0], step, read.weight is None)
        rows.setdefault(key, []).append(Chunk(read, offset, step, 1, read.c0, read.c1, read.weight))
    out: list[Chunk] = []
    for chunks in rows.values():
        taps: list[Chunk] = []
        for chunk in sorted(chunks, key=lambda c: (c.offset, c.c0)):
            last = taps[-1] if taps else None
            if (
                last
                and chunk.weight is not None
                and last.weight is not None
                and last.offset == chunk.offset
                and last.c1 == chunk.c0
            ):
                last.weight = torch.cat((last.weight, chunk.weight))
                last.c1 = chunk.c1
            else:
                taps.append(chunk)
        runs: list[Chunk] = []
        for tap in taps:
            last = runs[-1] if runs else None
            whole = (tap.c0, tap.c1) == (0, tap.read.base.channels)
            if (
                last and whole and tap.weight is not None and last.weight is not None
                and last.offset + last.width == tap.offset and (last.c0, last.c1) == (tap.c0, tap.c1)
            ):  # fmt: skip
                last.weight = torch.cat((last.weight, tap.weight))
                last.width += 1
            else:
                runs.append(tap)
        out += runs
    return out


def _reserve(result: Plan, value: Value, read: Read) -> None:
    """Make the storage of a read's base serve that read."""
    times, base = result.schedule, read.base
    store = result.storage[id(base)]
    mine, its = times.of(value), times.of(base)
    early = mine.per_row or times.early(read, value)
    same_step = not early and (mine.row, mine.column) == (its.row, its.column) and read.aligned
    if not same_step:
        store.columns = True
    first, last = ((read.num[1] * x + read.shift[1]) // read.den[1] for x in (0, value.width - 1))
    store.left = max(store.left, -first)
    store.right = max(store.right, last - (base.width - 1))
    if not early:
        return
    start = 4 * result.period[0] * (1 + abs(mine.row) + abs(its.row))  # any raw row far from the top will do
    for raw in range(start, start + 2 * result.period[0]):
        row, rest = divmod(raw - mine.row, value.stride[0])
        if rest == 0 and (read.num[0] * row + read.shift[0]) % read.den[0] == 0:
            lag = result.lag(read, row, raw)
            if lag < 0:
                raise TraceError(
                    f"raster engine: module {value.path!r} reads an unfinished row; this is a bug in fastgen"
                )
            store.depth = max(store.depth, lag)
