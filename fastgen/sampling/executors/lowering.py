"""The steps of a pixel as launches: what one kernel computes between two points where all of a device must agree.

A launch is a product with everything that goes with it, on views that were made once. A list of launches and draws is
a program that does not depend on a device: its reference is PyTorch, each launch is one Triton kernel of a CUDA graph,
and a table of them is what a persistent kernel walks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from fastgen.likelihoods import Likelihood
from fastgen.sampling.executors.steps import Step

MAX_PRODUCTS, MAX_ADDED, MAX_FACTORS, MAX_RESIDUALS, MAX_STORES = 4, 3, 1, 2, 3


@dataclass(frozen=True, eq=False)
class Product:
    """x @ weight, both rounded to the dtype of the weight, summed in float32 (float64 for float64).

    Shapes: x [N, K], a window of neighbouring columns of a ring: unit stride over K, any stride over images; weight
        [K, Z] contiguous, shared by all columns of a row.

    Attributes:
        old: so many leading inputs are not written by the launch just before in its program.
    """

    x: Tensor
    weight: Tensor
    old: int = 0


@dataclass(frozen=True, eq=False)
class Store:
    """out = function(y).

    Shapes: out [N, C], unit stride over channels; for concat_elu the channels c0:c1 of elu([y, -y]).

    Attributes:
        function: "copy", "neg", "concat_elu" or a name of UNARY.
        params: of the function, as UNARY takes them; (C, c0, c1) of concat_elu.
    """

    out: Tensor
    function: str = "copy"
    params: tuple[float | str, ...] = ()


@dataclass(frozen=True, eq=False)
class Launch:
    """z = sum of x @ weight + sum of added + sum of a b;  y = gate(z) + sum of residuals;  each store takes f(y).

    Shapes: z [N, Z] with Z = 2C for a gate, else C; y [N, C]. added [N or 1, Z], factors a, b [N or 1, Z], residuals
        [N or 1, C]: unit stride over channels; an operand of one image stands for all (stride 0 over images).

    Attributes:
        gate: "" for y = z, "linear" for z[:C] sigmoid(z[C:]), "tanh" for tanh(z[:C]) sigmoid(z[C:]).
        waits: False if it has nothing to do with the launch just before: it reads nothing that this one writes, and
            writes nothing that it reads or writes.
    No store overlaps the input of a product of the same launch. It may be the very view of something that is added.
    """

    products: tuple[Product, ...] = ()
    added: tuple[Tensor, ...] = ()
    factors: tuple[tuple[Tensor, Tensor], ...] = ()
    gate: str = ""
    residuals: tuple[Tensor, ...] = ()
    stores: tuple[Store, ...] = ()
    waits: bool = True


@dataclass(frozen=True, eq=False)
class Draw:
    """x = kept where it is a number, else a draw from the parameters, snapped to the grid of levels.

    Shapes: params [N, P]; uniforms float32 [N, U]; kept [N, C], NaN where it is drawn; out [N, C]; temperature float64
        [1 + all channels of the image]: of what the channels share, then of each. Unit stride over the last axis.

    Attributes:
        likelihood: of these C channels: DiscretizedLogisticMixture, Categorical or Bernoulli.
        first: the number of the first of the C channels in the image.
    """

    likelihood: Likelihood
    params: Tensor
    uniforms: Tensor
    kept: Tensor
    out: Tensor
    temperature: Tensor
    first: int = 0
    waits: bool = field(default=True, init=False)


Unit = Launch | Draw | Step  # a step has no launch: it runs as PyTorch calls

# Where a view [N, C] lies: its memory, first element, elements between images, channels.
Span = tuple[int, int, int, int]
_FUNCTIONS = (
    "copy", "neg", "concat_elu", "elu", "exp", "gelu", "leaky_relu", "relu", "sigmoid", "silu", "softplus", "tanh",
)  # fmt: skip


def span_of(view: Tensor) -> Span:
    """Where a view lies."""
    stride = view.stride(0) if view.shape[0] > 1 else 0
    return view.untyped_storage().data_ptr(), int(view.storage_offset()), stride, view.shape[-1]


def overlap(a: Span, b: Span) -> bool:
    """Whether two views may share memory: exact where their images lie alike, and yes where they do not."""
    if a[0] != b[0]:
        return False
    if a[2] != b[2]:
        return True
    first, second = (a[1] % a[2], b[1] % b[2]) if a[2] else (a[1], b[1])
    return first < second + b[3] and second < first + a[3]


def reads_of(unit: Unit) -> list[Tensor]:
    """What a unit reads of what others write."""
    if isinstance(unit, Launch):
        factors = [factor for pair in unit.factors for factor in pair]
        return [*(product.x for product in unit.products), *unit.added, *factors, *unit.residuals]
    if isinstance(unit, Draw):
        return [unit.params]
    if unit.op == "product":
        return [*unit.args[:-2], unit.args[-2]]
    if unit.op == "concat_elu":
        return [unit.args[0][..., : unit.params[0]]]
    return list(unit.args)


def writes_of(unit: Unit) -> list[Tensor]:
    """What a unit writes."""
    return [store.out for store in unit.stores] if isinstance(unit, Launch) else [unit.out]


def fuse(items: Sequence[Step | Draw], transient: Collection[int]) -> list[Unit]:
    """The steps of one pixel, with its draws, as launches: what belongs to a product joins its launch.

    `transient` names the memories (`untyped_storage().data_ptr()`) that nothing reads after this pixel: what the list
    itself does not read of them is not stored.
    """
    return _Fusion(items, transient).units()


def annotated(units: Sequence[Unit]) -> list[Unit]:
    """The units of a program with `Product.old` and `waits` set from the unit before each."""
    out: list[Unit] = []
    before: Unit | None = None
    for unit in units:
        written = [] if before is None else [span_of(view) for view in writes_of(before)]
        if isinstance(unit, Launch):
            products = tuple(replace(p, old=old_inputs(span_of(p.x), written)) for p in unit.products)
            unit = replace(unit, products=products, waits=before is not None and _conflict(before, unit))
        out.append(unit)
        before = unit
    return out


def old_inputs(x: Span, written: list[Span]) -> int:
    """How many leading channels of x are not among what was written."""
    old = x[3]
    for span in written:
        if overlap((*x[:3], old), span):
            start = span[1] % span[2] - x[1] % x[2] if x[2] and span[2] else span[1] - x[1]
            old = start if span[2] == x[2] and 0 <= start < old else 0
    return old


def _conflict(first: Unit, second: Unit) -> bool:
    reads, writes = ([span_of(view) for view in views] for views in (reads_of(first), writes_of(first)))
    later_reads, later_writes = ([span_of(view) for view in views] for views in (reads_of(second), writes_of(second)))
    return any(overlap(w, s) for w in writes for s in (*later_reads, *later_writes)) or any(
        overlap(r, s) for r in reads for s in later_writes
    )


@dataclass(eq=False)
class _Open:
    """A launch that may still grow."""

    y: Tensor  # the view that holds its result
    products: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    added: list[Tensor] = field(default_factory=list)
    factors: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    gate: str = ""
    residuals: list[Tensor] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    stores_y: bool = True  # its first store is y; otherwise y was there before
    result: Span = field(init=False)  # where y lies

    def __post_init__(self) -> None:
        self.result = span_of(self.y)

    @property
    def is_open(self) -> bool:
        """Whether its result may still change."""
        return self.stores_y and len(self.stores) == 1

    @property
    def is_sum(self) -> bool:
        """Whether its result may change before a gate."""
        return self.is_open and not self.gate and not self.residuals

    def closed(self) -> Launch:
        """The launch."""
        products = tuple(Product(x, weight) for x, weight in self.products)
        parts = (self.added, self.factors, self.gate, self.residuals, self.stores)
        return Launch(products, *(part if isinstance(part, str) else tuple(part) for part in parts))  # type: ignore[arg-type]


class _Fusion:
    """One pass over the items in their order. A step joins an earlier launch if nothing in between can tell."""

    def __init__(self, items: Sequence[Step | Draw], transient: Collection[int]) -> None:
        self.items, self.transient = items, transient
        self.list: list[_Open | Step | Draw] = []
        self.item_reads: dict[int, list[tuple[int, Span]]] = {}  # by memory: which items read what of it
        for at, item in enumerate(items):
            for span in map(span_of, reads_of(item)):
                self.item_reads.setdefault(span[0], []).append((at, span))
        self.at = 0  # which item is being placed

    def units(self) -> list[Unit]:
        """All of it."""
        for at, item in enumerate(self.items):
            self.at = at
            if isinstance(item, Draw) or not self._placed(item):
                self.list.append(item)
        self._drop_dead_stores()
        return [unit.closed() if isinstance(unit, _Open) else unit for unit in self.list]

    def _placed(self, step: Step) -> bool:
        """Put a step into a launch; False if none can do it."""
        if step.op == "product":
            *base, x, weight = step.args
            launch = self._joinable(step.out, base[0], [x], new_inputs=[x]) if base else None
            if launch is not None and launch.is_sum and len(launch.products) < MAX_PRODUCTS:
                launch.products.append((x, weight))
                return self._holds(launch, step.out)
            return self._start(step.out, products=[(x, weight)], added=base)
        if step.op == "add":
            for y, other in (step.args, step.args[::-1]):
                launch = self._joinable(step.out, y, [other])
                if launch is not None and self._add(launch, other):
                    return self._holds(launch, step.out)
            return self._start(step.out, added=list(step.args))
        if step.op in ("mul", "add_product"):
            return self._product_of_two(step)
        if step.op == "zero":
            return self._start(step.out)
        return step.op in _FUNCTIONS and self._function(step)

    def _start(self, y: Tensor, **parts: Any) -> bool:
        self.list.append(_Open(y, stores=[Store(y)], **parts))
        return True

    @staticmethod
    def _holds(launch: _Open, out: Tensor) -> bool:
        """The result of a launch that grew lies in `out`."""
        launch.y, launch.result, launch.stores = out, span_of(out), [Store(out)]
        return True

    @staticmethod
    def _add(launch: _Open, term: Tensor) -> bool:
        """Let a launch add one more term to its result, if it can."""
        into, most = (launch.added, MAX_ADDED) if launch.is_sum else (launch.residuals, MAX_RESIDUALS)
        if not launch.is_open or len(into) == most:
            return False
        into.append(term)
        return True

    def _product_of_two(self, step: Step) -> bool:
        """base + a b: a gate, a term of a sum, or a launch of its own."""
        *base, a, b = step.args
        channels = step.out.shape[1]
        a, b = (f if f.shape[1] == channels else f.expand(-1, channels).contiguous() for f in (a, b))
        if self._gate(step.out, base, a, b) or self._gate(step.out, base, b, a):
            return True
        launch = self._joinable(step.out, base[0], [a, b]) if base else None
        if launch is not None and launch.is_sum and len(launch.factors) < MAX_FACTORS:
            launch.factors.append((a, b))
            return self._holds(launch, step.out)
        return self._start(step.out, added=base, factors=[(a, b)])

    def _gate(self, out: Tensor, base: list[Tensor], a: Tensor, b: Tensor) -> bool:
        """A gate, if b is the sigmoid of the upper half of a sum, and a its lower half or the tanh of that."""
        sigmoid, tanh = self._only_function(b, "sigmoid"), self._only_function(a, "tanh")
        if sigmoid is None:
            return False
        lower, upper = a if tanh is None else tanh.y, sigmoid.y
        memory, offset, stride, channels = span_of(lower)
        if span_of(upper) != (memory, offset + channels, stride, channels):
            return False
        both = lower.as_strided((len(lower), 2 * channels), lower.stride(), offset)
        helpers = [unit for unit in (sigmoid, tanh) if unit is not None]
        replaced = [span_of(helper.stores[0].out) for helper in helpers]
        if any(overlap(span_of(view), span) for view in (both, *base) for span in replaced):
            return False
        launch = self._joinable(out, both, base, helpers)
        if launch is None or not launch.is_sum or not all(map(self._is_unread, helpers)):
            return False
        self.list = [unit for unit in self.list if unit not in helpers]
        launch.gate, launch.residuals = "linear" if tanh is None else "tanh", base
        return self._holds(launch, out)

    def _is_unread(self, helper: _Open) -> bool:
        """Whether nothing but the current item reads what a launch stores."""
        out = helper.stores[0].out
        after = self.list[self.list.index(helper) + 1 :]
        return self._dead(out) and not any(overlap(span_of(out), span_of(r)) for unit in after for r in _reads(unit))

    def _only_function(self, view: Tensor, function: str) -> _Open | None:
        """The launch that wrote a view, if it does nothing but take this function of something."""
        for unit in reversed(self.list):
            if any(overlap(span_of(out), span_of(view)) for out in _writes(unit)):
                if not isinstance(unit, _Open) or unit.stores_y or len(unit.stores) > 1:
                    return None
                store = unit.stores[0]
                return unit if store.function == function and _same(store.out, view) else None
        return None

    def _function(self, step: Step) -> bool:
        """A function of a result: one more store of its launch, or a launch of its own."""
        x = step.args[0][:, : step.params[0]] if step.op == "concat_elu" else step.args[0]
        store = Store(step.out, step.op, step.params)
        launch = self._joinable(step.out, x, [], changes_y=False)
        if launch is not None and len(launch.stores) < MAX_STORES:
            launch.stores.append(store)
        elif step.op == "copy":
            return self._start(step.out, added=[x])
        else:
            self.list.append(_Open(x, added=[x], stores=[store], stores_y=False))
        return True

    # what may be moved ------------------------------------------------------------------------------------------

    def _joinable(
        self,
        out: Tensor,
        y: Tensor,
        others: Sequence[Tensor],
        without: Sequence[_Open] = (),
        new_inputs: Sequence[Tensor] = (),
        changes_y: bool = True,
    ) -> _Open | None:
        """The launch whose result is `y`, if what makes `out` of it and `others` may be done there and then.

        `without` are units that will be gone; of `others`, `new_inputs` are read whole by every program of a kernel. A
        result that changes must not be wanted as it was.
        """
        target, result, inputs = span_of(out), span_of(y), [span_of(view) for view in others]
        for where in reversed(range(len(self.list))):
            launch = self.list[where]
            if isinstance(launch, _Open) and launch.result == result and launch not in without:
                break
        else:
            return None
        for unit in self.list[where + 1 :]:
            if unit in without:
                continue
            reads, writes = ([span_of(view) for view in views] for views in (_reads(unit), _writes(unit)))
            if any(overlap(w, s) for w in writes for s in (*inputs, target, result)):
                return None
            if any(overlap(r, target) or (changes_y and overlap(r, result)) for r in reads):
                return None
        if changes_y and not (_same(out, y) or self._dead(y)):
            return None
        # within the launch: what it writes must not be what it reads, but for the same element
        own = [span_of(store.out) for store in launch.stores[launch.stores_y :]]
        if any(overlap(w, s) for w in own for s in (*inputs, target, result)):
            return None
        if launch.stores_y and any(overlap(result, s) for s in (*inputs, *(() if changes_y else (target,)))):
            return None
        whole = [*(x for x, _ in launch.products), *new_inputs]
        if any(overlap(span_of(x), s) for x in whole for s in (target, *own)):
            return None
        each = [view for view in (*_reads(launch), *others) if not any(view is x for x in whole)]
        return None if any(overlap(span_of(v), target) and not _same(v, out) for v in each) else launch

    def _dead(self, view: Tensor) -> bool:
        """Whether nothing after the current item reads a view."""
        span = span_of(view)
        later = [s for at, s in self.item_reads.get(span[0], ()) if at > self.at]
        return span[0] in self.transient and not any(overlap(span, s) for s in later)

    def _drop_dead_stores(self) -> None:
        """From the end, as a launch that is gone reads nothing."""
        later: dict[int, list[Span]] = {}
        kept: list[_Open | Step | Draw] = []
        for unit in reversed(self.list):
            if isinstance(unit, _Open):
                unit.stores = [store for store in unit.stores if self._is_read(span_of(store.out), later)]
            if not isinstance(unit, _Open) or unit.stores:
                kept.append(unit)
                for span in map(span_of, _reads(unit)):
                    later.setdefault(span[0], []).append(span)
        self.list = kept[::-1]

    def _is_read(self, span: Span, later: dict[int, list[Span]]) -> bool:
        return span[0] not in self.transient or any(overlap(span, s) for s in later.get(span[0], ()))


def _same(a: Tensor, b: Tensor) -> bool:
    return span_of(a) == span_of(b)


def _reads(unit: _Open | Step | Draw) -> list[Tensor]:
    return reads_of(unit.closed()) if isinstance(unit, _Open) else reads_of(unit)


def _writes(unit: _Open | Step | Draw) -> list[Tensor]:
    return [store.out for store in unit.stores] if isinstance(unit, _Open) else writes_of(unit)
