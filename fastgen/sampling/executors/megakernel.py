"""A row of pixels as one launch, in which a persistent kernel walks the layers of all of them.

What a layer waits for is not a launch but a barrier of all programs on the device, and what is older than the layer
before is summed while it waits. For this the units of a row are put into phases here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgen.functional import PixelProgram, ProgramDraw, ProgramStep, ProgramUnit
from fastgen.likelihoods import Likelihood
from fastgen.sampling.executors.cuda_graph import Replayed, why_no_graphs
from fastgen.sampling.executors.lowered import KINDS, LoweredExecutor, LoweredStreamExecutor
from fastgen.sampling.executors.lowering import (
    Draw,
    Launch,
    Span,
    Unit,
    old_inputs,
    overlap,
    reads_of,
    span_of,
    writes_of,
)
from fastgen.sampling.executors.steps import Call, Step
from fastgen.sampling.plan import Plan


def why_no_megakernel(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a persistent kernel cannot run for a device and dtype, or None if it can."""
    if dtype == torch.float64:
        return "it computes in float32; got float64"
    return why_no_graphs(device, dtype)


class _Persistent(Replayed):
    """Rows of which all launches are one. Only for networks of which every step has a kernel."""

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
        super().__init__(plan, n, like, likelihood, keep_parameters, precision=precision, impl=impl)
        self.programs: dict[int, PixelProgram] = {}
        self.packed: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        for key in self._typical():
            self._unit_calls(key)

    def run_row(self, key: int) -> None:
        """As recorded; on the CPU, where kernels are interpreted, call by call."""
        if self.like.device.type == "cpu":
            LoweredExecutor.run_row(self, key)
        else:
            super().run_row(key)

    def draw_row(self) -> Tensor:
        """As of the other executors; after the last row it waits, and raises RuntimeError if a barrier failed."""
        drawn = super().draw_row()
        if self.begun == self.image_shape[1] - 1:
            self._check()
        return drawn

    def _check(self) -> None:
        failure = None
        for program in self.programs.values():  # each of them forgets
            try:
                program.check()
            except RuntimeError as error:
                failure = error
        if failure is not None:
            raise failure

    def _unit_calls(self, key: int) -> list[Call]:
        if key not in self.programs:
            units = [unit for column in self.units(key) for unit in column]
            self.programs[key] = PixelProgram(program_units(units), impl=self.impl, packed=self.packed)
        return [self.programs[key]]


class MegakernelExecutor(_Persistent):
    """One launch a row. Memory: that of `LoweredExecutor`, the weights once more, and 768 bytes for each launch."""


class MegakernelStreamExecutor(_Persistent, LoweredStreamExecutor):
    """One launch for each piece of a long sequence."""


def program_units(units: Sequence[Unit]) -> list[ProgramUnit]:
    """The units of a row in phases.

    A unit joins the phase of those before it unless it reads what they write, or writes what they read or write; what
    no unit of the phase before writes is old.

    Raises: ValueError for a step without a kernel.
    """
    out: list[ProgramUnit] = []
    before: list[Span] = []  # what the phase before writes
    read: list[Span] = []  # by the phase that is open
    written: list[Span] = []
    for unit in units:
        if isinstance(unit, Step):
            raise ValueError(
                f"sample: method='megakernel' takes networks of which every step has a kernel; got {unit.op!r}; use "
                "method='cuda_graph', which runs such a step as PyTorch calls"
            )
        reads, writes = ([span_of(view) for view in views] for views in (reads_of(unit), writes_of(unit)))
        waits = not out or _meet(reads, written) or _meet(writes, written) or _meet(writes, read)
        if waits:
            before, read, written = written, [], []
        read += reads
        written += writes
        out.append(_step(unit, before, waits) if isinstance(unit, Launch) else _draw(unit, waits))
    return out


def _meet(some: list[Span], others: list[Span]) -> bool:
    return any(overlap(a, b) for a in some for b in others)


def _step(unit: Launch, before: list[Span], waits: bool) -> ProgramStep:
    def is_old(*operands: Tensor) -> bool:
        return not _meet([span_of(operand) for operand in operands], before)

    return ProgramStep(
        products=tuple((p.x, p.weight, old_inputs(span_of(p.x), before)) for p in unit.products),
        added=tuple((term, is_old(term)) for term in unit.added),
        factors=tuple((a, b, is_old(a, b)) for a, b in unit.factors),
        gate=unit.gate,
        residuals=tuple((term, is_old(term)) for term in unit.residuals),
        stores=tuple((store.out, store.function, store.params) for store in unit.stores),
        waits=waits,
    )


def _draw(unit: Draw, waits: bool) -> ProgramDraw:
    return ProgramDraw(
        unit.params,
        unit.uniforms,
        unit.kept,
        unit.temperature,
        unit.out,
        KINDS[type(unit.likelihood)],
        unit.likelihood.levels,
        unit.first,
        waits,
    )
