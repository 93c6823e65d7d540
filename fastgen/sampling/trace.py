"""Record an ordinary `forward` as a graph of the few expressions that the engine understands.

The model runs once on a concrete image under a dispatch mode. A tensor that depends on the image carries an expression;
everything else (masks, weight norm, embeddings, positions, conditioning) is just a tensor. An operation on an
image-dependent tensor that has no rule is an error that names the operation and the module.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastgen._leaf import Function as LeafFunction
from fastgen._leaf import recording
from fastgen.kernels._common.dispatch import plain_operations

aten = torch.ops.aten


class TraceError(NotImplementedError):
    """The engine has no rule for what the model does; `method="naive"` samples it all the same."""

    flattened = False  # whether what has no rule is a view that leaves no rows and columns


@dataclass(eq=False)
class Expr:
    """An image-dependent tensor [N, channels, height, width], as written in the model."""

    channels: int
    height: int
    width: int
    path: str
    operands: tuple[Expr, ...] = ()


@dataclass(eq=False)
class Source(Expr):
    """The image."""


@dataclass(eq=False)
class Conv(Expr):
    """A convolution (or its transpose) of operands[0] with a dense weight in the layout of torch.convolution."""

    weight: Tensor = field(default_factory=lambda: torch.empty(0))
    bias: Tensor | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    transposed: bool = False
    output_padding: tuple[int, int] = (0, 0)


@dataclass(eq=False)
class Window(Expr):
    """out[a, b] = operands[0][a + offset_y, b + offset_x], zero outside: pads, crops and shifts."""

    offset: tuple[int, int] = (0, 0)


@dataclass(eq=False)
class Concat(Expr):
    """Parts side by side along the channels; a part may be a constant [N or 1, C, H or 1, W or 1]."""

    parts: tuple[Expr | Tensor, ...] = ()


@dataclass(eq=False)
class Channels(Expr):
    """Channels first : first + channels of operands[0]."""

    first: int = 0


@dataclass(eq=False)
class Sum(Expr):
    """Sum of scale * operand plus a constant."""

    scales: tuple[float, ...] = ()
    static: Tensor | None = None


@dataclass(eq=False)
class Scale(Expr):
    """operands[0] times a constant [N or 1, C or 1, 1, 1]."""

    factor: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(eq=False)
class Function(Expr):
    """An elementwise function of its operands."""

    op: str = ""
    params: tuple[float | str, ...] = ()


@dataclass(eq=False)
class LSTM(Expr):
    """`fastgen.nn.recurrent.lattice_lstm` of operands[0], the gates."""

    weight: Tensor = field(default_factory=lambda: torch.empty(0))
    taps: tuple[tuple[int, int], ...] = ()
    cell: tuple[int, int] = (0, 0)


@dataclass(eq=False)
class Attention(Expr):
    """`fastgen.nn.attention.causal_attention` of the operands: queries, keys and values."""

    heads: int = 1
    strict: bool = False


# Elementwise functions of one argument: how aten names them, which parameters they take, how to compute them.
UNARY: dict[str, Callable[..., Tensor]] = {
    "elu": lambda x, alpha=1.0, scale=1.0, input_scale=1.0: aten.elu(x, alpha, scale, input_scale),
    "exp": torch.exp,
    "gelu": lambda x, approximate="none": torch.nn.functional.gelu(x, approximate=approximate),
    "leaky_relu": lambda x, slope=0.01: torch.nn.functional.leaky_relu(x, slope),
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "silu": torch.nn.functional.silu,
    "softplus": lambda x, beta=1.0, threshold=20.0: torch.nn.functional.softplus(x, beta, threshold),
    "tanh": torch.tanh,
}
ZERO_PRESERVING = frozenset({"elu", "gelu", "leaky_relu", "relu", "silu", "tanh", "neg", "scale"})

_IDENTITY = {aten.detach, aten.alias, aten.clone, aten.contiguous, aten.lift_fresh}
_SHAPE_ONLY = {
    aten.ones_like, aten.zeros_like, aten.empty_like, aten.full_like, aten.rand_like, aten.randn_like,
    aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty, aten.sym_size, aten.size,
}  # fmt: skip
_LAYOUTS = {"NCHW", "NHWC", "NCW", "NWC", "MC"}  # MC: positions flattened, as a linear layer sees them


@dataclass
class Trace:
    """A recorded forward: the image, the expression of the result and the result itself."""

    image: Source
    output: Expr
    result: Tensor


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.tracked: dict[int, tuple[Tensor, Expr, str]] = {}  # id -> (kept alive, expression, layout)
        self.stack: list[str] = []
        self.inside_leaf = False

    # bookkeeping ------------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        return self.stack[-1] if self.stack else ""

    def get(self, tensor: Any) -> tuple[Expr, str] | None:
        if not isinstance(tensor, Tensor):
            return None
        entry = self.tracked.get(id(tensor))
        return (entry[1], entry[2]) if entry is not None and entry[0] is tensor else None

    def put(self, tensor: Tensor, expr: Expr, layout: str) -> Tensor:
        self.tracked[id(tensor)] = (tensor, expr, layout)
        return tensor

    def refuse(self, func: Any, why: str) -> TraceError:
        where = f"module {self.path!r}" if self.path else "the model"
        return TraceError(
            f"raster engine: {where} calls {func} on a value that depends on the image; {why}; "
            'rewrite it, or sample with method="naive"'
        )

    def expect(self, condition: bool, func: Any, why: str) -> None:
        if not condition:
            raise self.refuse(func, why)

    def dims(self, x: Expr) -> dict[str, Any]:
        return {"channels": x.channels, "height": x.height, "width": x.width, "path": self.path}

    def constant(self, value: Any, like: Tensor, layout: str) -> Tensor:
        """A constant that broadcasts against `like`, as [N or 1, C or 1, H or 1, W or 1]."""
        tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device).detach()
        tensor = tensor.reshape((1,) * (like.dim() - tensor.dim()) + tuple(tensor.shape))
        if layout == "MC":
            if tensor.shape[0] != 1:
                raise self.refuse("a constant per position", "it has no rule on flattened positions")
            return tensor.reshape(1, -1, 1, 1)
        tensor = tensor.permute([layout.index(axis) for axis in "NCHW" if axis in layout])
        return tensor.unsqueeze(2) if tensor.dim() == 3 else tensor

    # dispatch ---------------------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.inside_leaf:
            return func(*args, **kwargs)
        flat = [t for a in (*args, *kwargs.values()) for t in (a if isinstance(a, (list, tuple)) else (a,))]
        if not any(self.get(t) is not None for t in flat):
            return func(*args, **kwargs)
        op = func.overloadpacket
        name = op.__name__
        if name.endswith("_") and not name.endswith("__"):
            return self.in_place(func, op, args, kwargs)
        out = func(*args, **kwargs)
        if op in _SHAPE_ONLY:
            return out
        self.record(func, op, args, kwargs, out)
        return out

    def leaf(self, name: str, function: LeafFunction, tensors: tuple[Tensor, ...], options: dict[str, Any]) -> Tensor:
        """An operation that is recorded as one, whatever it is made of."""
        entries = [self.get(t) for t in tensors]
        self.inside_leaf = True
        try:
            out = function(*tensors, **options)
        finally:
            self.inside_leaf = False
        if not any(entries):
            return out
        operands = [entry[0] for entry in entries if entry is not None]
        maps = all(entry is None or entry[1] == "NCHW" for entry in entries)
        size = (out.shape[1], out.shape[2], out.shape[3], self.path)
        if name == "lstm" and len(operands) == 1 and entries[0] and maps:
            _, height, width = out.shape[1:]
            made: Expr = LSTM(out.shape[1], height, width, self.path, tuple(operands), tensors[1].detach(), **options)
        elif name == "attention" and len(operands) == 3 and maps:
            made = Attention(*size, tuple(operands), **options)
        else:
            raise self.refuse(name, "it has a rule for image-dependent maps [N, C, H, W] and constant weights only")
        return self.put(out, made, "NCHW")

    def in_place(self, func: Any, op: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """An in-place operation is the plain one, as long as nothing else sees the storage it overwrites."""
        target = args[0]
        storage = target.untyped_storage()._cdata
        shared = [t for t, _, _ in self.tracked.values() if t is not target and t.untyped_storage()._cdata == storage]
        self.expect(self.get(target) is not None, func, "it writes into a tensor that did not depend on the image")
        self.expect(not shared, func, "it overwrites a tensor that has live views")
        plain = getattr(aten, op.__name__[:-1], None)
        self.expect(plain is not None, func, "no rule for it")
        func(*args, **kwargs)
        self.record(func, plain, args, kwargs, target)
        return target

    def record(self, func: Any, op: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        first = self.get(args[0]) if args else None
        if op in _IDENTITY and first:
            self.put(out, *first)
        elif op is aten._to_copy and first:
            self.expect(out.dtype == args[0].dtype, func, "it changes the dtype")
            self.put(out, *first)
        elif op in (aten.view, aten.reshape, aten._unsafe_view, aten.unsqueeze, aten.squeeze) and first:
            self.put(out, first[0], self.view_layout(func, first[0], first[1], out))
        elif op in (aten.permute, aten.transpose, aten.t) and first:
            self.permute(func, op, args, first, out)
        elif op in (aten.slice, aten.narrow) and first:
            self.slice(func, op, args, kwargs, first, out)
        elif op in (aten.split, aten.split_with_sizes, aten.chunk) and first:
            axis = args[2] if len(args) > 2 else kwargs.get("dim", 0)
            self.expect(first[1][axis] == "C", func, "only channels can be split")
            start = 0
            for piece in out:
                size = piece.shape[axis]
                self.put(piece, self.channels(first[0], start, size), first[1])
                start += size
        elif op is aten.cat:
            self.concat(func, args, kwargs, out)
        elif op is aten.constant_pad_nd and first:
            self.pad(func, args, first, out)
        elif op is aten.convolution and first:
            self.convolution(func, args, first, out)
        elif op in (aten.addmm, aten.mm):
            self.linear(func, op, args, kwargs, out)
        elif op in (aten._native_batch_norm_legit_no_training, aten.native_batch_norm) and first:
            self.batch_norm(func, op, args, first, out)
        elif op in (aten.add, aten.sub, aten.rsub):
            self.add(func, op, args, kwargs, out)
        elif op is aten.neg and first:
            self.put(out, self.times(first[0], -1.0, args[0]), first[1])
        elif op in (aten.mul, aten.div):
            self.multiply(func, op, args, out)
        elif op is aten.glu and first:
            axis = args[1] if len(args) > 1 else kwargs.get("dim", -1)
            self.expect(first[1][axis] == "C", func, "only channels can be gated")
            half = first[0].channels // 2
            value, gate = self.channels(first[0], 0, half), self.channels(first[0], half, half)
            gate = Function(half, gate.height, gate.width, self.path, (gate,), "sigmoid")
            self.put(out, Function(half, gate.height, gate.width, self.path, (value, gate), "mul"), first[1])
        elif op is aten.native_layer_norm and first:
            self.layer_norm(func, args, first, out)
        elif op.__name__ in UNARY and first:
            params = (*args[1:], *kwargs.values())
            if op is aten.elu and all(p == 1 for p in params):
                params = ()
            expr = Function(**self.dims(first[0]), operands=(first[0],), op=op.__name__, params=params)
            self.put(out, expr, first[1])
        else:
            raise self.refuse(func, "no rule for it")

    # rules ------------------------------------------------------------------------------------------------------

    def view_layout(self, func: Any, x: Expr, layout: str, out: Tensor) -> str:
        shape = tuple(out.shape)
        planar = {"NCHW": (x.channels, x.height, x.width), "NCW": (x.channels, x.width)}
        channels_last = {"NHWC": (x.height, x.width, x.channels), "NWC": (x.width, x.channels)}
        family = planar if layout in planar else channels_last
        for name, dims in family.items():
            if shape[1:] == dims and (len(name) == 4 or x.height == 1):
                return name
        if family is channels_last and len(shape) == 2 and shape[1] == x.channels:
            return "MC"
        error = self.refuse(func, f"a view of [N, {x.channels}, {x.height}, {x.width}] as {list(shape)} has no rule")
        error.flattened = True
        raise error

    def permute(self, func: Any, op: Any, args: Sequence[Any], first: tuple[Expr, str], out: Tensor) -> None:
        order = list(range(args[0].dim()))
        if op is aten.permute:
            order = [d % len(order) for d in args[1]]
        else:
            a, b = (0, 1) if op is aten.t else (args[1] % len(order), args[2] % len(order))
            order[a], order[b] = order[b], order[a]
        layout = "".join(first[1][d] for d in order)
        self.expect(layout in _LAYOUTS, func, f"the order of axes {layout} has no rule")
        self.put(out, first[0], layout)

    def slice(
        self, func: Any, op: Any, args: Sequence[Any], kwargs: dict[str, Any], first: tuple[Expr, str], out: Tensor
    ) -> None:
        x, layout = first
        options = dict(zip(("self", "dim", "start", "end", "step"), args)) | kwargs
        dim = options.get("dim", 0) % args[0].dim()
        size = args[0].shape[dim]
        start = options.get("start") or 0
        start = min(max(start + size if start < 0 else start, 0), size)
        whole = out.shape == args[0].shape
        self.expect(whole or op is aten.narrow or options.get("step", 1) == 1, func, "a step has no rule")
        axis = layout[dim]
        if whole:
            self.put(out, x, layout)
        elif axis == "C":
            self.put(out, self.channels(x, start, out.shape[dim]), layout)
        elif axis in "HW":
            height, width = (out.shape[dim], x.width) if axis == "H" else (x.height, out.shape[dim])
            offset = (start, 0) if axis == "H" else (0, start)
            self.put(out, self.window(x, height, width, offset), layout)
        else:
            raise self.refuse(func, "images of a batch cannot be told apart")

    def channels(self, x: Expr, first: int, count: int) -> Expr:
        if count == x.channels:
            return x
        return Channels(count, x.height, x.width, self.path, (x,), first)

    def window(self, x: Expr, height: int, width: int, offset: tuple[int, int]) -> Expr:
        """Move and cut x; a window of a window is one window wherever the first hides nothing from the second."""
        while isinstance(x, Window):
            source, total = x.operands[0], (x.offset[0] + offset[0], x.offset[1] + offset[1])
            axes = zip((height, width), offset, (x.height, x.width), total, (source.height, source.width))
            if any(
                0 <= a + whole < limit and not 0 <= a + step < middle
                for size, step, middle, whole, limit in axes
                for a in range(size)
            ):
                break
            x, offset = source, total
        if offset == (0, 0) and (height, width) == (x.height, x.width):
            return x
        return Window(x.channels, height, width, self.path, (x,), offset)

    def concat(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> None:
        axis = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        layout = next(entry[1] for t in args[0] if (entry := self.get(t)))
        self.expect(layout[axis] == "C", func, "only channels can be concatenated")
        parts: list[Expr | Tensor] = []
        for tensor in args[0]:
            entry = self.get(tensor)
            self.expect(entry is None or entry[1] == layout, func, "its parts have different orders of axes")
            parts.append(entry[0] if entry else self.constant(tensor, tensor, layout))
        operands = tuple(p for p in parts if isinstance(p, Expr))
        x = operands[0]
        channels = out.shape[axis]
        self.put(out, Concat(channels, x.height, x.width, self.path, operands, tuple(parts)), layout)

    def pad(self, func: Any, args: Sequence[Any], first: tuple[Expr, str], out: Tensor) -> None:
        x, layout = first
        value = args[2] if len(args) > 2 else 0
        self.expect(value == 0, func, "only zeros can pad")
        before = dict.fromkeys("NCHW", 0)
        grown = dict(zip(layout, out.shape))
        for k in range(len(args[1]) // 2):
            before[layout[-1 - k]] = args[1][2 * k]
        self.expect(before["N"] == before["C"] == 0 and grown["C"] == x.channels, func, "only positions can be padded")
        offset = (-before["H"], -before["W"])
        self.put(out, self.window(x, grown.get("H", 1), grown["W"], offset), layout)

    def convolution(self, func: Any, args: Sequence[Any], first: tuple[Expr, str], out: Tensor) -> None:
        x, layout = first
        weight, bias, stride, padding, dilation, transposed, output_padding, groups = args[1:9]
        self.expect(self.get(weight) is None and self.get(bias) is None, func, "its weight depends on the image")
        self.expect(layout in ("NCHW", "NCW"), func, f"it reads the order of axes {layout}")
        weight, bias = weight.detach(), None if bias is None else bias.detach()
        if layout == "NCW":
            weight = weight.unsqueeze(2)
            stride, dilation = [1, *stride], [1, *dilation]
            padding, output_padding = [0, *padding], [0, *output_padding]
        if groups > 1:
            weight = _dense_weight(weight, groups)
        height = out.shape[2] if out.dim() == 4 else 1
        expr = Conv(
            out.shape[1], height, out.shape[-1], self.path, (x,), weight, bias, tuple(stride), tuple(padding),
            tuple(dilation), transposed, tuple(output_padding),
        )  # fmt: skip
        self.put(out, expr, layout)

    def linear(self, func: Any, op: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> None:
        bias, a, b = args if op is aten.addmm else (None, *args)
        entry = self.get(a)
        plain = not kwargs and entry is not None and entry[1] == "MC" and self.get(b) is None and self.get(bias) is None
        self.expect(plain and (bias is None or bias.dim() == 1), func, "a product has a rule over channels only")
        assert entry is not None  # for the type checker; `plain` has it
        x = entry[0]
        weight, bias = b.detach().t()[:, :, None, None], None if bias is None else bias.detach()
        self.put(out, Conv(weight.shape[0], x.height, x.width, self.path, (x,), weight, bias), "MC")

    def batch_norm(self, func: Any, op: Any, args: Sequence[Any], first: tuple[Expr, str], out: Any) -> None:
        if op is aten.native_batch_norm:
            weight, bias, mean, variance, training, _, eps = args[1:]
            self.expect(not training, func, "statistics of the batch mix images; use eval mode")
        else:
            weight, bias, mean, variance, _, eps = args[1:]
        factor = torch.rsqrt(variance + eps)
        factor = factor if weight is None else factor * weight
        shift = -mean * factor if bias is None else bias - mean * factor
        scaled = Scale(**self.dims(first[0]), operands=(first[0],), factor=factor.view(1, -1, 1, 1))
        expr = Sum(**self.dims(scaled), operands=(scaled,), scales=(1.0,), static=shift.view(1, -1, 1, 1))
        self.put(out[0], expr, first[1])

    def layer_norm(self, func: Any, args: Sequence[Any], first: tuple[Expr, str], out: Any) -> None:
        x, layout = first
        _, over, weight, bias, eps = args
        self.expect(layout[-1] == "C" and list(over) == [x.channels], func, "only channels can be normalised")
        expr: Expr = Function(**self.dims(x), operands=(x,), op="layer_norm", params=(float(eps),))
        if weight is not None:
            expr = Scale(**self.dims(x), operands=(expr,), factor=weight.detach().view(1, -1, 1, 1))
        if bias is not None:
            static = bias.detach().view(1, -1, 1, 1)
            expr = Sum(**self.dims(x), operands=(expr,), scales=(1.0,), static=static)
        self.put(out[0], expr, layout)

    def add(self, func: Any, op: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> None:
        alpha = kwargs.get("alpha", args[2] if len(args) > 2 else 1)
        left, right = 1.0, float(alpha) if op is aten.add else -float(alpha)
        if op is aten.rsub:
            left, right = -float(alpha), 1.0
        operands: list[Expr] = []
        scales: list[float] = []
        static: Tensor | None = None
        layout = next(entry[1] for t in args[:2] if (entry := self.get(t)))
        for tensor, scale in ((args[0], left), (args[1], right)):
            entry = self.get(tensor)
            if entry is None:
                static = scale * self.constant(tensor, out, layout)
            else:
                self.expect(
                    entry[1] == layout and tensor.shape == out.shape, func, "an image-dependent operand broadcasts"
                )
                operands.append(entry[0])
                scales.append(scale)
        expr = Sum(**self.dims(operands[0]), operands=tuple(operands), scales=tuple(scales), static=static)
        self.put(out, expr, layout)

    def multiply(self, func: Any, op: Any, args: Sequence[Any], out: Tensor) -> None:
        left, right = self.get(args[0]), self.get(args[1])
        if left and right:
            self.expect(op is aten.mul, func, "division by a value that depends on the image has no rule")
            same = left[1] == right[1] and args[0].shape == args[1].shape
            self.expect(same, func, "an image-dependent operand broadcasts")
            expr: Expr = Function(**self.dims(left[0]), operands=(left[0], right[0]), op="mul")
            self.put(out, expr, left[1])
            return
        entry, other = (left, args[1]) if left else (right, args[0])
        assert entry is not None
        tensor = args[0] if left else args[1]
        self.expect(
            left is not None or op is aten.mul, func, "division by a value that depends on the image has no rule"
        )
        self.expect(tensor.shape == out.shape, func, "an image-dependent operand broadcasts")
        if isinstance(other, Tensor):
            factor = self.constant(other, out, entry[1])
            self.expect(factor.shape[2:] == (1, 1), func, "a factor that varies over positions has no rule")
        else:
            factor = other
        self.put(out, self.times(entry[0], 1 / factor if op is aten.div else factor, out), entry[1])

    def times(self, x: Expr, factor: Any, like: Tensor) -> Expr:
        tensor = torch.as_tensor(factor, dtype=like.dtype, device=like.device)
        return Scale(
            **self.dims(x), operands=(x,), factor=tensor.reshape(tensor.shape if tensor.dim() == 4 else (1, 1, 1, 1))
        )


def _dense_weight(weight: Tensor, groups: int) -> Tensor:
    """The block-diagonal weight of a grouped convolution."""
    a, b = weight.shape[:2]
    dense = weight.new_zeros(a, b * groups, *weight.shape[2:])
    rows = a // groups
    for g in range(groups):
        dense[g * rows : (g + 1) * rows, g * b : (g + 1) * b] = weight[g * rows : (g + 1) * rows]
    return dense


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module into eval mode, and each back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def trace(model: nn.Module, image: Tensor, cond: Any = None) -> Trace:
    """Run `model(image)` or `model(image, cond)` once and record it.

    Shapes: image [N, C, H, W] or, for a 1-D raster, [N, C, W]; any values, in the model's dtype.
    Raises: TraceError for an operation without a rule; ValueError if the result does not depend on the image.
    """
    recorder = _Recorder()
    shape = image.shape if image.dim() == 4 else (*image.shape[:2], 1, image.shape[2])
    source = Source(shape[1], shape[2], shape[3], "")
    handles = []
    for name, module in model.named_modules():

        def enter(module: nn.Module, inputs: Any, name: str = name) -> None:
            recorder.stack.append(name)

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            recorder.stack.pop()

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        # inference mode hides from the recorder what composite operations are made of
        with (
            plain_operations(),
            recording(recorder.leaf),
            torch.inference_mode(False),
            torch.no_grad(),
            evaluating(model),
            recorder,
        ):
            image = image.clone()
            recorder.put(image, source, "NCHW" if image.dim() == 4 else "NCW")
            result = model(image) if cond is None else model(image, cond)
            entry = recorder.get(result)
    finally:
        for handle in handles:
            handle.remove()
    if entry is None:
        raise ValueError("raster engine: the model's output does not depend on the image; got a constant")
    expr, layout = entry
    if layout not in ("NCHW", "NCW"):
        raise ValueError(
            f"raster engine: the model must return parameters [N, P, H, W]; got the order of axes {layout}"
        )
    return Trace(source, expr, result)
