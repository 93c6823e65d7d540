"""When each value is computed: at the start of a row, or at a pixel of it.

Every value has an earliest time, the largest offset that it may see, and a latest one, its readers' times. Between the
two the cheapest class is taken: once per row wherever possible, since a row is one wide matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fastgen.sampling.ir import ROW, Attend, Graph, Input, Read, Value, decode, encode

ROW_START = -(1 << 22)  # a column before all columns: the start of a row
OPEN = 1 << 60  # no reader yet


class CausalityError(ValueError):
    """The parameters of a pixel may see that pixel or later ones."""


@dataclass(frozen=True)
class Issue:
    """V[a, b] is computed at raw row s_y a + row, and, if it is of the pixel class, at raw column s_x b + column."""

    per_row: bool
    row: int
    column: int = 0


@dataclass
class Schedule:
    """The issue time of every value, and the number of sub-steps (channel groups drawn one after another) a pixel."""

    issues: dict[int, Issue]
    substeps: int

    def of(self, value: Value) -> Issue:
        """The issue time of a value."""
        return self.issues[id(value)]

    def early(self, read: Read, reader: Value) -> bool:
        """Whether a read is of rows that are finished when the reader's row starts."""
        issue = self.of(read.base)
        return issue.per_row or read.raw_shift()[0] + issue.row < self.of(reader).row

    def groups(self, value: Value) -> list[tuple[int, int, int]]:
        """Runs (first channel, end, sub-step) of a value of the pixel class."""
        issue = self.of(value)
        own = encode(issue.row, issue.column)
        latest = value.known.max((0, 1))
        steps = np.where(latest < own, 0, latest - own + 1)
        cuts = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(steps)]
        return [(a, b, int(steps[a])) for a, b in pairwise(cuts)]


def schedule(graph: Graph, parts: list[slice]) -> Schedule:
    """Choose when every value of a graph is computed.

    `parts` are the slices of the output's channels that the draws of channel groups 0, 1, ... of the image read:
    one slice for a joint draw of all channels.

    Raises: CausalityError if the parameters of group g see the pixel's own group g or anything later.
    """
    output = graph.output.base
    latest = output.known.max((0, 1))[graph.output.c0 : graph.output.c1]
    for group, part in enumerate(parts):
        seen = decode(int(latest[part].max()))
        if seen is not None and seen >= (0, 0, group):
            raise CausalityError(
                "raster engine: the parameters of a pixel must not see it or later pixels in raster order; those of "
                f"channel group {group} see offset (row {seen[0]:+d}, column {seen[1]:+d}, channel {seen[2]}); "
                "mask or shift the input"
            )
    inside = int(latest.max()) >= 0
    groups = graph.image.channels if inside else 1
    deadline = {id(value): OPEN for value in graph.values}
    deadline[id(output)] = 0
    issues: dict[int, Issue] = {id(graph.image): Issue(False, 0, 0)}
    for value in reversed(graph.values):
        if isinstance(value, Input):
            continue
        issue = _choose(value, deadline[id(value)], groups, value is output or isinstance(value, Attend))
        issues[id(value)] = issue
        for read in value.reads:
            dy, dx = read.raw_shift()
            use = encode(issue.row - dy, ROW_START if issue.per_row else issue.column - dx)
            deadline[id(read.base)] = min(deadline[id(read.base)], use)
    return Schedule(issues, len(parts) if inside else 1)


def _choose(value: Value, deadline: int, groups: int, by_pixel: bool) -> Issue:
    seen = decode(value.latest)
    if seen is None:  # sees nothing: any time will do
        seen = (-(1 << 20), 0, 0)
    dy, dx, group = seen
    last_row = (deadline - encode(0, ROW_START)) // ROW  # the last row that starts before the deadline
    if dy + 1 <= last_row and not by_pixel:
        return Issue(True, min(max(dy + 1, 0), last_row))
    inside = groups > 1 and group < groups - 1
    if dy < 0:
        row, column = 0, 0
    else:
        row, column = dy, max(dx, 0) if inside or dx < 0 else dx + 1
    if encode(row, column) > deadline:
        raise CausalityError(
            f"raster engine: what module {value.path!r} computes must be known before it is read; it sees offset "
            f"(row {dy:+d}, column {dx:+d}, channel {group}); mask or shift its input"
        )
    return Issue(False, row, column)
