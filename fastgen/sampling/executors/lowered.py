"""The plan as launches, carried out one after another: by their PyTorch reference on any device, or by kernels.

A row is a program that does not know which row it is: what differs between rows of one phase is brought into fixed
memory at its start, by a row number that lies on the device. So a device that repeats the program needs no host.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fastgen.functional import pixel_draw, pixel_step
from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Likelihood
from fastgen.sampling.executors.cached import CachedExecutor, StaticRow
from fastgen.sampling.executors.lowering import Draw, Launch, Unit, annotated, fuse
from fastgen.sampling.executors.steps import Call, History, Step, bind
from fastgen.sampling.executors.stream import columns_of, ring_sizes
from fastgen.sampling.ir import Pair, Value
from fastgen.sampling.plan import Chunk, Plan, Sums

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
COLUMNS = 64  # of a long sequence, that are one program
KINDS: dict[type[Likelihood], str] = {
    DiscretizedLogisticMixture: "mixture", Categorical: "categorical", Bernoulli: "bernoulli",
}  # fmt: skip


class DeviceHistory(History):
    """What attention has seen, written and read at a position that only the device knows.

    All positions are scored and those that have not come yet are left out: twice the work, in one fixed shape.
    """

    def __init__(self, other: History, row: Tensor) -> None:
        self.__dict__.update(other.__dict__)
        self.row = row
        self.order = torch.arange(self.positions, device=row.device)

    def attend(
        self, out: Tensor, query: Tensor, key: Tensor, value: Tensor, column: int, key_lag: int, value_lag: int
    ) -> None:
        """out = softmax(q k / sqrt(d)) v; `key` and `value` are those of the position that lies their lag back."""
        position = self.row * self.width + column
        # before the first position is the first: what it is given there is replaced before it is read
        self.keys.index_copy_(2, (position - key_lag).clamp_(min=0), key.unsqueeze(2))
        self.values.index_copy_(2, (position - value_lag).clamp_(min=0), value.unsqueeze(2))
        n, count = len(query), position + (1 - self.strict)
        keys, values = self.keys.unflatten(1, (self.heads, -1)), self.values.unflatten(1, (self.heads, -1))
        scores = torch.einsum("nhd,nhdp->nhp", query.view(n, self.heads, -1), keys) / math.sqrt(keys.shape[2])
        seen = self.order < count
        # with nothing to see all weights are zero
        weights = torch.softmax(scores.masked_fill(~seen, -torch.inf), 2).masked_fill(~seen, 0)
        out.copy_(torch.einsum("nhp,nhdp->nhd", weights, values).reshape(n, -1))


def call_of(unit: Launch | Draw, impl: str) -> Call:
    """What carries a launch or a draw out."""
    if isinstance(unit, Launch):
        return partial(
            pixel_step,
            [(product.x, product.weight) for product in unit.products],
            added=unit.added,
            factors=unit.factors,
            gate=unit.gate,
            residuals=unit.residuals,
            stores=[(store.out, store.function, store.params) for store in unit.stores],
            impl=impl,
        )
    operands = (unit.params, unit.uniforms, unit.kept, unit.temperature, unit.out)
    kind = KINDS[type(unit.likelihood)]
    return partial(pixel_draw, *operands, kind=kind, levels=unit.likelihood.levels, first=unit.first, impl=impl)


def run_reference(unit: Unit) -> None:
    """Carry out a unit by plain PyTorch: what any other way to run it is held against."""
    calls = bind(unit, _fresh(unit.out)) if isinstance(unit, Step) else [call_of(unit, "reference")]
    for call in calls:
        call()


def _fresh(like: Tensor) -> Callable[..., Tensor]:
    return lambda role, *shape: like.new_empty(shape)


class LoweredExecutor(CachedExecutor):
    """The cached executor with its pixels as launches and its draws among them.

    `precision` is that of the weights of the pixels' products ("float32", "bfloat16", "float16"; None: as they are):
    their inputs are rounded to it, sums and everything else stay in the dtype of the model. `impl` says how a launch
    runs, as in `pixel_step`.
    """

    def __init__(
        self,
        plan: Plan,
        n: int,
        like: Tensor,
        likelihood: Likelihood,
        keep_parameters: bool = False,
        *,
        precision: str | None = None,
        impl: str = "auto",
    ) -> None:
        super().__init__(plan, n, like)
        height, width = self._size()
        self.likelihood, self.impl = likelihood, impl
        self.weight_dtype = None if precision is None else PRECISIONS[precision]
        self.weights: dict[tuple[int, torch.Size], Tensor] = {}
        self.row = torch.zeros(1, dtype=torch.int64, device=like.device)
        self.histories = {key: DeviceHistory(history, self.row) for key, history in self.histories.items()}
        # of all images, by rows, and of the row that is being drawn
        self.noise = torch.zeros(height, width, n, likelihood.n_draws, device=like.device)
        self.kept = like.new_full((height, width, n, likelihood.channels), torch.nan)
        self.row_noise, self.row_kept = torch.empty_like(self.noise[:1]), torch.empty_like(self.kept[:1])
        self.temperature = torch.ones(1 + likelihood.channels, dtype=torch.float64, device=like.device)
        self.drawn_from = like.new_zeros(n, width, likelihood.n_params) if keep_parameters else None
        self.static_index = torch.zeros_like(self.row)
        self.row_starts: dict[int, list[Call]] = {}
        self.row_units: dict[int, list[list[Unit]]] = {}
        self.row_calls: dict[int, list[list[list[Call]]]] = {}
        self.begun = 0  # the row
        self.key: int | None = None  # of its program, once it has started

    def _size(self) -> Pair:
        """How many rows, and how many columns a row of a program has."""
        return self.image_shape[1:]

    @property
    def row_parameters(self) -> Tensor | None:
        """What the last row was drawn from, [N, W, P], if that is kept."""
        return self.drawn_from

    # running ----------------------------------------------------------------------------------------------------

    def draws(self, likelihood: Likelihood) -> bool:
        """Whether `draw_row` can draw from a likelihood."""
        return likelihood == self.likelihood and type(likelihood) in KINDS

    @torch.inference_mode()
    def set_images(self, uniforms: Tensor, temperature: Tensor, kept: Tensor | None, mask: Tensor | None) -> None:
        """What the draws of all rows need.

        Shapes: uniforms float32 [H W, N, U]; temperature float64 [C]; kept [H W, N, C] in [-1, 1], and where it is
            kept, bool [H W, N, C], or None.
        """
        self.noise.flatten(0, 1)[: len(uniforms)] = uniforms
        self.temperature.copy_(torch.cat((temperature.mean()[None], temperature)))
        self.kept.fill_(torch.nan)
        if kept is not None and mask is not None:
            self.kept.flatten(0, 1)[: len(kept)] = torch.where(mask, kept, torch.nan)

    def begin_row(self, row: int) -> None:
        """Remember the row; it starts with its first pixel."""
        self.begun, self.key = row, None

    def parameters(self, column: int, substep: int) -> Tensor:
        """Run a pixel's launches up to its draw; parameters [N, P]."""
        for call in self._started(column)[substep]:
            call()
        return self.results[column % len(self.results)]

    def end_row(self) -> None:
        """Compute the values that lag behind the pixel, up to the end of the row."""
        for column in range(self.graph.image.width, self.end_column):
            for call in (call for piece in self._started(column) for call in piece):
                call()

    def draw_row(self) -> Tensor:
        """All pixels of the row that has begun, drawn: [N, W, C], valid until the next row. Ends the row."""
        self.row.fill_(self.begun)
        self.run_row(self._representative(self.begun, self.row_period))
        image = self.buffers[id(self.graph.image)]
        return image.now[:, image.left : image.left + self.graph.image.width, : self.graph.image.channels]

    def run_row(self, key: int) -> None:
        """A whole row with its draws, the number of which is on the device."""
        for call in self.row_program(key):
            call()

    def row_program(self, key: int) -> list[Call]:
        """Everything that a row does."""
        return [*self._bring(), *self.row_start(key), *self._unit_calls(key)]

    def _bring(self) -> list[Call]:
        """What brings noise and given pixels of the row to their places."""
        pairs = ((self.noise, self.row_noise), (self.kept, self.row_kept))
        return [partial(torch.index_select, every, 0, self.row, out=one) for every, one in pairs]

    def _unit_calls(self, key: int) -> list[Call]:
        return [call for column in self.units(key) for unit in column for call in self.calls(unit)]

    def _started(self, column: int) -> list[list[Call]]:
        """By sub-step what is called before the draws of a pixel; starts its row, if it has not."""
        if self.key is None:
            self._run_row(self.begun)
            self.key = self._representative(self.begun, self.row_period)
        return self._pieces(self.key)[column]

    def _pieces(self, key: int) -> list[list[list[Call]]]:
        """The calls of a row by column and sub-step, without the draws."""
        if key not in self.row_calls:
            self.row_calls[key] = []
            for units in self.units(key):
                pieces: list[list[Call]] = [[]]
                for unit in units:
                    if isinstance(unit, Draw):
                        pieces.append([])
                    else:
                        pieces[-1] += self.calls(unit)
                self.row_calls[key].append(pieces)
        return self.row_calls[key]

    def _run_row(self, raw: int) -> None:
        self.row.fill_(raw)
        for call in self.row_start(self._representative(raw, self.row_period)):
            call()

    # lowering ---------------------------------------------------------------------------------------------------

    def calls(self, unit: Unit) -> list[Call]:
        """What carries a unit out."""
        return bind(unit, self._temporary) if isinstance(unit, Step) else [call_of(unit, self.impl)]

    def row_start(self, key: int) -> list[Call]:
        """The start of the rows of a phase, without the number of the row."""
        if key not in self.row_starts:
            self.row_starts[key] = [
                partial(self._static_row, call) if isinstance(call, StaticRow) else call
                for call in self._row_program(key)
            ]
        return self.row_starts[key]

    def _static_row(self, item: StaticRow) -> None:
        torch.sub(self.row, item.offset, out=self.static_index).floor_divide_(item.stride)
        staged = self._temporary("static row", 1, *item.images.shape[1:])
        torch.index_select(item.images, 0, self.static_index, out=staged)
        item.target.copy_(staged[0])

    def units(self, key: int) -> list[list[Unit]]:
        """The launches, draws and other steps of the rows of a phase, column by column."""
        if key not in self.row_units:
            columns = [fuse(items, self._transient()) for items in self._columns(key)]
            program = iter(annotated([self._cast(unit) for column in columns for unit in column]))
            self.row_units[key] = [[next(program) for _ in column] for column in columns]
        return self.row_units[key]

    def launches(self) -> tuple[float, tuple[tuple[str, float], ...]]:
        """Kernels a pixel, and the steps that have none, each a pixel: on average over a typical period of rows."""
        keys = self._typical()
        units = [unit for key in keys for column in self.units(key) for unit in column]
        pixels = len(keys) * self._size()[1]
        steps = [unit.op for unit in units if isinstance(unit, Step)]
        unfused = {op: steps.count(op) / pixels for op in sorted(set(steps))}
        return (len(units) - len(steps)) / pixels, tuple(unfused.items())

    def _typical(self) -> list[int]:
        """The programs of one period of rows."""
        height = self.image_shape[1]
        start = min(max(self.regular.start, 0), height - 1)
        return [
            self._representative(row, self.row_period) for row in range(start, min(start + self.row_period, height))
        ]

    def _columns(self, key: int) -> list[list[Step | Draw]]:
        """The steps and draws of a row, by column."""
        return [self._column(key, column, column) for column in range(self.end_column)]

    def _column(self, key: int, column: int, place: int) -> list[Step | Draw]:
        """The steps and draws of a pixel; its noise and what is kept of it lie at `place`."""
        items: list[Step | Draw] = []
        inside = column < self.graph.image.width
        for substep in range(self.substeps):
            items += self._pixel_steps(key, column, substep)
            if inside:
                items.append(self._draw(column, substep, place))
        if inside and self.drawn_from is not None:
            items.append(Step("copy", self.drawn_from[:, place], (self.results[column % len(self.results)],)))
        return items

    def _draw(self, column: int, substep: int, place: int) -> Draw:
        likelihood, params = self.likelihood, self.results[column % len(self.results)]
        noise, kept, first = self.row_noise[0, place], self.row_kept[0, place], 0
        if self.substeps > 1:
            likelihood, part, draws = self.likelihood.channel(substep)
            params, noise, kept, first = params[:, part], noise[:, draws], kept[:, substep : substep + 1], substep
        target = self.targets[column % len(self.targets)][substep]
        return Draw(likelihood, params, noise, kept, target, self.temperature, first)

    def _transient(self) -> set[int]:
        """The memories that nothing reads after the pixel."""
        kept = self.buffers[id(self.graph.output.base)]
        return {
            buffer.now.untyped_storage().data_ptr()
            for buffer in self.buffers.values()
            if not buffer.columns and buffer is not kept
        }

    def _cast(self, unit: Unit) -> Unit:
        """The unit with its weights in the precision that was asked for, each of them rounded once."""
        if not isinstance(unit, Launch) or self.weight_dtype in (None, self.like.dtype):
            return unit
        products = []
        for product in unit.products:
            key = (product.weight.data_ptr(), product.weight.shape)
            if key not in self.weights:
                self.weights[key] = product.weight.to(self.weight_dtype)
            products.append(replace(product, weight=self.weights[key]))
        return replace(unit, products=tuple(products))


class LoweredStreamExecutor(LoweredExecutor):
    """The launches of one row of many columns; `StreamExecutor.fits` says for which plans.

    Pieces of `COLUMNS` columns take the place of rows. Caches are rings of columns, so that the pieces of one phase of
    all rings are one program; what has as many columns as the sequence is brought to a window of a piece.
    """

    def __init__(
        self,
        plan: Plan,
        n: int,
        like: Tensor,
        likelihood: Likelihood,
        keep_parameters: bool = False,
        *,
        precision: str | None = None,
        impl: str = "auto",
    ) -> None:
        self.rings = ring_sizes(plan)
        self.split: dict[int, list[Chunk]] = {}
        self.period = max(COLUMNS, *self.rings.values())
        super().__init__(plan, n, like, likelihood, keep_parameters, precision=precision, impl=impl)
        pieces, _ = self._size()
        self.order = torch.arange(COLUMNS, device=like.device)
        self.drawn = like.new_zeros(n, COLUMNS, likelihood.channels)
        self.all_drawn = like.new_zeros(n, pieces * COLUMNS, likelihood.channels)
        self.all_drawn_from = like.new_zeros(n, pieces * COLUMNS, likelihood.n_params) if keep_parameters else None
        # by value: its sums [N, columns, C], how many columns it lags behind the draw, and those of a piece
        self.windows = {
            id(value): (sums, self.times.of(value).column, sums.new_zeros(n, COLUMNS, value.channels))
            for value in self.graph.values
            if (sums := self.row_sums.get(id(value))) is not None
        }
        # some values start after the first column; from here on the pieces of a phase compute the same
        self.head = max(self.times.of(v).column for v in self.graph.values if not self.times.of(v).per_row)
        self.piece = -1

    @property
    def row_parameters(self) -> Tensor | None:
        """What the row was drawn from, [N, W, P], if that is kept."""
        return None if self.all_drawn_from is None else self.all_drawn_from[:, : self.image_shape[2]]

    def _size(self) -> Pair:
        return -(-self.image_shape[2] // COLUMNS), COLUMNS

    # running ----------------------------------------------------------------------------------------------------

    def begin_row(self, row: int) -> None:
        """Compute what is known before the first column."""
        self._run_row(row)
        self.piece = -1

    def end_row(self) -> None:
        """No row follows."""

    def draw_row(self) -> Tensor:
        """All columns, drawn: [N, W, C], valid until the next call."""
        for piece in range(self._size()[0]):
            self.row.fill_(piece)
            self.run_row(self._key(piece))
        return self.all_drawn[:, : self.image_shape[2]]

    def row_program(self, key: int) -> list[Call]:
        """Everything that a piece does."""
        out = [partial(self._take_back, self.drawn, self.all_drawn)]
        if self.drawn_from is not None and self.all_drawn_from is not None:
            out.append(partial(self._take_back, self.drawn_from, self.all_drawn_from))
        return [*self._bring(), *self._unit_calls(key), *out]

    def _bring(self) -> list[Call]:
        return [*super()._bring(), self._bring_windows]

    def _bring_windows(self) -> None:
        for sums, lag, window in self.windows.values():
            # outside of the row nobody reads
            index = torch.add(self.order, self.row * COLUMNS - lag).clamp_(0, sums.shape[1] - 1)
            torch.index_select(sums, 1, index, out=window)

    def _take_back(self, window: Tensor, every: Tensor) -> None:
        every.index_copy_(1, self.order + self.row * COLUMNS, window)

    def _started(self, column: int) -> list[list[Call]]:
        piece, place = divmod(column, COLUMNS)
        pieces = self._pieces(self._key(piece))
        if piece != self.piece:
            self.row.fill_(piece)
            for call in self._bring():
                call()
            self.piece = piece
        return pieces[place]

    def _key(self, piece: int) -> int:
        """The program of a piece: below 0 for one that some values have not started in, else the phase of the rings."""
        return -1 - piece if piece * COLUMNS < self.head else piece % (self.period // COLUMNS)

    # lowering ---------------------------------------------------------------------------------------------------

    def _typical(self) -> list[int]:
        return [self._key(self._size()[0] - 1 - (self.image_shape[2] % COLUMNS > 0 and self._size()[0] > 1))]

    def _columns(self, key: int) -> list[list[Step | Draw]]:
        width, columns = self.image_shape[2], []
        for place in range(COLUMNS):
            column = (-1 - key if key < 0 else key) * COLUMNS + place
            if key >= 0 and column < width:
                # the last column of this place: only there do all taps lie inside the sequence that ever do
                column += (width - 1 - column) // self.period * self.period
            items = self._column(0, column, place) if column < width else []
            if items:
                image = self.buffers[id(self.graph.image)]
                now = image.now[:, image.column(column), : self.image_shape[0]]
                items.append(Step("copy", self.drawn[:, place], (now,)))
            columns.append(items)
        return columns

    def _ring(self, value: Value) -> int:
        return self.rings.get(id(value), 0)

    def _late_chunks(self, sums: Sums, phase: Pair) -> list[Chunk]:
        """Single columns, as neighbours in a ring may lie at both its ends."""
        key = id(sums)
        if key not in self.split:
            self.split[key] = [part for chunk in sums.late[phase] for part in columns_of(chunk)]
        return self.split[key]

    def _row_sum(self, value: Value, column: int) -> Tensor:
        _, lag, window = self.windows[id(value)]
        return window[:, (column + lag) % COLUMNS]
