"""Record a forward over flattened images, element by element.

The model runs once on a concrete batch under a dispatch mode. Every element of a tensor that depends on the image has
an identity, a whole number; operations that only move elements (views, slices, concatenations, permutations) are
carried out on the identities themselves, so that no rule is needed for them; operations that compute become nodes.
An element that does not depend on the image is a constant. An operation without a rule is an error that names the
operation and the module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastgen.kernels._common.dispatch import plain_operations
from fastgen.sampling.trace import UNARY, TraceError, evaluating

aten = torch.ops.aten

IMAGE_STRIDE = 1 << 40  # identity = image * IMAGE_STRIDE + element; negative for constants


@dataclass(eq=False)
class Node:
    """`count` elements, of identities first, first + 1, ..."""

    first: int
    count: int
    path: str


@dataclass(eq=False)
class Image(Node):
    """The image: element (row * W + column) * C + channel, in the order that they are drawn in."""


@dataclass(eq=False)
class Constant(Node):
    """Elements that are known in advance: value [N or 1, count]."""

    value: Tensor


@dataclass(eq=False)
class Product(Node):
    """out[m, j] = sum over k of inputs[m, k] weight[k, j] + static[m J + j]; an input of -1 counts as zero.

    Shapes: inputs int64 [M, K], weight [K, J], static [N or 1, M J] or None.
    """

    inputs: Tensor
    weight: Tensor
    static: Tensor | None


@dataclass(eq=False)
class Dot(Node):
    """out[o] = sum over k of inputs[o, k] weight[o, k] + static[o]; an input of -1 counts as zero.

    Shapes: inputs int64 [O, K], weight [O, K], static [N or 1, O] or None.
    """

    inputs: Tensor
    weight: Tensor
    static: Tensor | None


@dataclass(eq=False)
class Function(Node):
    """out = op(args): an elementwise function of one argument, "add" or "mul" of two, or of one and a constant.

    Shapes: args int64 [count] each; constant [N or 1, count] or None.
    """

    op: str
    args: tuple[Tensor, ...]
    params: tuple[Any, ...] = ()
    constant: Tensor | None = None


@dataclass(eq=False)
class RunningSum(Node):
    """out[l, b] = out[l - 1, b] + inputs[l, b]. Shapes: inputs int64 [L, B]; element l B + b."""

    inputs: Tensor


@dataclass
class Recording:
    """A recorded forward: nodes in the order they were computed, the image first; output [P, H, W] identities."""

    nodes: list[Node]
    output: Tensor
    shape: tuple[int, int, int]
    count: int  # identities in use
    n_images: int  # 1, or the batch that constants are bound to


_IDENTITY = {aten.detach, aten.alias, aten.clone, aten.contiguous, aten.lift_fresh}
_MOVES = {
    aten.view, aten.reshape, aten._unsafe_view, aten.unsqueeze, aten.squeeze, aten.permute, aten.transpose, aten.t,
    aten.slice, aten.narrow, aten.select, aten.split, aten.split_with_sizes, aten.chunk, aten.unbind, aten.expand,
    aten.flip, aten.roll, aten.index_select, aten.index, aten.unfold, aten.diagonal, aten.repeat,
}  # fmt: skip
_SHAPE_ONLY = {
    aten.ones_like, aten.zeros_like, aten.empty_like, aten.full_like, aten.new_zeros, aten.new_ones, aten.new_full,
    aten.new_empty, aten.sym_size, aten.size,
}  # fmt: skip


def record(model: nn.Module, image: Tensor, cond: Any = None) -> Recording:
    """Run `model(image)` or `model(image, cond)` once and record what becomes of every element.

    Shapes: image [N, C, H, W] in the model's dtype, any values. Without `cond` two images stand for any number.
    Raises: TraceError for an operation without a rule, or one that mixes the images of a batch.
    """
    if cond is None:
        image = image[:1].expand(2, -1, -1, -1)
    recorder = _Recorder(image, cond is not None)
    handles = []
    for name, module in model.named_modules():

        def enter(module: nn.Module, inputs: Any, name: str = name) -> None:
            recorder.stack.append(name)

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            recorder.stack.pop()

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        with plain_operations(), torch.inference_mode(False), torch.no_grad(), evaluating(model):
            image = image.clone()
            recorder.start(image)
            with recorder:
                result = model(image) if cond is None else model(image, cond)
    finally:
        for handle in handles:
            handle.remove()
    return recorder.finish(result)


class _Recorder(TorchDispatchMode):
    def __init__(self, image: Tensor, conditional: bool) -> None:
        super().__init__()
        self.conditional = conditional
        self.n, self.shape = len(image), (image.shape[1], image.shape[2], image.shape[3])
        self.like = image
        self.nodes: list[Node] = []
        self.count = 0
        self.constants: list[Tensor] = []  # values of the identities -1, -2, ..., in pieces
        self.n_constants = 0
        self.tracked: dict[int, tuple[Tensor, Tensor]] = {}  # id -> (kept alive, identities)
        self.stack: list[str] = []

    # bookkeeping ------------------------------------------------------------------------------------------------

    def start(self, image: Tensor) -> None:
        channels, height, width = self.shape
        count = channels * height * width
        self.add(Image(0, count, ""))
        elements = torch.arange(count).view(height, width, channels).permute(2, 0, 1)
        self.put(image, elements + torch.arange(self.n).view(-1, 1, 1, 1) * IMAGE_STRIDE)

    def finish(self, result: Any) -> Recording:
        ids = self.get(result)
        _, height, width = self.shape
        if ids is None:
            raise ValueError("dense engine: the model's output does not depend on the image; got a constant")
        if ids.dim() != 4 or ids.shape[0] != self.n or ids.shape[2:] != (height, width):
            raise ValueError(
                f"dense engine: the model must return parameters [N, P, {height}, {width}]; got [N, "
                f"{', '.join(map(str, ids.shape[1:]))}]; reshape them"
            )
        self.stack.clear()
        per_image = self.args("its result", ids.flatten(1))
        output = per_image.view(ids.shape[1:])
        alike = all(
            c is None or len(c) == 1
            for node in self.nodes
            for c in (getattr(node, "static", None), getattr(node, "constant", None), getattr(node, "value", None))
        )
        return Recording(self.nodes, output, self.shape, self.count, 1 if alike else self.n)

    @property
    def path(self) -> str:
        return self.stack[-1] if self.stack else ""

    def get(self, tensor: Any) -> Tensor | None:
        entry = self.tracked.get(id(tensor)) if isinstance(tensor, Tensor) else None
        return entry[1] if entry is not None and entry[0] is tensor else None

    def put(self, tensor: Tensor, ids: Tensor) -> None:
        self.tracked[id(tensor)] = (tensor, ids)

    def add(self, node: Node) -> Node:
        self.nodes.append(node)
        self.count = node.first + node.count
        return node

    def refuse(self, func: Any, why: str) -> TraceError:
        where = f"module {self.path!r}" if self.path else "the model"
        return TraceError(
            f"dense engine: {where} calls {func} on a value that depends on the image; {why}; "
            'rewrite it, or sample with method="naive"'
        )

    def expect(self, condition: bool, func: Any, why: str) -> None:
        if not condition:
            raise self.refuse(func, why)

    def known(self, values: Tensor) -> Tensor:
        """New identities of constants of these values, in their shape."""
        first = -1 - self.n_constants
        self.constants.append(values.detach().flatten().cpu())
        self.n_constants += values.numel()
        return (first - torch.arange(values.numel())).view(values.shape)

    def values(self, ids: Tensor) -> Tensor:
        """The values of constants; 0 for elements that depend on the image."""
        self.constants = [torch.cat(self.constants)]
        return torch.where(ids < 0, self.constants[0][(-1 - ids).clamp_min(0)], 0)

    # dispatch ---------------------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        flat = [t for a in (*args, *kwargs.values()) for t in (a if isinstance(a, (list, tuple)) else (a,))]
        if not any(self.get(t) is not None for t in flat):
            return func(*args, **kwargs)
        op = func.overloadpacket
        name = op.__name__
        if name.endswith("_") and not name.endswith("__"):
            return self.in_place(func, op, args, kwargs)
        out = func(*args, **kwargs)
        if op not in _SHAPE_ONLY:
            self.rule(func, op, args, kwargs, out)
        return out

    def in_place(self, func: Any, op: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """An in-place operation is the plain one, as long as nothing else sees the storage it overwrites."""
        target = args[0]
        storage = target.untyped_storage()._cdata
        shared = [t for t, _ in self.tracked.values() if t is not target and t.untyped_storage()._cdata == storage]
        self.expect(self.get(target) is not None, func, "it writes into a tensor that did not depend on the image")
        self.expect(not shared, func, "it overwrites a tensor that has live views")
        plain = getattr(aten, op.__name__[:-1], None)
        self.expect(plain is not None, func, "no rule for it")
        func(*args, **kwargs)
        self.rule(func, plain, args, kwargs, target)
        return target

    def rule(self, func: Any, op: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        first = self.get(args[0]) if args else None
        if op in _IDENTITY and first is not None:
            self.put(out, first)
        elif op is aten._to_copy and first is not None:
            self.expect(out.dtype == args[0].dtype, func, "it changes the dtype")
            self.put(out, first)
        elif op in _MOVES and first is not None:
            self.move(func, first, args, kwargs, out)
        elif op is aten.constant_pad_nd and first is not None:
            value = args[2] if len(args) > 2 else kwargs.get("value", 0)
            padding = int(self.known(self.like.new_tensor([float(value)])))
            self.put(out, aten.constant_pad_nd(first, args[1], padding))
        elif op in (aten.cat, aten.stack):
            parts = [self.known(t) if (ids := self.get(t)) is None else ids for t in args[0]]
            self.put(out, func(parts, *args[1:], **kwargs))
        elif op in (aten.mm, aten.addmm):
            self.product(func, op, args, kwargs, out)
        elif op in (aten.sum, aten.mean) and first is not None:
            self.reduce(func, op, args, kwargs, out, first)
        elif op is aten.cumsum and first is not None:
            self.running_sum(func, args, kwargs, out, first)
        elif op in (aten.add, aten.sub, aten.rsub):
            self.sum_of_two(func, op, args, kwargs, out)
        elif op in (aten.mul, aten.div):
            self.expect(not kwargs, func, "rounding has no rule")
            other = args[1]
            if op is aten.div:
                self.expect(self.get(other) is None, func, "division by a value that depends on the image has no rule")
                other = torch.as_tensor(1.0, dtype=out.dtype, device=out.device) / other
            self.elementwise(func, "mul", (args[0], other), (), out)
        elif op is aten.neg and first is not None:
            self.elementwise(func, "neg", (args[0],), (), out)
        elif op.__name__ in UNARY and first is not None:
            params = (*args[1:], *kwargs.values())
            if op is aten.elu and all(p == 1 for p in params):
                params = ()
            self.elementwise(func, op.__name__, (args[0],), params, out)
        else:
            raise self.refuse(func, "no rule for it")

    # rules ------------------------------------------------------------------------------------------------------

    def move(self, func: Any, ids: Tensor, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        if func.overloadpacket in (aten.view, aten.reshape, aten._unsafe_view):  # whatever the strides of `ids`
            self.expect(out.dtype == args[0].dtype, func, "it changes the dtype")
            self.put(out, ids.reshape(out.shape))
            return
        moved = func(ids, *(_on_cpu(a) for a in args[1:]), **{key: _on_cpu(a) for key, a in kwargs.items()})
        pairs = zip(out, moved) if isinstance(out, (list, tuple)) else [(out, moved)]
        for tensor, its in pairs:
            self.expect(tensor.shape == its.shape, func, "its shape depends on values")
            self.put(tensor, its)

    def split(self, func: Any, image: Tensor) -> Tensor:
        """Positions [N, count / N] of each image's entries, from the image of every entry of a vector."""
        counts = torch.bincount(image, minlength=self.n)
        self.expect(bool((counts == counts[0]).all()), func, "it treats the images of a batch in different ways")
        return torch.argsort(image, stable=True).view(self.n, -1)

    def image_of(self, func: Any, ids: Tensor) -> Tensor:
        """The image that each row of identities [R, K] belongs to, -1 for a row of constants."""
        image = torch.where(ids < 0, -1, ids // IMAGE_STRIDE)
        latest = image.amax(1)
        self.expect(bool(((image == latest[:, None]) | (image < 0)).all()), func, "it mixes the images of a batch")
        return latest

    def elements(self, func: Any, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """From rows [N, ...] of identities those of any image, -1 at constants, and the constants' values or None."""
        own = torch.where(ids < 0, -1, ids % IMAGE_STRIDE)
        self.expect(bool((own == own[:1]).all()), func, "it treats the images of a batch in different ways")
        return own[0], self.alike(func, self.values(ids)) if bool((ids < 0).any()) else None

    def alike(self, func: Any, values: Tensor) -> Tensor:
        """Values [N, ...] as [1, ...] if the images share them, as they must but for rounding without conditions."""
        if self.conditional and not bool((values == values[:1]).all()):
            return values
        same = self.conditional or torch.allclose(values, values[:1].expand_as(values), 1e-4, 1e-6, equal_nan=True)
        self.expect(same, func, "it takes constants that differ between the images")
        return values[:1]

    def args(self, func: Any, ids: Tensor) -> Tensor:
        """From rows [N, E] of identities those of any image, [E]; constants become elements of a node."""
        elements, values = self.elements(func, ids)
        if values is None:
            return elements
        where = (elements < 0).nonzero().flatten()
        node = self.add(Constant(self.count, len(where), self.path, values[:, where].contiguous()))
        elements = elements.clone()
        elements[where] = node.first + torch.arange(len(where))
        return elements

    def result(self, out: Tensor, rows: Tensor, positions: Tensor, node: Node) -> None:
        """Identities of `out`, whose entries `positions` [N, R] of [rows, ...] are the node's, the others constant."""
        ids = self.known(out).view(rows.shape[0], -1)
        own = torch.arange(node.count).view(positions.shape[1], -1) + node.first
        for image, where in enumerate(positions):
            ids[where] = own + image * IMAGE_STRIDE
        self.put(out, ids.view(out.shape))

    def constant(self, func: Any, value: Any, out: Tensor, positions: Tensor) -> Tensor:
        """A constant operand at the positions [N, E] of the result: [N or 1, E]."""
        tensor = torch.as_tensor(value, dtype=out.dtype, device=out.device).detach()
        return self.alike(func, tensor.expand(out.shape).reshape(-1).cpu()[positions]).contiguous()

    def elementwise(self, func: Any, op: str, operands: Sequence[Any], params: tuple[Any, ...], out: Tensor) -> None:
        tracked = [ids for t in operands if (ids := self.get(t)) is not None]
        others = [t for t in operands if self.get(t) is None]
        ids = torch.stack([t.expand(out.shape).reshape(-1) for t in tracked], 1)  # [entries, args]
        image = self.image_of(func, ids)
        if op == "mul" and others:  # what is multiplied by zero depends on nothing
            factor = torch.as_tensor(others[0], dtype=out.dtype, device=out.device).expand(out.shape).reshape(-1)
            image = torch.where(factor.cpu() == 0, -1, image)
        live = (image >= 0).nonzero().flatten()
        if not len(live):
            self.put(out, self.known(out))
            return
        positions = live[self.split(func, image[live])]
        args = tuple(self.args(func, ids[positions, k]) for k in range(len(tracked)))
        constant = self.constant(func, others[0], out, positions) if others else None
        node = self.add(Function(self.count, positions.shape[1], self.path, op, args, params, constant))
        self.result(out, image, positions, node)

    def sum_of_two(self, func: Any, op: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> None:
        alpha = kwargs.get("alpha", args[2] if len(args) > 2 else 1)
        a, b = (args[1], args[0]) if op is aten.rsub else (args[0], args[1])
        factor = float(alpha) if op is aten.add else -float(alpha)
        if factor != 1:
            if self.get(b) is None:
                b = factor * torch.as_tensor(b, dtype=out.dtype, device=out.device)
            else:
                scaled = b * factor
                operation = ("neg", (b,)) if factor == -1 else ("mul", (b, factor))
                self.elementwise(func, operation[0], operation[1], (), scaled)
                b = scaled
        self.elementwise(func, "add", (a, b), (), out)

    def product(self, func: Any, op: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> None:
        bias, a, b = args if op is aten.addmm else (None, *args)
        self.expect(not kwargs and self.get(bias) is None, func, "its bias depends on the image, or it is scaled")
        left, right = self.get(a), self.get(b)
        self.expect(left is None or right is None, func, "both factors depend on the image")
        if left is not None:
            ids, weight, transposed = left, b.detach().cpu(), False
        else:
            assert right is not None  # dispatch saw one that depends on the image
            ids, weight, transposed = right.t(), a.detach().t().cpu(), True
        image = self.image_of(func, ids)
        live = (image >= 0).nonzero().flatten()
        rows = out.t() if transposed else out
        if not len(live):
            self.put(out, self.known(out))
            return
        positions = live[self.split(func, image[live])]  # [N, M]
        inputs, values = self.elements(func, ids[positions])  # [M, K]
        static = None if values is None else values @ weight
        if bias is not None:
            spread = bias.detach().cpu().expand(out.shape)
            added = self.alike(func, (spread.t() if transposed else spread)[positions])
            static = added if static is None else static + added
        count = inputs.shape[0] * weight.shape[1]
        static = None if static is None else static.flatten(1).contiguous()
        node = self.add(Product(self.count, count, self.path, inputs, weight, static))
        self.result(rows, image, positions, node)
        if transposed:
            its = self.get(rows)
            assert its is not None
            self.put(out, its.t())

    def reduce(self, func: Any, op: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor, ids: Tensor) -> None:
        self.expect(
            kwargs.get("dtype") in (None, out.dtype) and out.dtype == args[0].dtype, func, "it changes the dtype"
        )
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        dims = list(range(ids.dim())) if dims in (None, []) else [d % ids.dim() for d in dims]
        kept = [d for d in range(ids.dim()) if d not in dims]
        rows = ids.permute(*kept, *dims).reshape(out.numel(), -1)
        image = self.image_of(func, rows)
        live = (image >= 0).nonzero().flatten()
        if not len(live):
            self.put(out, self.known(out))
            return
        positions = live[self.split(func, image[live])]
        inputs, values = self.elements(func, rows[positions])  # [O, K]
        weight = 1.0 if op is aten.sum else 1.0 / rows.shape[1]
        weights = torch.full(inputs.shape, weight, dtype=out.dtype)
        static = None if values is None else (values.sum(2) * weight).contiguous()
        node = self.add(Dot(self.count, len(inputs), self.path, inputs, weights, static))
        self.result(out, image, positions, node)

    def running_sum(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor, ids: Tensor) -> None:
        self.expect(kwargs.get("dtype") in (None, out.dtype), func, "it changes the dtype")
        dim = args[1] % ids.dim()
        lines = ids.movedim(dim, -1).reshape(-1, ids.shape[dim])  # [lines, L]
        image = self.image_of(func, lines)
        live = (image >= 0).nonzero().flatten()
        positions = live[self.split(func, image[live])]  # [N, B]
        mine = lines[positions].transpose(1, 2)  # [N, L, B]
        inputs = self.args(func, mine.flatten(1)).view(mine.shape[1:])
        node = self.add(RunningSum(self.count, inputs.numel(), self.path, inputs))
        moved = self.known(out.movedim(dim, -1).contiguous())
        flat = moved.view(lines.shape)
        own = (torch.arange(node.count).view(inputs.shape) + node.first).t()  # [B, L]
        for k, where in enumerate(positions):
            flat[where] = own + k * IMAGE_STRIDE
        self.put(out, moved.movedim(-1, dim))


def _on_cpu(argument: Any) -> Any:
    """Identities are kept on the CPU, and so must be what indexes them."""
    if isinstance(argument, (list, tuple)):
        return [_on_cpu(a) for a in argument]
    return argument.cpu() if isinstance(argument, Tensor) else argument
