"""What the engine has made of a model: what is computed once, once per row, once per pixel, and what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from fastgen.sampling.ancestral import _check_cond, _executor, _shape_of
from fastgen.sampling.dense import DenseExecutor, DenseNativeExecutor
from fastgen.sampling.dense.recording import Constant, Dot, Image, Product
from fastgen.sampling.executors import (
    CachedExecutor,
    LoweredExecutor,
    MegakernelExecutor,
    MegakernelStreamExecutor,
    NaiveExecutor,
    NativeExecutor,
)
from fastgen.sampling.ir import Affine, Attend, Input, Pointwise, Value
from fastgen.sampling.order import in_drawing_order

Cost = tuple[str, str, tuple[int, int, int, int]]  # path, when, and the four numbers of a part
_NUMBERS = ("values", "operations", "functions", "cache_bytes")


@dataclass(frozen=True)
class Part:
    """What one module computes at one time.

    Attributes:
        path: of the module in the model; "" is the model itself.
        when: "row" (at the start of a row), "pixel", or "image" for what the sampler draws.
        values: how many tensors of the network.
        operations: multiplications with weights, keys and values, for one whole image.
        functions: elements of elementwise functions and of sums, for one whole image.
        cache_bytes: what is kept of them for later pixels, for one image.
    """

    path: str
    when: str
    values: int
    operations: int
    functions: int
    cache_bytes: int


@dataclass(frozen=True)
class Explanation:
    """A plan in numbers; printed, a table.

    Attributes:
        method: one of `available_methods`: what method="auto" takes, or what was asked for.
        shape: (C, H, W) of the image.
        substeps: how many times a pixel's channels are drawn one after another.
        parts: in the order of the network.
        launches: with "cuda_graph", how many kernels a pixel takes on average, draws included; 0 for a model over
            flattened images, which runs as PyTorch calls.
        unfused: the steps of a pixel that have no kernel and run as PyTorch calls inside the graph: how many of each.
    """

    method: str
    shape: tuple[int, int, int]
    substeps: int
    parts: tuple[Part, ...]
    launches: float = 0.0
    unfused: tuple[tuple[str, float], ...] = ()

    @property
    def operations(self) -> int:
        """Multiplications for one image."""
        return sum(part.operations for part in self.parts)

    @property
    def cache_bytes(self) -> int:
        """Bytes that are kept for one image."""
        return sum(part.cache_bytes for part in self.parts)

    def __str__(self) -> str:
        """A line for each part, and the totals."""
        channels, height, width = self.shape
        draws = f", channels drawn in {self.substeps} steps" if self.substeps > 1 else ""
        lines = [f"{channels}x{height}x{width}, method {self.method!r}{draws}"]
        if self.method == "cuda_graph":
            lines.append(self._launched())
        if not self.parts:
            return lines[0] + ": one full forward for every pixel"
        rows: list[tuple[str, ...]] = [("module", "when", "values", "operations", "functions", "cache bytes")]
        rows += [
            (part.path or "(model)", part.when, *(f"{getattr(part, name):,}" for name in _NUMBERS))
            for part in self.parts
        ]
        total = (sum(getattr(part, name) for part in self.parts) for name in _NUMBERS)
        rows.append(("total", "", *(f"{n:,}" for n in total)))
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines += [
            "  ".join(
                cell.ljust(w) if k < 2 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths))
            ).rstrip()
            for row in rows
        ]
        return "\n".join(lines)

    def _launched(self) -> str:
        if not self.launches:
            return "no kernels: a model over flattened images runs as PyTorch calls"
        rest = ", ".join(f"{count:.3g} {op}" for op, count in self.unfused)
        return f"{self.launches:.3g} kernels a pixel; PyTorch calls in the same graph: {rest or 'none'}"


def explain(
    model: nn.Module, shape: tuple[int, ...] | None = None, *, cond: Any = None, method: str = "auto"
) -> Explanation:
    """Derive the sampler of a model and say what it does, module by module, without drawing anything.

    `shape`, `cond` and `method` are those of `sample`, for one image; method="cuda_graph" is explained on any device.

    Raises: as `sample`.
    """
    model = in_drawing_order(model)
    shape = _shape_of(model, shape, None)
    image = next(model.parameters()).new_zeros(1, *shape)
    executor = _executor(model, image, _check_cond(model, cond, 1), method, explaining=True)
    if isinstance(executor, NaiveExecutor):
        return Explanation("naive", executor.image_shape, executor.substeps, ())
    parts: dict[tuple[str, str], list[int]] = {}
    for path, when, numbers in (
        _flat_costs(executor) if isinstance(executor, DenseExecutor) else _raster_costs(executor)
    ):
        total = parts.setdefault((path, when), [0, 0, 0, 0])
        for k, number in enumerate(numbers):
            total[k] += number
    launches: tuple[float, tuple[tuple[str, float], ...]] = (0.0, ())
    ran = "native" if isinstance(executor, (NativeExecutor, DenseNativeExecutor)) else "cached"
    if method == "cuda_graph":  # of flattened images too, though these take no launches
        ran = method
    if isinstance(executor, LoweredExecutor):
        launches = executor.launches()
        ran = "megakernel" if isinstance(executor, (MegakernelExecutor, MegakernelStreamExecutor)) else "cuda_graph"
    parts_by_module = tuple(Part(*key, *n) for key, n in parts.items())
    return Explanation(ran, executor.image_shape, executor.substeps, parts_by_module, *launches)


def _flat_costs(executor: DenseExecutor) -> Iterator[Cost]:
    """The costs of a model over flattened images: what of its layers is computed, each element once."""
    for node, store in zip(executor.nodes, executor.plan.stores):
        if isinstance(node, Constant) or not len(store.elements):
            continue
        operations = functions = 0
        if isinstance(node, Product):
            operations = int((node.weight != 0).sum(0).numpy()[store.elements % node.weight.shape[1]].sum())
        elif isinstance(node, Dot):
            operations = int((node.weight != 0).sum(1).numpy()[store.elements].sum())
        elif not isinstance(node, Image):
            functions = len(store.elements)
        kept = store.size * executor.like.element_size()
        yield node.path, "image" if isinstance(node, Image) else "pixel", (1, operations, functions, kept)


def _raster_costs(executor: Any) -> Iterator[Cost]:
    assert isinstance(executor, CachedExecutor)
    for value in executor.graph.values:
        for when, numbers in _costs(executor, value):
            yield value.path, when, numbers


def _costs(executor: CachedExecutor, value: Value) -> list[tuple[str, tuple[int, int, int, int]]]:
    """(when, (values, operations, functions, bytes)) of a value."""
    buffer = executor.buffers[id(value)]
    kept = (buffer.now.nbytes + sum(past.nbytes for past in buffer.past)) if buffer.columns else 0
    places = value.height * value.width
    if isinstance(value, Input):
        return [("image", (1, 0, 0, kept))]
    when = "row" if executor.times.of(value).per_row else "pixel"
    if isinstance(value, Pointwise):
        return [(when, (1, 0, places * value.channels, kept))]
    if isinstance(value, Attend):
        history = executor.histories[id(value)].memory.nbytes
        pairs = places * (places + 1) // 2
        return [(when, (1, pairs * (value.key.channels + value.channels), 0, kept + history))]
    assert isinstance(value, Affine)
    sums = executor.plan.sums[id(value)]
    early, late = (
        sum(
            0 if chunk.weight is None else _places(value, phase, sums.phases) * chunk.weight.numel()
            for phase, chunks in table.items()
            for chunk in chunks
        )
        for table in (sums.early, sums.late)
    )
    if when == "row" or not executor.plan.has_row_sum(value):
        return [(when, (1, early + late, places * value.channels, kept))]
    summed = executor.row_sums[id(value)].nbytes
    return [("row", (0, early, places * value.channels, summed)), (when, (1, late, places * value.channels, kept))]


def _places(value: Value, phase: tuple[int, int], phases: tuple[int, int]) -> int:
    """How many positions of a value have a phase."""
    return len(range(phase[0], value.height, phases[0])) * len(range(phase[1], value.width, phases[1]))


__all__ = ["Explanation", "Part", "explain"]
