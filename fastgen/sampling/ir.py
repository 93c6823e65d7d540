"""The normal form that every causal network is brought into: inputs, affine maps and pointwise functions.

A value V[a, b] lives on a lattice of the image: its raw position is (s_y a, s_x b) with stride s = (s_y, s_x). Pads,
crops, shifts, splits and concatenations are not values; they are index maps inside the reads. What does not depend on
the image is a constant and has been folded into weights, biases and static images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Pair = tuple[int, int]

# An offset (dy, dx, dg) of rows, columns and channel groups is one int64, so that integer order is lexicographic
# order and integer addition is offset addition.
ROW, COLUMN = 1 << 40, 1 << 16
NEVER = -(1 << 62)  # "minus infinity": does not depend on the image at all


def encode(dy: int, dx: int, dg: int = 0) -> int:
    """The int64 of the offset (dy, dx, dg)."""
    return dy * ROW + dx * COLUMN + dg


def no_later_than(codes: NDArray[np.int64], columns: int) -> NDArray[np.int64]:
    """Offsets whose column is at most `columns`: what sees the end of a row sees no more of it."""
    row = (codes // COLUMN + (1 << 23)) >> 24
    column = codes // COLUMN - (row << 24)
    capped = row * ROW + np.minimum(column, columns) * COLUMN + codes % COLUMN
    return np.where(codes < NEVER // 2, codes, capped)


def decode(code: int) -> tuple[int, int, int] | None:
    """The offset (dy, dx, dg) of an int64, None for one that never depends on the image."""
    code = int(code)
    if code < NEVER // 2:
        return None
    group = code % COLUMN
    rest = code // COLUMN
    dy = (rest + (1 << 23)) >> 24
    return dy, rest - (dy << 24), group


@dataclass(eq=False)
class Value:
    """A tensor [N, channels, height, width] that depends on the image.

    `known[py, px, c]` is the encoded lexicographically largest raw offset, relative to (s_y a, s_x b), that channel c
    may see where a, b have the phases py, px.
    """

    channels: int
    height: int
    width: int
    path: str  # of the module that made it, for messages
    stride: Pair = (1, 1)
    known: NDArray[np.int64] = field(default_factory=lambda: np.zeros((1, 1, 0), np.int64))
    loop: Loop | None = None  # the recurrence that it belongs to

    @property
    def reads(self) -> Sequence[Read]:
        """What this value is computed from."""
        return ()

    @property
    def latest(self) -> int:
        """The largest encoded offset over phases and channels."""
        return int(self.known.max())


@dataclass(eq=False)
class Loop:
    """A recurrence: values that read each other, at earlier places. They stand side by side in the graph."""

    members: list[Value] = field(default_factory=list)


@dataclass(eq=False)
class Read:
    """base[c0:c1, (num a + shift) / den], zero outside the base."""

    base: Value
    c0: int
    c1: int
    shift: Pair = (0, 0)
    num: Pair = (1, 1)
    den: Pair = (1, 1)
    weight: Tensor | None = None  # [c1 - c0, channels of the reader]; None is the identity

    @property
    def channels(self) -> int:
        """How many channels are read."""
        return self.c1 - self.c0

    @property
    def aligned(self) -> bool:
        """Whether it reads its own position, whole."""
        return self.shift == (0, 0) and self.num == self.den == (1, 1)

    def slice(self, lo: int, hi: int) -> Read:
        """The read of channels lo:hi of this one (only without a weight)."""
        return replace(self, c0=self.c0 + lo, c1=self.c0 + hi)

    def raw_shift(self) -> Pair:
        """The shift in raw pixels, relative to the reader's raw position."""
        return (
            self.base.stride[0] * self.shift[0] // self.den[0],
            self.base.stride[1] * self.shift[1] // self.den[1],
        )


@dataclass(eq=False)
class Input(Value):
    """The image."""


@dataclass(eq=False)
class Affine(Value):
    """Sum over terms of weight^T . base, plus a static part [N or 1, channels, H or 1, W or 1]."""

    terms: list[Read] = field(default_factory=list)
    static: Tensor | None = None

    @property
    def reads(self) -> Sequence[Read]:
        """The terms."""
        return self.terms


@dataclass(eq=False)
class Pointwise(Value):
    """An elementwise function of values at the same position."""

    op: str = ""
    args: list[Read] = field(default_factory=list)
    params: tuple[Any, ...] = ()

    @property
    def reads(self) -> Sequence[Read]:
        """The arguments."""
        return self.args


@dataclass(eq=False)
class Attend(Value):
    """softmax(q k / sqrt(d)) v over all earlier positions in raster order, and its own unless it is strict.

    `key` and `value` are read at the newest of these positions: shifted by one column if it is strict.
    """

    query: Read = field(default_factory=lambda: Read(Value(0, 0, 0, ""), 0, 0))
    key: Read = field(default_factory=lambda: Read(Value(0, 0, 0, ""), 0, 0))
    value: Read = field(default_factory=lambda: Read(Value(0, 0, 0, ""), 0, 0))
    heads: int = 1
    strict: bool = False

    @property
    def reads(self) -> Sequence[Read]:
        """Query, key and value."""
        return (self.query, self.key, self.value)


@dataclass
class Graph:
    """A model in normal form: values in topological order, the image first, the parameters of the likelihood last."""

    values: list[Value]
    image: Input
    output: Read  # the parameters, [N, P, H, W], an aligned read
    n_images: int  # 1, or the batch that constants are bound to
