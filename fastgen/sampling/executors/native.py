"""The program in compiled C: the start of a row is one call, its pixels with their draws another.

The images of a batch are shared among threads, which never wait for each other in between. Sums run in one order
whatever the batch, so the same weights and conditions give the same image, bit for bit, in any batch and with any
number of threads. (Weight norms and embeddings are PyTorch's, computed before the first row.)
"""

from __future__ import annotations

import ctypes
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgen._cpu.eager import REALS
from fastgen._cpu.toolchain import CompilerError, find_compiler, load
from fastgen.kernels.dmol.reference import MARGIN, MAX_DRAW_LOG_SCALE, min_log_scale
from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Likelihood
from fastgen.sampling.executors.cached import CachedExecutor, RowSum, StaticRow
from fastgen.sampling.executors.steps import History, Step, sum_steps
from fastgen.sampling.ir import Attend
from fastgen.sampling.plan import Plan

SOURCE = Path(__file__).with_name("native.c")
# in the order of the enumeration in native.c
_OPS = (
    "product", "add", "mul", "add_product", "copy", "zero", "concat_elu", "elu", "exp", "gelu", "leaky_relu", "neg",
    "relu", "sigmoid", "silu", "softplus", "tanh", "layer_norm", "attend",
    "draw_mixture", "draw_categorical", "draw_bernoulli", "unless_given",
)  # fmt: skip
_DEFAULTS = {"elu": (1.0, 1.0, 1.0), "gelu": ("none",), "leaky_relu": (0.01,), "softplus": (1.0, 20.0)}
_DRAWS: dict[type[Likelihood], str] = {
    DiscretizedLogisticMixture: "draw_mixture", Categorical: "draw_categorical", Bernoulli: "draw_bernoulli",
}  # fmt: skip
Address = tuple[int, int, int, int]  # of the first element; distances between images, columns, channels
_NOTHING: Address = (0, 0, 0, 0)

_operand = np.dtype([("at", np.uintp), ("image", np.int64), ("column", np.int64), ("channel", np.int64)])
_step = np.dtype([
    ("op", np.int32), ("channels", np.int32), ("k", np.int32), ("first", np.int32), ("column", np.int32),
    ("columns", np.int32), ("params", np.float64, 3), ("out", np.uintp), ("out_image", np.int64),
    ("out_column", np.int64), ("a", _operand), ("b", _operand), ("c", _operand), ("history", _operand),
    ("clock", np.uintp),
])  # fmt: skip


class Row(ctypes.Structure):
    _fields_ = (
        ("uniforms", ctypes.c_void_p), ("kept", ctypes.c_void_p), ("mask", ctypes.c_void_p),
        ("temperature", ctypes.c_void_p), ("joint_temperature", ctypes.c_double),
        ("margin", ctypes.c_double), ("min_log_scale", ctypes.c_double),
        ("max_log_scale", ctypes.c_double), ("half", ctypes.c_double),
        ("images", ctypes.c_int64), ("draws", ctypes.c_int64), ("colours", ctypes.c_int64),
    )  # fmt: skip


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why compiled programs cannot run on tensors of a device and dtype, or None if they can."""
    if device.type != "cpu":
        return f"it runs on the CPU; got {device.type}"
    if dtype not in REALS:
        return f"it computes in float32 or float64; got {dtype}"
    if find_compiler() is None:
        return "there is no C compiler; install gcc or clang, or set CC"
    try:
        library(dtype)
    except CompilerError as error:
        return str(error)
    return None


def library(dtype: torch.dtype) -> ctypes.CDLL:
    """The compiled native.c for a dtype.

    Raises: CompilerError.
    """
    built = load(SOURCE, REALS[dtype])
    if built.step_bytes() != _step.itemsize or built.row_bytes() != ctypes.sizeof(Row):
        raise CompilerError("the compiler lays structures out in another way")
    built.run.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    built.run.restype = None
    return built


class Program:
    """Encoded steps, and the ranges of them that are run apart."""

    def __init__(
        self, compiled: ctypes.CDLL, records: list[tuple[Any, ...]], pieces: list[list[tuple[int, int]]]
    ) -> None:
        self.compiled, self.steps, self.pieces = compiled, np.array(records, _step), pieces
        self.address = self.steps.ctypes.data

    def run(self, piece: tuple[int, int], images: tuple[int, int], row: Row | None = None) -> None:
        """Carry out the steps start:stop for images first:end. Other threads run meanwhile."""
        start, stop = piece
        context = None if row is None else ctypes.addressof(row)
        self.compiled.run(self.address + start * _step.itemsize, stop - start, context, *images)


class Encoder:
    """Turns steps into the records that native.c reads."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.lanes = int(library.lanes())
        self.packed: dict[int, tuple[Tensor, Tensor]] = {}  # by the address of the weight, which is kept alive

    def step(self, step: Step) -> tuple[Any, ...]:
        """The record of one step, whose tensors must stay alive."""
        channels, k, first = step.out.shape[-1], 0, 0
        if step.op == "attend":
            return self._attend(step)
        params = [*step.params, *_DEFAULTS.get(step.op, ())[len(step.params) :]]
        a, b, c = [*map(_address, step.args), _NOTHING, _NOTHING, _NOTHING][:3]
        if step.op == "product":
            *base, x, weight = step.args
            k = x.shape[-1]
            a, b, c = _address(x), (self._pack(weight).data_ptr(), 0, 0, 1), _address(base[0]) if base else _NOTHING
        elif step.op == "concat_elu":
            k, first, _ = params
            params = []
        elif step.op == "gelu":
            params = [params[0] == "tanh"]
        elif step.op in ("add", "mul") and a[-1] == 0:  # only the second operand may hold one value for all channels
            a, b = b, a
        return self._record(step.op, step.out, channels, (k, first, 0), params, (a, b, c))

    def draw(self, likelihood: Likelihood, params: Tensor, out: Tensor, first: int, column: int) -> tuple[Any, ...]:
        """The record of a draw of the channels `first` and on from their parameters."""
        k = likelihood.n_mix if isinstance(likelihood, DiscretizedLogisticMixture) else likelihood.levels
        where = (k, first, column)
        return self._record(
            _DRAWS[type(likelihood)], out, likelihood.channels, where, [], (_address(params), _NOTHING, _NOTHING)
        )

    def unless_given(self, out: Tensor, first: int, column: int, skipped: int) -> tuple[Any, ...]:
        """The record of a look at what is given: where a whole pixel is, it goes to `out`, and what follows is skipped.

        `out` holds the channels `first` and on; `skipped` counts the records that compute and draw them.
        """
        nothing = (_NOTHING, _NOTHING, _NOTHING)
        return self._record("unless_given", out, out.shape[-1], (skipped, first, column), [], nothing)

    def _attend(self, step: Step) -> tuple[Any, ...]:
        history: History
        history, column, *lags = step.params
        params = [history.key_channels, history.positions, history.width]
        where = (history.heads, int(history.strict), column)
        query, *others = map(_address, step.args)
        key, value = ((at, image, lag, channel) for (at, image, _, channel), lag in zip(others, lags))
        record = self._record("attend", step.out, step.out.shape[-1], where, params, (query, key, value))
        return (*record[:-2], _address(history.memory), history.clock.ctypes.data)

    def _record(
        self,
        op: str,
        out: Tensor,
        channels: int,
        where: tuple[int, int, int],
        params: list[Any],
        operands: tuple[Address, Address, Address],
    ) -> tuple[Any, ...]:
        numbers = tuple(float(p) for p in [*params, 0, 0, 0][:3])
        at, image, column, _ = _address(out)
        columns = out.shape[1] if out.dim() == 3 else 1
        return (_OPS.index(op), channels, *where, columns, numbers, at, image, column, *operands, _NOTHING, 0)

    def _pack(self, weight: Tensor) -> Tensor:
        """Panels of neighbouring columns, [inputs, columns] each, the last one filled up with zeros."""
        key = weight.data_ptr()
        if key not in self.packed:
            channels = weight.shape[1]
            panels, column = [], 0
            while column < channels:
                width = 2 * self.lanes if channels - column > self.lanes else self.lanes
                part = weight[:, column : column + width]
                panels.append(torch.nn.functional.pad(part, (0, width - part.shape[1])).flatten())
                column += width
            self.packed[key] = (torch.cat(panels), weight)
        return self.packed[key][0]


def _address(tensor: Tensor) -> Address:
    """Where [N or 1, C or 1] or [N or 1, W or 1, C or 1] lies, and its strides; 0 where one value stands for all."""
    strides = [stride if size > 1 else 0 for size, stride in zip(tensor.shape, tensor.stride())]
    return (tensor.data_ptr(), strides[0], strides[1] if len(strides) == 3 else 0, strides[-1])


class NativeExecutor(CachedExecutor):
    """The cached executor with its programs in C.

    Exactness: the same formulas as PyTorch's, each sum in one order, elementary functions to a few units of rounding.
    """

    def __init__(self, plan: Plan, n: int, like: Tensor, likelihood: Likelihood, keep_parameters: bool = False) -> None:
        super().__init__(plan, n, like)
        # what the last row that `draw_row` drew was drawn from, [N, W, P]
        width, out = self.graph.image.width, self.graph.output
        self.row_parameters = like.new_zeros(n, width, out.channels) if keep_parameters else None
        self.likelihood = likelihood
        self.only_for_draws = set() if keep_parameters else self._only_for_draws()
        self.compiled = library(like.dtype)
        self.encoder = Encoder(self.compiled)
        self.rows: dict[int, tuple[Program, list[tuple[int, StaticRow]]]] = {}
        self.programs: dict[int, Program] = {}
        threads = max(1, min(torch.get_num_threads(), n))
        self.everyone = (0, n)
        self.shares = [(n * t // threads, n * (t + 1) // threads) for t in range(threads)]
        self.pool = ThreadPoolExecutor(threads - 1, "fastgen") if threads > 1 else None
        self.current: Program

    def begin_row(self, row: int) -> None:
        """Run the row program, and choose the pixels' program of this row."""
        self._run_row(row)
        key = self._representative(row, self.plan.period[0])
        if key not in self.programs:
            self.programs[key] = self._encode_pixels(key)
        self.current = self.programs[key]

    def _run_row(self, raw: int) -> None:
        self.clock[0] = raw
        key = self._representative(raw, self.row_period)
        if key not in self.rows:
            self.rows[key] = self._encode_row(key)
        program, statics = self.rows[key]
        for index, item in statics:
            program.steps["a"]["at"][index] = item.source(raw).data_ptr()
        self._run_all(program, None)

    def _run_all(self, program: Program, row: Row | None, steps: int | None = None) -> None:
        """All steps or the first ones, for all images, by all threads."""
        whole = (0, len(program.steps) if steps is None else steps)
        others: list[Future[None]] = []
        if self.pool is not None:
            others = [self.pool.submit(program.run, whole, share, row) for share in self.shares[1:]]
        program.run(whole, self.shares[0], row)
        for other in others:
            other.result()

    def parameters(self, column: int, substep: int) -> Tensor:
        """Run the pixel's program up to its draw; parameters [N, P]."""
        self.current.run(self.current.pieces[column][substep], self.everyone)
        return self.results[column % len(self.results)]

    def end_row(self) -> None:
        """Compute the values that lag behind the pixel, up to the end of the row."""
        for pieces in self.current.pieces[self.graph.image.width :]:
            for piece in pieces:
                self.current.run(piece, self.everyone)

    def draws(self, likelihood: Likelihood) -> bool:
        """Whether `draw_row` can draw from a likelihood."""
        return likelihood == self.likelihood and type(likelihood) in _DRAWS

    def draw_row(self, uniforms: Tensor, temperature: Tensor, kept: Tensor | None, mask: Tensor | None) -> Tensor:
        """All pixels of the row that has begun, drawn: [N, W, C], valid until the next row. Ends the row.

        Shapes: uniforms float32 [W, N, U]; temperature float64 [C]; kept [W, N, C] in [-1, 1] and mask bool
            [W, N, C], or None; all contiguous.
        """
        self._run_all(self.current, row_context(self.likelihood, uniforms, temperature, kept, mask))
        image = self.buffers[id(self.graph.image)]
        return image.now[:, image.left : image.left + self.graph.image.width, : self.graph.image.channels]

    def _encode_row(self, key: int) -> tuple[Program, list[tuple[int, StaticRow]]]:
        """The start of a row, and the steps whose source must be set to the row's."""
        steps: list[Step] = []
        statics: list[tuple[int, StaticRow]] = []
        for item in self._row_items(key):
            if isinstance(item, StaticRow):
                statics.append((len(steps), item))
                steps.append(Step("copy", item.target, (item.images[0],)))
            elif isinstance(item, RowSum):
                steps += sum_steps(item.target, item.total, item.products, item.added)
            else:
                steps.append(item)
        return Program(self.compiled, [self.encoder.step(step) for step in steps], []), statics

    def _encode_pixels(self, key: int) -> Program:
        """All steps of a row of pixels, with a draw after each sub-step."""
        records: list[tuple[Any, ...]] = []
        pieces: list[list[tuple[int, int]]] = []
        for column in range(self.end_column):
            pieces.append([])
            for substep in range(self.substeps):
                start = len(records)
                more, draws = self._encode_substep(key, column, substep, column)
                records += more
                pieces[-1].append((start, len(records) - draws))
            if column < self.graph.image.width:
                records += self._encode_kept(column)
        return Program(self.compiled, records, pieces)

    def _encode_substep(self, key: int, column: int, substep: int, place: int) -> tuple[list[tuple[Any, ...]], int]:
        """What a sub-step computes, and its draw with the noise that stands at `place`; the number of draws, 0 or 1.

        What only the draw needs comes last, so that it can be skipped with the draw where the pixel is given.
        """
        values = self.pixel_values[substep]
        parts = [[item for item in values if (id(item[0]) in self.only_for_draws) == only] for only in (False, True)]
        first, last = ([self.encoder.step(s) for s in self._pixel_steps(key, column, substep, part)] for part in parts)
        if column >= self.graph.image.width or type(self.likelihood) not in _DRAWS:
            return first + last, 0
        last.append(self._encode_draw(column, substep, place))
        if self.only_for_draws:
            target = self.targets[column % len(self.targets)][substep]
            first.append(self.encoder.unless_given(target, substep if self.substeps > 1 else 0, place, len(last)))
        return first + last, 1

    def _only_for_draws(self) -> set[int]:
        """The values that nothing reads but the draw of their own pixel, and others of these."""
        readers: dict[int, list[int]] = {id(self.graph.output.base): []}
        for value in self.graph.values:
            for read in value.reads:
                readers.setdefault(id(read.base), []).append(id(value))
        found: set[int] = set()
        for value in reversed(self.graph.values[1:]):
            issue = self.times.of(value)
            here = not issue.per_row and (issue.row, issue.column, value.stride) == (0, 0, (1, 1))
            kept = isinstance(value, Attend) or self.buffers[id(value)].columns  # read at later pixels
            if here and not kept and id(value) in readers and found.issuperset(readers[id(value)]):
                found.add(id(value))
        return found

    def _encode_kept(self, column: int) -> list[tuple[Any, ...]]:
        """The copy of the parameters of a pixel that has been drawn, where they are wanted."""
        if self.row_parameters is None:
            return []
        return [
            self.encoder.step(Step("copy", self.row_parameters[:, column], (self.results[column % len(self.results)],)))
        ]

    def _encode_draw(self, column: int, substep: int, place: int) -> tuple[Any, ...]:
        """A draw at a column, with the noise that stands at `place` in the row's."""
        likelihood, params, first = self.likelihood, self.results[column % len(self.results)], 0
        if self.substeps > 1:
            likelihood, part, draws = self.likelihood.channel(substep)
            params, first = params[:, part], draws.start
        return self.encoder.draw(likelihood, params, self.targets[column % len(self.targets)][substep], first, place)


def row_context(
    likelihood: Likelihood, uniforms: Tensor, temperature: Tensor, kept: Tensor | None, mask: Tensor | None
) -> Row:
    """What the draws of a row need to know, besides their parameters; the tensors must stay alive.

    Shapes: uniforms [W, N, U]; temperature float64 [C]; kept, mask [W, N, C].
    """
    kept_at, mask_at = (None, None) if kept is None or mask is None else (kept.data_ptr(), mask.data_ptr())
    lowest = min_log_scale(likelihood.bits) if isinstance(likelihood, DiscretizedLogisticMixture) else 0.0
    limits = (MARGIN, lowest, MAX_DRAW_LOG_SCALE, (likelihood.levels - 1) / 2)
    _, images, draws = uniforms.shape
    temperatures = (temperature.data_ptr(), float(temperature.mean()))
    return Row(uniforms.data_ptr(), kept_at, mask_at, *temperatures, *limits, images, draws, likelihood.channels)
