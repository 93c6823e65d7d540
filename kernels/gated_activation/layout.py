"""Tensors [N, C, *spatial] that lie densely in memory, channels first or channels last."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def dense(x: Tensor) -> tuple[Tensor, bool]:
    """(x, whether its channels come last), copied to channels first if it is neither. One pixel is channels last."""
    if x.is_contiguous():
        return x, math.prod(x.shape[2:]) == 1
    if x.movedim(1, -1).is_contiguous():
        return x, True
    return x.contiguous(), False


def as_layout(x: Tensor, last: bool) -> Tensor:
    """x with its channels last or first, copied only if it is not so."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x.contiguous()


def like(x: Tensor, channels: int, last: bool, spatial: Sequence[int] | None = None) -> Tensor:
    """An empty tensor with another number of channels, and perhaps other pixels."""
    n, spatial = x.shape[0], x.shape[2:] if spatial is None else spatial
    if last and math.prod(spatial) != 1:
        return x.new_empty((n, *spatial, channels)).movedim(-1, 1)
    return x.new_empty((n, channels, *spatial))


def empty_output(x: Tensor, channels: int) -> Tensor:
    """What the ops return for x: its dtype and layout."""
    last = not x.is_contiguous() and x.movedim(1, -1).is_contiguous()
    return like(x, channels, last)


def in_layout_of(value: Tensor, x: Tensor) -> Tensor:
    """value in the strides of `empty_output(x, ...)`, copied only if it is not so."""
    wanted = empty_output(x, value.shape[1])
    return value if value.stride() == wanted.stride() else wanted.copy_(value)
