"""Bring a recorded forward into the normal form: decide what is a value, fold the rest into index maps and weights.

A linear expression (convolution, sum, scale, shift of one) that a single reader consumes is merged into that reader;
one with several readers becomes a value, computed once and read shifted. Constants, biases and zero borders end up in
the static part of an affine value.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fastgen.sampling import trace as tr
from fastgen.sampling.ir import (
    NEVER,
    Affine,
    Attend,
    Graph,
    Input,
    Loop,
    Pair,
    Pointwise,
    Read,
    Value,
    decode,
    encode,
    no_later_than,
)


@dataclass
class Constant:
    """A piece of a view that does not depend on the image: [N or 1, channels, H, W]."""

    value: Tensor

    @property
    def channels(self) -> int:
        return self.value.shape[1]

    def slice(self, lo: int, hi: int) -> Constant:
        return Constant(self.value[:, lo:hi])


WHOLE = frozenset({"layer_norm"})  # functions of all channels of a position together

Piece = Read | Constant
View = list[Piece]  # pieces side by side along the channels
Linear = tuple[list[Read], "Tensor | None"]


def normalize(trace: tr.Trace, n_images: int = 1) -> Graph:
    """The normal form of a trace.

    Raises: TraceError where values of different strides meet, or a crop hides values that a later pad shows as zeros.
    """
    builder = _Builder(trace)
    for x in _in_order(trace.output):  # so that views are made one on another, whatever the depth of the network
        if isinstance(x, (tr.Function, tr.LSTM, tr.Attention)):
            builder.view(x)
        elif isinstance(x, tr.Conv):
            builder.view(x.operands[0])
    output = builder.single(trace.output)
    return Graph(builder.live(output), builder.image, output, n_images)


class _Builder:
    def __init__(self, trace: tr.Trace) -> None:
        x = trace.image
        known = np.array([[[encode(0, 0, g) for g in range(x.channels)]]], dtype=np.int64)
        self.image = Input(x.channels, x.height, x.width, "", (1, 1), known)
        self.values: list[Value] = [self.image]
        self.views: dict[int, View] = {id(x): [Read(self.image, 0, x.channels)]}
        self.shared: dict[tuple[object, ...], Pointwise] = {}  # equal pointwise values are one
        self.uses = _count_uses(trace.output)
        self.like = trace.result

    # structure of expressions -----------------------------------------------------------------------------------

    def linear_inside(self, x: tr.Expr) -> bool:
        """Whether x is a linear expression that its only reader may absorb."""
        return self.uses[id(x)] == 1 and self.is_linear(x)

    def is_linear(self, x: tr.Expr) -> bool:
        if isinstance(x, (tr.Conv, tr.Sum)):
            return True
        if isinstance(x, tr.Scale):
            return x.factor.shape[0] == 1 and self.linear_inside(x.operands[0])
        if not isinstance(x, tr.Window) or not self.linear_inside(x.operands[0]):
            return False
        inner = x.operands[0]  # a pad makes a value larger for nothing: its zeros are free where it is read
        return x.height <= inner.height and x.width <= inner.width

    # views ------------------------------------------------------------------------------------------------------

    def view(self, x: tr.Expr) -> View:
        """See x as pieces of values and constants, making the values that it needs."""
        if id(x) not in self.views:
            self.views[id(x)] = self.make_view(x)
        return self.views[id(x)]

    def make_view(self, x: tr.Expr) -> View:
        if self.is_linear(x):
            return self.affine(x)
        if isinstance(x, tr.Channels):
            return _slice(self.view(x.operands[0]), x.first, x.first + x.channels)
        if isinstance(x, tr.Concat):
            return [
                piece
                for part in x.parts
                for piece in (
                    self.view(part) if isinstance(part, tr.Expr) else [Constant(part.expand(-1, -1, x.height, x.width))]
                )
            ]
        if isinstance(x, tr.Window):
            return [self.window(piece, x.operands[0], x) for piece in self.view(x.operands[0])]
        if isinstance(x, tr.Scale):
            return self.scaled(self.view(x.operands[0]), x)
        if isinstance(x, tr.Function) and x.op == "mul":
            return self.product(self.view(x.operands[0]), self.view(x.operands[1]), x)
        if isinstance(x, tr.Function) and x.op in WHOLE:
            return [self.pointwise(x.op, [self.single(x.operands[0])], x.channels, x, x.params)]
        if isinstance(x, tr.Function):
            return self.unary(self.view(x.operands[0]), x)
        if isinstance(x, tr.LSTM):
            return self.lstm(x)
        if isinstance(x, tr.Attention):
            return self.attention(x)
        raise TypeError(f"normalize: an expression of kind {type(x).__name__} has no rule; this is a bug in fastgen")

    def single(self, x: tr.Expr) -> Read:
        """See x as one aligned read of one value."""
        view = self.view(x)
        if len(view) == 1 and isinstance(view[0], Read) and view[0].aligned and _covers(view[0], x):
            return view[0]
        made = self.emit(x, *self.identity(view, x))
        if not isinstance(made[0], Read):
            raise ValueError("raster engine: the model's output does not depend on the image; got a constant")
        return made[0]

    def window(self, piece: Piece, x: tr.Expr, out: tr.Window) -> Piece:
        """out[a, b] = piece[(a, b) + offset], zero outside the piece."""
        ry, rx = out.offset
        if isinstance(piece, Constant):
            moved = piece.value.new_zeros(piece.value.shape[0], piece.channels, out.height, out.width)
            _blit(moved, piece.value, out.offset)
            return Constant(moved)
        moved_read = replace(piece, shift=(piece.shift[0] + ry, piece.shift[1] + rx))
        if _shows_outside(moved_read, _moved_box(x, out), out):  # hold what was cropped; its border is zero
            moved_read = replace(self.own(piece, x), shift=out.offset)
        return moved_read

    # elementwise functions --------------------------------------------------------------------------------------

    def unary(self, view: View, x: tr.Function) -> View:
        # elu of x and of -x side by side is one function, concat_elu, that needs one exponential for both
        sources = [_negated(piece) for piece in view]
        keys = {_key(piece) for piece in view if isinstance(piece, Read)}
        negated = {_key(source) for source in sources if source is not None}
        out: View = []
        for piece, source in zip(view, sources):
            if isinstance(piece, Constant):
                out.append(Constant(tr.UNARY[x.op](piece.value, *x.params)))
            elif x.op == "elu" and not x.params and source is not None and _key(source) in keys:
                both = self.pointwise("concat_elu", [source], 2 * source.channels, x)
                out.append(both.slice(source.channels, 2 * source.channels))
            elif x.op == "elu" and not x.params and _key(piece) in negated:
                out.append(self.pointwise("concat_elu", [piece], 2 * piece.channels, x).slice(0, piece.channels))
            else:
                out.append(self.elementwise(x.op, piece, x, x.params))
        return out

    def elementwise(self, op: str, piece: Read, x: tr.Expr, params: tuple[object, ...] = ()) -> Read:
        """Apply op to a piece that may be shifted: computed where the value lives and read shifted, if op(0) = 0."""
        if not piece.aligned and op not in tr.ZERO_PRESERVING:
            piece = self.own(piece, x)
        whole = Read(piece.base, piece.c0, piece.c1)
        done = self.pointwise(op, [whole], piece.channels, x, params)
        return replace(piece, base=done.base, c0=done.c0, c1=done.c1)

    def scaled(self, view: View, x: tr.Scale) -> View:
        out: View = []
        first = 0
        for piece in view:
            factor = x.factor if x.factor.shape[1] == 1 else x.factor[:, first : first + piece.channels]
            first += piece.channels
            if isinstance(piece, Constant):
                out.append(Constant(piece.value * factor))
            elif factor.numel() == 1 and float(factor) == -1.0:
                out.append(self.elementwise("neg", piece, x))
            else:
                out.append(self.elementwise("scale", piece, x, (Factor(factor),)))
        return out

    def product(self, left: View, right: View, x: tr.Expr) -> View:
        out: View = []
        for a, b in _same_cuts(left, right):
            if isinstance(a, Constant) and isinstance(b, Constant):
                out.append(Constant(a.value * b.value))
            elif isinstance(a, Constant) or isinstance(b, Constant):
                constant, piece = (a, b) if isinstance(a, Constant) else (b, a)
                assert isinstance(constant, Constant) and isinstance(piece, Read)
                factor = constant.value[:, :, :1, :1]
                if not torch.equal(factor.expand_as(constant.value), constant.value):
                    raise tr.TraceError(
                        f"raster engine: module {x.path!r} multiplies by a constant that varies over positions"
                    )
                out.append(self.elementwise("scale", piece, x, (Factor(factor),)))
            else:
                assert isinstance(a, Read) and isinstance(b, Read)
                args = [piece if piece.aligned else self.own(piece, x) for piece in (a, b)]
                out.append(self.pointwise("mul", args, a.channels, x))
        return out

    def pointwise(self, op: str, args: list[Read], channels: int, x: tr.Expr, params: tuple[object, ...] = ()) -> Read:
        key = (op, params, *(_key(arg) for arg in args))
        if key not in self.shared:
            base = args[0].base
            value = Pointwise(channels, base.height, base.width, x.path, op=op, args=args, params=params)
            self.shared[key] = value
            self.add(value)
        return Read(self.shared[key], 0, channels)

    # recurrence and attention -----------------------------------------------------------------------------------

    def lstm(self, x: tr.LSTM) -> View:
        """The nine values of an LSTM; see `fastgen.nn.recurrent.lattice_lstm` for the formula."""
        inner, f = x.operands[0], x.channels
        terms, static = self.linear(inner) if self.linear_inside(inner) else self.identity(self.view(inner), inner)
        if x.cell[0] == 0 and len(terms) > 1:  # in case it runs along a row: what is one wide product comes first
            terms, static = self.identity(self.emit(inner, terms, static), inner)
        size = (x.height, x.width, x.path)
        c = Affine(f, *size)
        h = Pointwise(f, *size, op="mul")
        states = [Read(h, 0, f, shift=tap, weight=weight.t().contiguous()) for tap, weight in zip(x.taps, x.weight)]
        gates = Affine(4 * f, *size, terms=terms + states, static=_compact(static))
        sigmoids = Pointwise(3 * f, *size, op="sigmoid", args=[Read(gates, 0, 3 * f)])
        candidate = Pointwise(f, *size, op="tanh", args=[Read(gates, 3 * f, 4 * f)])
        before = Affine(f, *size, terms=[Read(c, 0, f, shift=x.cell)])
        kept = Pointwise(f, *size, op="mul", args=[Read(sigmoids, f, 2 * f), Read(before, 0, f)])
        new = Pointwise(f, *size, op="mul", args=[Read(sigmoids, 0, f), Read(candidate, 0, f)])
        c.terms = [Read(new, 0, f), Read(kept, 0, f)]
        squashed = Pointwise(f, *size, op="tanh", args=[Read(c, 0, f)])
        h.args = [Read(sigmoids, 2 * f, 3 * f), Read(squashed, 0, f)]
        self.add_loop([gates, sigmoids, candidate, before, kept, new, c, squashed, h])
        return [Read(h, 0, f)]

    def attention(self, x: tr.Attention) -> View:
        query, key, value = (self.single(operand) for operand in x.operands)
        if any(r.base.stride != (1, 1) for r in (query, key, value)):
            raise tr.TraceError(f"raster engine: module {x.path!r} attends at a lower resolution; it has no rule")
        seen = decode(max(key.base.latest, value.base.latest))
        if seen is not None and seen[:2] > (0, 0):
            raise tr.TraceError(
                f"raster engine: module {x.path!r} attends to keys that see later pixels, (row {seen[0]:+d}, column "
                f"{seen[1]:+d}); mask or shift their input"
            )
        shift = (0, -1) if x.strict else (0, 0)
        made = Attend(
            x.channels, x.height, x.width, x.path, query=query, key=replace(key, shift=shift),
            value=replace(value, shift=shift), heads=x.heads, strict=x.strict,
        )  # fmt: skip
        self.add(made)
        return [Read(made, 0, x.channels)]

    # affine values ----------------------------------------------------------------------------------------------

    def affine(self, x: tr.Expr) -> View:
        return self.emit(x, *self.linear(x))

    def emit(self, x: tr.Expr, terms: list[Read], static: Tensor | None) -> View:
        if not terms:
            static = static if static is not None else self.like.new_zeros(1, x.channels, 1, 1)
            return [Constant(static.expand(-1, x.channels, x.height, x.width))]
        value = Affine(x.channels, x.height, x.width, x.path, terms=terms, static=_compact(static))
        self.add(value)
        return [Read(value, 0, x.channels)]

    def own(self, piece: Read, x: tr.Expr) -> Read:
        """A value that holds a shifted or cropped piece at its own place."""
        value = Affine(piece.channels, x.height, x.width, x.path, terms=[piece])
        self.add(value)
        return Read(value, 0, piece.channels)

    def linear(self, x: tr.Expr) -> Linear:
        """Split x into terms and a static part."""
        if isinstance(x, tr.Conv):
            return self.convolution(x)
        if isinstance(x, tr.Window):
            inner = x.operands[0]
            terms, static = self.linear(inner)
            moved, moved_static = self.shifted(terms, static, inner, x)
            if not any(_shows_outside(term, _moved_box(inner, x), x) for term in moved):
                return moved, moved_static
            # a border of zeros where the terms would see something: hold the unshifted value, read it shifted
            return self.identity([self.window(piece, inner, x) for piece in self.emit(inner, terms, static)], x)
        if isinstance(x, tr.Scale):
            terms, static = self.linear(x.operands[0])
            factor = x.factor.expand(1, x.channels, 1, 1).reshape(-1)
            weights = [torch.diag(factor) if t.weight is None else t.weight * factor for t in terms]
            return [replace(t, weight=w) for t, w in zip(terms, weights)], None if static is None else static * x.factor
        assert isinstance(x, tr.Sum)
        terms, static = [], x.static
        for operand, scale in zip(x.operands, x.scales):
            if scale != 1.0:
                factor = self.like.new_full((1, 1, 1, 1), scale)
                operand = tr.Scale(operand.channels, operand.height, operand.width, x.path, (operand,), factor)
                self.uses[id(operand)] = 1
            more, constant = (
                self.linear(operand) if self.linear_inside(operand) else self.identity(self.view(operand), operand)
            )
            terms = terms + more
            static = constant if static is None else static if constant is None else static + constant
        return terms, static

    def identity(self, view: View, x: tr.Expr) -> Linear:
        """A view as a linear expression."""
        terms: list[Read] = []
        static: Tensor | None = None
        first = 0
        for piece in view:
            stop = first + piece.channels
            if isinstance(piece, Constant):
                if static is None:
                    static = piece.value.new_zeros(1, x.channels, x.height, x.width)
                static = static.expand(piece.value.shape[0], -1, -1, -1).clone()
                static[:, first:stop] = piece.value
            elif len(view) == 1:
                terms.append(piece)
            else:  # a part of the channels: an embedding of it
                weight = self.like.new_zeros(piece.channels, x.channels)
                weight[:, first:stop] = torch.eye(piece.channels, dtype=weight.dtype, device=weight.device)
                terms.append(replace(piece, weight=weight))
            first = stop
        return terms, static

    def shifted(self, terms: list[Read], static: Tensor | None, x: tr.Expr, out: tr.Window) -> Linear:
        ry, rx = out.offset
        moved = [
            replace(term, shift=(term.shift[0] + term.num[0] * ry, term.shift[1] + term.num[1] * rx)) for term in terms
        ]
        if static is not None:
            source = static.expand(-1, -1, x.height, x.width)
            static = source.new_zeros(source.shape[0], x.channels, out.height, out.width)
            _blit(static, source, out.offset)
        return moved, static

    def convolution(self, x: tr.Conv) -> Linear:
        source = x.operands[0]
        weight = x.weight.transpose(0, 1) if x.transposed else x.weight  # [Co, Ci, kh, kw]
        terms: list[Read] = []
        first = 0
        view = self.view(source)
        for piece in view:
            stop = first + piece.channels
            if isinstance(piece, Read):
                taps = self.taps(piece, source, x, weight[:, first:stop])
                if taps is None:  # the window reaches over the edge of a crop: hold what was cropped
                    taps = self.taps(self.own(piece, source), source, x, weight[:, first:stop])
                terms += taps or []
            first = stop
        static = None if x.bias is None else x.bias.view(1, -1, 1, 1)
        if any(isinstance(piece, Constant) for piece in view):
            images = max(piece.value.shape[0] for piece in view if isinstance(piece, Constant))
            parts = [
                piece.value.expand(images, -1, -1, -1)
                if isinstance(piece, Constant)
                else x.weight.new_zeros(images, piece.channels, source.height, source.width)
                for piece in view
            ]
            static = torch.convolution(
                torch.cat(parts, 1),
                x.weight,
                x.bias,
                x.stride,
                x.padding,
                x.dilation,
                x.transposed,
                x.output_padding,
                1,
            )
        return terms, static

    def taps(self, piece: Read, source: tr.Expr, x: tr.Conv, weight: Tensor) -> list[Read] | None:
        """One term for every tap of the window that is not zero; None if they see more than the source shows."""
        out = []
        for k in (weight != 0).flatten(0, 1).any(0).nonzero().tolist():
            # plain: out[a] takes in[stride a + start]; transposed: in[(a - start) / stride] where that is whole
            start = [k[axis] * x.dilation[axis] - x.padding[axis] for axis in (0, 1)]
            sizes = (source.height, source.width)
            if x.transposed:
                num, den = (1, 1), x.stride
                shift = [s * t - c for s, t, c in zip(x.stride, piece.shift, start)]
                box = [edge for s, c, size in zip(x.stride, start, sizes) for edge in (c, s * (size - 1) + c + 1)]
            else:
                num, den = x.stride, (1, 1)
                shift = [c + t for c, t in zip(start, piece.shift)]
                box = [-((c - edge) // s) for s, c, size in zip(x.stride, start, sizes) for edge in (0, size)]
            tap = weight[:, :, k[0], k[1]].t().contiguous()
            read = replace(piece, shift=(shift[0], shift[1]), num=num, den=den, weight=tap)
            if _shows_outside(read, box, x):
                return None
            out.append(read)
        return out

    # values -----------------------------------------------------------------------------------------------------

    def add(self, value: Value) -> None:
        """Give a value its stride and its readiness, and put it into the graph."""
        strides = {tuple(r.base.stride[k] * r.num[k] // r.den[k] for k in (0, 1)) for r in value.reads}
        if len(strides) != 1:
            raise tr.TraceError(
                f"raster engine: in module {value.path!r} values of different strides {sorted(strides)} meet"
            )
        value.stride = strides.pop()  # type: ignore[assignment]
        value.known = known(value)
        self.values.append(value)

    def add_loop(self, members: list[Value]) -> None:
        """Give values that read each other their readiness, the least one that satisfies them all."""
        loop = Loop(members)
        outer = {r.base.stride for m in members for r in m.reads if r.base not in members}
        if len(outer) > 1:
            raise tr.TraceError(
                f"raster engine: in module {members[0].path!r} values of different strides {sorted(outer)} meet"
            )
        for member in members:
            member.loop = loop
            member.stride = next(iter(outer), (1, 1))
            member.known = np.full((1, 1, member.channels), NEVER, dtype=np.int64)
        changed = True
        while changed:
            changed = False
            for member in members:
                table = no_later_than(known(member), self.image.width)
                changed |= table.shape != member.known.shape or bool((table != member.known).any())
                member.known = table
        self.values += members

    def live(self, output: Read) -> list[Value]:
        """The values that the output needs, in topological order, the image among them."""
        needed, todo = {id(self.image)}, [output.base]
        while todo:
            value = todo.pop()
            if id(value) not in needed:
                needed.add(id(value))
                todo += [read.base for read in value.reads]
        return [value for value in self.values if id(value) in needed]


def known(value: Value) -> np.ndarray:
    """Readiness by max-plus rules: the largest raw offset that each channel may see, per phase of its lattice."""
    if isinstance(value, Attend):
        query, key, val = value.reads
        past = max(int(r.base.known[..., r.c0 : r.c1].max()) for r in (key, val)) + encode(*key.raw_shift())
        # never before its pixel, even where all keys are older: the history grows by a pixel at a time
        past = max(past, encode(0, -1))
        seen = query.base.known[..., query.c0 : query.c1].max(2, keepdims=True)
        return np.repeat(np.maximum(seen, past), value.channels, 2)
    reads = value.reads
    period = [math.lcm(*(r.den[k] * r.base.known.shape[k] for r in reads)) for k in (0, 1)]
    table = np.full((*period, value.channels), NEVER, dtype=np.int64)
    masks = [None if r.weight is None else (r.weight != 0).cpu().numpy() for r in reads]
    for py in range(period[0]):
        for px in range(period[1]):
            for index, r in enumerate(reads):
                at = [num * p + shift for num, p, shift in zip(r.num, (py, px), r.shift)]
                if at[0] % r.den[0] or at[1] % r.den[1]:
                    continue
                seen = r.base.known[
                    at[0] // r.den[0] % r.base.known.shape[0], at[1] // r.den[1] % r.base.known.shape[1], r.c0 : r.c1
                ]
                seen = np.where(seen < NEVER // 2, NEVER, seen + encode(*r.raw_shift()))
                mask = masks[index]
                if mask is not None:
                    if (seen == seen[0]).all():
                        seen = np.where(mask.any(0), seen[0], NEVER)
                    else:
                        seen = np.where(mask, seen[:, None], NEVER).max(0)
                elif isinstance(value, Pointwise) and value.op in WHOLE:
                    seen = np.full(value.channels, seen.max())
                elif len(seen) != value.channels:  # concat_elu
                    seen = np.tile(seen, value.channels // len(seen))
                np.maximum(table[py, px], seen, out=table[py, px])
    for axis in (0, 1):
        table = _shortest_period(table, axis)
    return table


def _shortest_period(table: np.ndarray, axis: int) -> np.ndarray:
    size = table.shape[axis]
    for p in range(1, size):
        if size % p == 0 and (np.roll(table, p, axis) == table).all():
            return table.take(range(p), axis)
    return table


def _in_order(output: tr.Expr) -> list[tr.Expr]:
    """Every expression after its operands."""
    done: dict[int, tr.Expr] = {}
    todo = [output]
    while todo:
        waiting = [operand for operand in todo[-1].operands if id(operand) not in done]
        if waiting:
            todo += waiting
        else:
            x = todo.pop()
            done[id(x)] = x
    return list(done.values())


def _count_uses(output: tr.Expr) -> Counter[int]:
    uses: Counter[int] = Counter({id(output): 1})
    seen: set[int] = set()
    todo = [output]
    while todo:
        x = todo.pop()
        if id(x) not in seen:
            seen.add(id(x))
            uses.update(id(operand) for operand in x.operands)
            todo += x.operands
    return uses


def _moved_box(x: tr.Expr, out: tr.Window) -> list[int]:
    """The rows lo, hi and columns lo, hi of a window of x that x itself fills."""
    return [edge - r for r, size in zip(out.offset, (x.height, x.width)) for edge in (0, size)]


def _shows_outside(read: Read, box: list[int], x: tr.Expr) -> bool:
    """Whether at a place of x outside `box` (rows lo, hi, columns lo, hi) the read sees what should be zero."""
    for axis, (size, extent) in enumerate(((x.height, read.base.height), (x.width, read.base.width))):
        lo, hi = (min(max(edge, 0), size) for edge in box[2 * axis : 2 * axis + 2])
        for a in (*range(lo), *range(hi, size)):
            at = read.num[axis] * a + read.shift[axis]
            if at % read.den[axis] == 0 and 0 <= at // read.den[axis] < extent:
                return True
    return False


def _covers(read: Read, x: tr.Expr) -> bool:
    return (read.base.height, read.base.width) == (x.height, x.width)


def _blit(target: Tensor, source: Tensor, offset: Pair) -> None:
    """target[a, b] = source[(a, b) + offset] where that exists."""
    height, width = target.shape[2:]
    y0, y1 = max(0, -offset[0]), min(height, source.shape[2] - offset[0])
    x0, x1 = max(0, -offset[1]), min(width, source.shape[3] - offset[1])
    if y0 < y1 and x0 < x1:
        target[:, :, y0:y1, x0:x1] = source[:, :, y0 + offset[0] : y1 + offset[0], x0 + offset[1] : x1 + offset[1]]


def _slice(view: View, lo: int, hi: int) -> View:
    out: View = []
    first = 0
    for piece in view:
        a, b = max(lo, first), min(hi, first + piece.channels)
        if a < b:
            out.append(piece.slice(a - first, b - first))
        first += piece.channels
    return out


def _same_cuts(left: View, right: View) -> list[tuple[Piece, Piece]]:
    """Two views cut into pieces of equal channels."""

    def ends(view: View) -> list[int]:
        return list(np.cumsum([piece.channels for piece in view]))

    cuts = sorted({0, *ends(left), *ends(right)})
    return [(_slice(left, a, b)[0], _slice(right, a, b)[0]) for a, b in pairwise(cuts)]


def _compact(static: Tensor | None) -> Tensor | None:
    """A static part without the axes that it is constant over."""
    if static is None:
        return None
    for axis in (0, 2, 3):
        first = static.narrow(axis, 0, 1)
        if static.shape[axis] > 1 and torch.equal(first.expand_as(static), static):
            static = first
    return static


def _key(read: Read) -> tuple[object, ...]:
    return (id(read.base), read.c0, read.c1, read.shift)


def _negated(piece: Piece) -> Read | None:
    """x, if the piece is all of -x."""
    if not isinstance(piece, Read) or not isinstance(piece.base, Pointwise) or piece.base.op != "neg":
        return None
    source = piece.base.args[0]
    if (piece.c0, piece.c1) != (0, piece.base.channels):
        return None
    return replace(source, shift=piece.shift)


class Factor:
    """A constant factor [N or 1, C or 1, 1, 1] as a parameter of a pointwise value, equal only to itself."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
