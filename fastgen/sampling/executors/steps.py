"""One elementary operation of a program on views that were made once, and how PyTorch carries it out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgen.sampling.trace import UNARY

Call = Callable[[], object]

FEW = 1000  # elements below which the number of calls costs more than the exponentials


class History:
    """The keys and values that attention has seen: [N, (Ck + Cv) (H W)], positions last.

    `clock` holds the row that is being computed.
    """

    def __init__(
        self, like: Tensor, n: int, height: int, width: int, keys: int, values: int, heads: int, strict: bool,
        clock: NDArray[np.int64],
    ) -> None:  # fmt: skip
        self.width, self.positions, self.key_channels = width, height * width, keys
        self.heads, self.strict, self.clock = heads, strict, clock
        self.memory = like.new_zeros(n, self.positions * (keys + values))
        self.keys = self.memory[:, : keys * self.positions].view(n, keys, self.positions)
        self.values = self.memory[:, keys * self.positions :].view(n, values, self.positions)

    def attend(
        self, out: Tensor, query: Tensor, key: Tensor, value: Tensor, column: int, key_lag: int, value_lag: int
    ) -> None:
        """out = softmax(q k / sqrt(d)) v; `key` and `value` are those of the position that lies their lag back."""
        position = int(self.clock[0]) * self.width + column
        if position >= key_lag:
            self.keys[:, :, position - key_lag] = key
        if position >= value_lag:
            self.values[:, :, position - value_lag] = value
        if position < self.strict:
            out.zero_()
            return
        n, count = len(query), position + 1 - self.strict
        keys = self.keys[:, :, :count].unflatten(1, (self.heads, -1))  # [N, heads, d, positions]
        values = self.values[:, :, :count].unflatten(1, (self.heads, -1))
        scores = torch.einsum("nhd,nhdp->nhp", query.view(n, self.heads, -1), keys)
        weights = torch.softmax(scores / math.sqrt(keys.shape[2]), 2)
        out.copy_(torch.einsum("nhp,nhdp->nhd", weights, values).reshape(n, -1))


@dataclass(frozen=True, eq=False)
class Step:
    """out = op(args): tensors of one shape, [N, C] or [N, W, C], or that broadcast to it, but for three operations.

    product      args (x, weight) or (base, x, weight): x @ weight, plus base
    add, mul     args (a, b)
    add_product  args (base, a, b): base + a b
    copy, zero   args (x), ()
    concat_elu   args (x): channels c0:c1 of elu([x, -x]) where params are (half, c0, c1); x has `half` channels, or
                 2 half with room for -x in the upper ones
    attend       args (query, key, value), params (history, column, lag of the key, lag of the value)
    layer_norm   args (x), params (eps): mean 0 and variance 1 over the channels of every position
    others       args (x), params as the functions of UNARY take them
    """

    op: str
    out: Tensor
    args: tuple[Tensor, ...] = ()
    params: tuple[Any, ...] = ()


def sum_steps(
    target: Tensor,
    total: Tensor | None,
    products: Sequence[tuple[Tensor, Tensor]],
    added: Sequence[Tensor] = (),
    factors: Sequence[tuple[Tensor, Tensor]] = (),
) -> list[Step]:
    """target = total + sum of x @ weight + sum of added + sum of a b; `total` may be the target itself, or nothing."""
    added = list(added)
    if total is None and added:
        total = added.pop()
    steps: list[Step] = []
    for x, weight in products:
        steps.append(Step("product", target, (x, weight) if total is None else (total, x, weight)))
        total = target
    for view in added:
        assert total is not None
        steps.append(Step("add", target, (total, view)))
        total = target
    for a, b in factors:
        steps.append(Step("mul", target, (a, b)) if total is None else Step("add_product", target, (total, a, b)))
        total = target
    if not steps and total is not target:
        steps.append(Step("zero", target) if total is None else Step("copy", target, (total,)))
    return steps


def bind(step: Step, temporary: Callable[..., Tensor]) -> list[Call]:
    """The PyTorch calls of a step; `temporary(role, *shape)` gives memory that lives for a few calls."""
    out, args = step.out, step.args
    if step.op == "concat_elu":
        return _concat_elu(temporary, out, args[0], *step.params)
    if step.op == "attend":
        history, *where = step.params
        return [partial(history.attend, out, *args, *where)]
    if step.op == "product":
        *base, x, weight = args
        if not base:
            return [partial(torch.mm, x, weight, out=out)]
        if base[0] is out:
            return [partial(out.addmm_, x, weight)]
        return [partial(torch.addmm, base[0], x, weight, out=out)]
    if step.op == "copy":
        return [partial(out.copy_, args[0])]
    if step.op == "zero":
        return [out.zero_]
    if step.op == "add":
        return [partial(out.add_, args[1]) if args[0] is out else partial(torch.add, *args, out=out)]
    if step.op == "mul":
        return [partial(torch.mul, *args, out=out)]
    if step.op == "add_product":
        total, a, b = args
        return [partial(out.addcmul_, a, b) if total is out else partial(torch.addcmul, total, a, b, out=out)]
    if step.op in _OUT:
        return [_OUT[step.op](args[0], out, *step.params)]
    if step.op == "layer_norm":
        channels = (args[0].shape[-1],)
        return [lambda: out.copy_(torch.nn.functional.layer_norm(args[0], channels, eps=step.params[0]))]
    return [lambda: out.copy_(UNARY[step.op](args[0], *step.params))]


def _concat_elu(
    temporary: Callable[..., Tensor], target: Tensor, both: Tensor, half: int, c0: int, c1: int
) -> list[Call]:
    x, has_room = both[..., :half], both.shape[-1] > half
    minus = both[..., half:] if has_room else temporary("minus", *x.shape)
    calls: list[Call] = [partial(torch.neg, x, out=minus)]
    if (c0, c1) != (0, 2 * half):  # a channel group
        for source, start in ((x, 0), (minus, half)):
            lo, hi = max(c0, start), min(c1, start + half)
            if lo < hi:
                calls.append(_OUT["elu"](source[..., lo - start : hi - start], target[..., lo - c0 : hi - c0]))
        return calls
    if (x.numel() < FEW or x.is_cuda) and has_room:
        return [*calls, _OUT["elu"](both, target)]
    if x.is_cuda:  # where calls cost more than exponentials
        return [*calls, _OUT["elu"](x, target[..., :half]), _OUT["elu"](minus, target[..., half:])]
    # elu(x) = max(x, e) and elu(-x) = max(-x, e) with e = expm1(-|x|): one exponential for both
    e = temporary("exponential", *x.shape)
    calls += [partial(torch.minimum, x, minus, out=e), e.expm1_]
    if has_room:
        pair = (both.unflatten(-1, (2, half)), target.unflatten(-1, (2, half)))
        return [*calls, partial(torch.maximum, pair[0], e.unsqueeze(-2), out=pair[1])]
    return [
        *calls,
        partial(torch.maximum, x, e, out=target[..., :half]),
        partial(torch.maximum, minus, e, out=target[..., half:]),
    ]


_nn: Any = torch._C._nn
_OUT: dict[str, Callable[..., Call]] = {
    "elu": lambda x, out, alpha=1.0, scale=1.0, input_scale=1.0: partial(
        _nn.elu, x, alpha, scale, input_scale, out=out
    ),
    "exp": lambda x, out: partial(torch.exp, x, out=out),
    "neg": lambda x, out: partial(torch.neg, x, out=out),
    "relu": lambda x, out: partial(torch.clamp_min, x, 0, out=out),
    "sigmoid": lambda x, out: partial(torch.sigmoid, x, out=out),
    "silu": lambda x, out: partial(_nn.silu, x, out=out),
    "tanh": lambda x, out: partial(torch.tanh, x, out=out),
}
