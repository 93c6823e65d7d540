"""The plan on any device, as lists of pre-bound tensor calls.

Every call of the inner loop is an `out=` operation on views that were made once: per phase of the rows and per column.
Nothing is allocated while sampling. Layout is [image, column, channel], so that a window of neighbouring columns is
contiguous and a row of all images is one wide matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fastgen.sampling.executors.steps import Call, History, Step, bind, sum_steps
from fastgen.sampling.ir import Affine, Attend, Pair, Pointwise, Read, Value
from fastgen.sampling.plan import Chunk, Plan, Sums, base_row


class Buffer:
    """The storage of one value: [N, left + W + right, C] for its newest row, and older rows where they are read.

    With a ring, only the newest `ring` columns of the newest row.
    """

    def __init__(self, value: Value, plan: Plan, n: int, like: Tensor, ring: int = 0) -> None:
        store = plan.storage[id(value)]
        self.columns, self.ring = store.columns, ring if store.columns else 0
        self.left = 0 if self.ring else store.left
        width = (self.ring or store.left + value.width + store.right) if store.columns else 1
        # what feeds concat_elu keeps [x, -x] side by side, for one elementwise pass over both
        self.twin = store.twin
        self.now = like.new_zeros(n, width, value.channels * (2 if store.twin else 1))
        # a power of two: the slot of a row is its index modulo the depth, and periods of all values stay small
        self.depth = 1 << (store.depth - 1).bit_length() if store.depth else 0
        self.past = [torch.zeros_like(self.now) for _ in range(self.depth)]

    def row(self, row: int, lag: int) -> Tensor:
        return self.now if lag == 0 else self.past[row % self.depth]

    def column(self, x: int) -> int:
        if self.ring:
            return x % self.ring
        return self.left + x if self.columns else 0


@dataclass(frozen=True, eq=False)
class StaticRow:
    """Copies one row of a static image [H, N or 1, W, C]; the only thing that needs to know the row."""

    target: Tensor
    images: Tensor
    offset: int
    stride: int

    def source(self, raw: int) -> Tensor:
        """The row of the image for raw row `raw`."""
        return self.images[(raw - self.offset) // self.stride]

    def __call__(self, raw: int) -> None:
        self.target.copy_(self.source(raw))


@dataclass(frozen=True, eq=False)
class RowSum:
    """target = total + sum of x @ weight + sum of added, for one row, or every second column of it.

    Shapes: target [N, W, C], x [N, W, K], weight [K, C], added [N, W, C]; total broadcasts to the target, or is the
    target itself.
    """

    target: Tensor
    total: Tensor | None
    products: list[tuple[Tensor, Tensor]]
    added: list[Tensor]


RowItem = Step | RowSum | StaticRow


class CachedExecutor:
    """Exact cached sampling of a planned network.

    Cost: every product of the network once per image position, instead of once per pixel of the image.
    Memory: rings of a few rows for values that later rows read, one row or one pixel for the others.
    """

    is_sequence = False

    def __init__(self, plan: Plan, n: int, like: Tensor) -> None:
        self.plan, self.n_images = plan, n
        self.graph, self.times = plan.graph, plan.schedule
        self.image_shape = (plan.graph.image.channels, plan.graph.image.height, plan.graph.image.width)
        self.substeps = plan.schedule.substeps
        self.like = like
        self.buffers = {id(v): Buffer(v, plan, n, like, self._ring(v)) for v in self.graph.values}
        self.row_sums: dict[int, Tensor] = {}
        self.biases: dict[int, Tensor] = {}
        self.images: dict[int, Tensor] = {}
        self.scratch: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self.histories: dict[int, History] = {}
        self.clock = np.zeros(1, np.int64)  # the row that is being computed
        values = self.graph.values[1:]
        for value in values:
            if isinstance(value, Affine):
                self._statics(value)
            elif isinstance(value, Attend):
                self.histories[id(value)] = History(
                    like, n, value.height, value.width, value.key.channels, value.value.channels, value.heads,
                    value.strict, self.clock,
                )  # fmt: skip
        by_pixel = [v for v in values if not self.times.of(v).per_row]
        self.fused = self._products_of_one_sum(by_pixel)
        self.pixel_values = [
            [
                (v, runs)
                for v in by_pixel
                if id(v) not in self.fused and (runs := [(a, b) for a, b, g in self.times.groups(v) if g == substep])
            ]
            for substep in range(self.substeps)
        ]
        self.end_column = max(v.stride[1] * (v.width - 1) + self.times.of(v).column for v in by_pixel) + 1
        self.end_column = max(self.end_column, self.graph.image.width)
        # between these rows every value has started and none has ended: programs repeat there
        self.first_row = min(0, *(self.times.of(v).row for v in values))
        self.regular = range(max(0, *(self.times.of(v).row for v in values)), self.graph.image.height + self.first_row)
        self.row_period = math.lcm(
            plan.period[0], *(v.stride[0] * b.depth for v in values if (b := self.buffers[id(v)]).depth),
            self.buffers[id(self.graph.image)].depth or 1,
        )  # fmt: skip
        self.row_programs: dict[int, list[Call | StaticRow]] = {}
        self.pixel_programs: dict[int, list[list[list[Call]]]] = {}
        self.live_parts: dict[tuple[int, int, int], tuple[Tensor, int, int]] = {}
        image = self.buffers[id(self.graph.image)]
        out = self.graph.output
        buffer = self.buffers[id(out.base)]
        # as many views as there are places: with rings of columns these return
        places = range(max(image.ring, buffer.ring) or self.graph.image.width)
        whole = [image.now[:, image.column(j), : self.image_shape[0]] for j in places]
        if self.substeps == 1:
            self.targets = [[target] for target in whole]
        else:
            self.targets = [[t[:, g : g + 1] for g in range(self.graph.image.channels)] for t in whole]
        self.results = [buffer.now[:, buffer.column(j), out.c0 : out.c1] for j in places]
        self.program: list[list[list[Call]]] = []

    def _ring(self, value: Value) -> int:
        """How many columns of a value are kept; 0 keeps them all."""
        return 0

    # running ----------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def start(self) -> None:
        """Clear what rows read from before the image, and compute what is known before row 0."""
        for buffer in self.buffers.values():
            if buffer.columns:
                buffer.now.zero_()
            for past in buffer.past:
                past.zero_()
        for raw in range(self.first_row, 0):
            self._run_row(raw)

    def begin_row(self, row: int) -> None:
        """Run the row program: values of the row class, and the row sums of those of the pixel class."""
        self._run_row(row)
        key = self._representative(row, self.plan.period[0])
        if key not in self.pixel_programs:
            self.pixel_programs[key] = [
                [
                    [call for step in self._pixel_steps(key, j, g) for call in bind(step, self._temporary)]
                    for g in range(self.substeps)
                ]
                for j in range(self.end_column)
            ]
        self.program = self.pixel_programs[key]

    def parameters(self, column: int, substep: int) -> Tensor:
        """Run the pixel's program; parameters [N, P]."""
        for call in self.program[column][substep]:
            call()
        return self.results[column % len(self.results)]

    def write(self, column: int, substep: int, x: Tensor) -> None:
        """Put the drawn channels into the image's ring."""
        self.targets[column % len(self.targets)][substep].copy_(x)

    def end_row(self) -> None:
        """Compute the values that lag behind the pixel, up to the end of the row."""
        for column in range(self.graph.image.width, self.end_column):
            for calls in self.program[column]:
                for call in calls:
                    call()

    def _run_row(self, raw: int) -> None:
        self.clock[0] = raw
        key = self._representative(raw, self.row_period)
        if key not in self.row_programs:
            self.row_programs[key] = self._row_program(key)
        for call in self.row_programs[key]:
            if isinstance(call, StaticRow):
                call(raw)
            else:
                call()

    def _representative(self, raw: int, period: int) -> int:
        """The first row with the same program as row `raw`."""
        start = self.regular.start
        return start + (raw - start) % period if raw in self.regular else raw

    # binding rows -----------------------------------------------------------------------------------------------

    def _statics(self, value: Affine) -> None:
        """Sort the static part of an affine value into a bias [1 or N, C] or an image [H, N or 1, W, C]."""
        static = value.static
        if static is not None and static.shape[2:] == (1, 1):
            self.biases[id(value)] = static[:, :, 0, 0].contiguous()
        elif static is not None:
            static = static.expand(-1, -1, value.height, value.width)
            self.images[id(value)] = static.permute(2, 0, 3, 1).contiguous()
        if not self.times.of(value).per_row and self.plan.has_row_sum(value):
            self.row_sums[id(value)] = self.like.new_zeros(self.n_images, value.width, value.channels)

    def _row_program(self, raw: int) -> list[Call | StaticRow]:
        calls: list[Call | StaticRow] = []
        for item in self._row_items(raw):
            if isinstance(item, StaticRow):
                calls.append(item)
            elif isinstance(item, RowSum):
                self._bind_sum(calls, item)
            else:
                calls += bind(item, self._temporary)
        return calls

    def _row_items(self, raw: int) -> list[RowItem]:
        """What the start of a row computes."""
        items: list[RowItem] = []
        values = self.graph.values
        done: set[int] = set()
        for value in values[1:]:
            if id(value) in done or not self.times.of(value).per_row or self.plan.row_of(value, raw) is None:
                continue
            group = [value] if value.loop is None else [v for v in value.loop.members if self.times.of(v).per_row]
            done |= {id(v) for v in group}
            rows = {id(v): row for v in group if (row := self.plan.row_of(v, raw)) is not None}
            for v in group:
                buffer = self.buffers[id(v)]
                if buffer.depth:
                    items.append(Step("copy", buffer.past[(rows[id(v)] - 1) % buffer.depth], (buffer.now,)))
            for column in self._order_of_columns(group):
                for v in group:
                    items += self._row_value(v, rows[id(v)], raw, column)
        for value in values[1:]:
            row = self.plan.row_of(value, raw)
            if id(value) in self.row_sums and row is not None:
                assert isinstance(value, Affine)
                items += self._row_affine(value, row, raw, self.row_sums[id(value)])
        for value in values:  # the pixels of this row are about to overwrite the last one
            row = self.plan.row_of(value, raw)
            buffer = self.buffers[id(value)]
            if not self.times.of(value).per_row and buffer.depth and row is not None:
                items.append(Step("copy", buffer.past[(row - 1) % buffer.depth], (buffer.now,)))
        return items

    def _order_of_columns(self, group: list[Value]) -> Sequence[int | None]:
        """How a recurrence runs along its row: column by column, from the right or the left; None: all at once."""
        inside = {id(v) for v in group}
        along = {
            read.shift[1] > 0 for v in group for read in v.reads
            if id(read.base) in inside and read.shift[0] == 0 and read.shift[1] != 0
        }  # fmt: skip
        if not along:
            return [None]
        columns = range(group[0].width)
        return columns[::-1] if along.pop() else columns

    def _row_value(self, value: Value, row: int, raw: int, column: int | None) -> list[RowItem]:
        """One row of a value of the row class, or one column of it."""
        buffer = self.buffers[id(value)]
        first, count = (0, value.width) if column is None else (column, 1)
        target = buffer.now[:, buffer.left + first : buffer.left + first + count, : value.channels]
        if isinstance(value, Affine):
            return self._row_affine(value, row, raw, target, column)
        assert isinstance(value, Pointwise)
        views = [self._row_view(r, row, raw, first, count, 1, r.c0, self._end_channel(value, r)) for r in value.args]
        return [self._pointwise(value, views, target, 0, value.channels)]

    def _row_view(
        self, read: Read, row: int, raw: int, x: int, count: int, step: int, c0: int, c1: int, width: int = 1
    ) -> Tensor:
        """[N, count, width (c1 - c0)]: windows of `width` neighbouring columns of the row that `row` reads."""
        buffer = self.buffers[id(read.base)]
        source = buffer.row(base_row(read, row), self.plan.lag(read, row, raw))
        x = buffer.left + x
        if width == 1:
            return source[:, x : x + (count - 1) * step + 1 : step, c0:c1]
        n, size, channels = source.shape
        return source.as_strided((n, count, width * channels), (size * channels, step * channels, 1), x * channels)

    def _row_affine(
        self, value: Affine, row: int, raw: int, target: Tensor, column: int | None = None
    ) -> list[RowItem]:
        """The early terms of one row into `target` [N, W, C], or of one column of it into [N, 1, C]."""
        sums = self.plan.sums[id(value)]
        items: list[RowItem] = []
        images = self.images.get(id(value))
        bias = self.biases.get(id(value))
        if images is not None:
            items.append(StaticRow(target, images, self.times.of(value).row, value.stride[0]))
        for px in range(sums.phases[1]):
            first, count = 0, len(range(px, value.width, sums.phases[1]))
            if column is not None:
                first, count = divmod(column, sums.phases[1])[0], int(column % sums.phases[1] == px)
            if count == 0:
                continue
            part = target[:, px :: sums.phases[1]] if column is None else target
            products: list[tuple[Tensor, Tensor]] = []
            added: list[Tensor] = []
            for chunk in sums.early[row % sums.phases[0], px]:
                view = self._row_view(
                    chunk.read,
                    row,
                    raw,
                    chunk.offset + chunk.step * first,
                    count,
                    chunk.step,
                    chunk.c0,
                    chunk.c1,
                    chunk.width,
                )
                if chunk.weight is None:
                    added.append(view)
                else:
                    products.append((view, chunk.weight))
            total = part if images is not None else None if bias is None else bias[:, None]
            items.append(RowSum(part, total, products, added))
        return items

    def _bind_sum(self, calls: list[Call | StaticRow], item: RowSum) -> None:
        """All products of a sum as one, over gathered inputs."""
        target, added = item.target, item.added
        if not item.products:
            for step in sum_steps(target, item.total, [], added):
                calls += bind(step, self._temporary)
            return
        views, weights = zip(*item.products)
        is_started = item.total is target
        bias = None if is_started or item.total is None else item.total[:, 0]
        self._row_product(calls, list(views), torch.cat(weights), target, bias, is_started)
        calls += [partial(target.add_, view) for view in added]

    def _row_product(
        self,
        calls: list[Call | StaticRow],
        views: list[Tensor],
        weight: Tensor,
        target: Tensor,
        bias: Tensor | None,
        add: bool,
    ) -> None:
        n, count, _ = views[0].shape
        k, channels = weight.shape
        if len(views) == 1 and views[0].is_contiguous():
            flat = views[0].view(n * count, k)
        else:
            gathered = self._temporary("gathered", n, count, k)
            gather = partial(torch.cat, views, 2, out=gathered) if len(views) > 1 else partial(gathered.copy_, views[0])
            calls.append(gather)
            flat = gathered.view(n * count, k)
        if target.is_contiguous():
            out = target.view(n * count, channels)
            if add:
                calls.append(partial(out.addmm_, flat, weight))
            elif bias is not None and bias.shape[0] == 1:
                calls.append(partial(torch.addmm, bias, flat, weight, out=out))
            else:
                calls.append(partial(torch.mm, flat, weight, out=out))
                if bias is not None:
                    calls.append(partial(target.add_, bias[:, None]))
            return
        product = self._temporary("product", n, count, channels)
        calls.append(partial(torch.mm, flat, weight, out=product.view(n * count, channels)))
        if add:
            calls.append(partial(target.add_, product))
        elif bias is not None:
            calls.append(partial(torch.add, product, bias[:, None], out=target))
        else:
            calls.append(partial(target.copy_, product))

    def _temporary(self, role: str, *shape: int) -> Tensor:
        """Memory that lives for a few calls; one tensor for every role and shape."""
        if (role, shape) not in self.scratch:
            self.scratch[role, shape] = self.like.new_empty(shape)
        return self.scratch[role, shape]

    # binding pixels ---------------------------------------------------------------------------------------------

    def _products_of_one_sum(self, by_pixel: list[Value]) -> dict[int, Pointwise]:
        """The products of two values that one sum of the same pixel and nothing else reads: x + a b is one call."""
        readers: dict[int, list[tuple[Value, Read]]] = {}
        for value in self.graph.values:
            for read in value.reads:
                readers.setdefault(id(read.base), []).append((value, read))
        fused = {}
        for value in by_pixel:
            if not isinstance(value, Pointwise) or value.op != "mul" or self.buffers[id(value)].columns:
                continue
            its = readers.get(id(value), [])
            if len(its) != 1:  # the output of the network has no reader
                continue
            reader, read = its[0]
            if isinstance(reader, Affine) and read.weight is None and read.channels == value.channels:
                fused[id(value)] = value
        return fused

    def _pixel_steps(
        self, raw: int, raw_column: int, substep: int, values: list[tuple[Value, list[Pair]]] | None = None
    ) -> list[Step]:
        """What one sub-step of a pixel computes, before its draw: all of its values, or some of them."""
        steps: list[Step] = []
        for value, runs in self.pixel_values[substep] if values is None else values:
            # beyond the bottom a row still counts: its phase stands for all rows
            issue = self.times.of(value)
            row, off_row = divmod(raw - issue.row, value.stride[0])
            column, off_column = divmod(raw_column - issue.column, value.stride[1])
            if off_row or off_column or row < 0 or not 0 <= column < value.width:
                continue
            buffer = self.buffers[id(value)]
            for c0, c1 in runs:
                target = buffer.now[:, buffer.column(column), c0:c1]
                if isinstance(value, Affine):
                    steps += self._pixel_affine(value, row, column, c0, c1, target)
                elif isinstance(value, Attend):
                    steps.append(self._attend(value, column, substep, target))
                else:
                    assert isinstance(value, Pointwise)
                    views = [self._pixel_view(r, column, c0, c1, value) for r in value.args]
                    steps.append(self._pointwise(value, views, target, c0, c1))
        return steps

    def _attend(self, value: Attend, column: int, substep: int, target: Tensor) -> Step:
        """Attention at one pixel; the newest key and value go to the history first."""
        query, *others = value.reads
        buffer = self.buffers[id(query.base)]
        views = [buffer.now[:, buffer.column(column), query.c0 : query.c1]]
        lags = []
        for read in others:
            issue = self.times.of(read.base)
            known = issue.column <= self.times.of(value).column and self.times.groups(read.base)[-1][2] <= substep
            lag = 0 if known or not value.strict else 1
            buffer = self.buffers[id(read.base)]
            at = buffer.column((column - lag) % value.width)  # left of column 0: the end of the last row
            views.append(buffer.now[:, at, read.c0 : read.c1])
            lags.append(lag)
        return Step("attend", target, tuple(views), (self.histories[id(value)], column, *lags))

    def _pixel_view(self, read: Read, column: int, c0: int, c1: int, value: Pointwise) -> Tensor:
        buffer = self.buffers[id(read.base)]
        first, end = read.c0 + c0, read.c0 + c1
        if value.op == "concat_elu":
            first, end = read.c0, self._end_channel(value, read)
        return buffer.now[:, buffer.column(column), first:end]

    def _end_channel(self, value: Pointwise, read: Read) -> int:
        """Where an argument ends; concat_elu takes -x along where the storage has room for it."""
        return read.c1 + (read.channels if value.op == "concat_elu" and self.buffers[id(read.base)].twin else 0)

    def _pixel_affine(self, value: Affine, row: int, column: int, c0: int, c1: int, target: Tensor) -> list[Step]:
        sums = self.plan.sums[id(value)]
        phase: Pair = (row % sums.phases[0], column % sums.phases[1])
        step = column // sums.phases[1]
        products: list[tuple[Tensor, Tensor]] = []
        added: list[Tensor] = []
        factors: list[tuple[Tensor, Tensor]] = []
        for chunk in self._late_chunks(sums, phase):
            x = chunk.offset + chunk.step * step
            if x + chunk.width <= 0:  # all of it in the zero border
                continue
            buffer = self.buffers[id(chunk.read.base)]
            fused = self.fused.get(id(chunk.read.base))
            if fused is not None:
                a, b = (self._pixel_view(r, column, c0, c1, fused) for r in fused.args)
                factors.append((a, b))
                continue
            if chunk.weight is None:
                added.append(buffer.now[:, buffer.column(x), chunk.c0 + c0 : chunk.c0 + c1])
                continue
            weight, lo, hi = self._live_part(chunk, c0, c1)
            if lo == hi:
                continue
            n, size, channels = buffer.now.shape
            start = buffer.column(x) * channels + chunk.c0 + lo
            products.append((buffer.now.as_strided((n, hi - lo), (size * channels, 1), start), weight))
        total: Tensor | None = None  # what the sum holds so far: a view of something else at first, then the target
        if id(value) in self.row_sums:
            total = self._row_sum(value, column)[:, c0:c1]
        elif id(value) in self.biases:
            total = self.biases[id(value)][:, c0:c1]
        products.sort(key=lambda product: -product[1].shape[0])
        return sum_steps(target, total, products, added, factors)

    def _row_sum(self, value: Value, column: int) -> Tensor:
        """What was summed of a value at the start of the row, [N, C]."""
        return self.row_sums[id(value)][:, column]

    def _late_chunks(self, sums: Sums, phase: Pair) -> list[Chunk]:
        """What is summed per pixel."""
        return sums.late[phase]

    def _live_part(self, chunk: Chunk, c0: int, c1: int) -> tuple[Tensor, int, int]:
        """The weight for output channels c0:c1 without leading and trailing inputs that these never see."""
        assert chunk.weight is not None
        key = (id(chunk), c0, c1)
        if key not in self.live_parts:
            weight = chunk.weight[:, c0:c1]
            live = (weight != 0).any(1).nonzero().flatten()
            lo, hi = (int(live[0]), int(live[-1]) + 1) if len(live) else (0, 0)
            self.live_parts[key] = (weight[lo:hi].contiguous(), lo, hi)
        return self.live_parts[key]

    # elementwise functions --------------------------------------------------------------------------------------

    def _pointwise(self, value: Pointwise, views: list[Tensor], target: Tensor, c0: int, c1: int) -> Step:
        """One elementwise function on views [..., C] of any shape."""
        x = views[0]
        if value.op == "concat_elu":
            return Step("concat_elu", target, (x,), (value.channels // 2, c0, c1))
        if value.op == "mul":
            return Step("mul", target, (x, views[1]))
        if value.op == "scale":
            factor = value.params[0].tensor[:, :, 0, 0]  # [N or 1, C or 1]
            factor = factor if factor.shape[1] == 1 else factor[:, c0:c1]
            return Step("mul", target, (x, factor if x.dim() == 2 else factor[:, None]))
        return Step(value.op, target, (x,), value.params)
