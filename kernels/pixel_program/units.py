"""What a program is made of: steps and draws, with what may be read of them before the unit's turn has come."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastgen.kernels.pixel_step.configurations import Store


@dataclass(frozen=True, eq=False)
class ProgramStep:
    """A `pixel_step` of a program.

    Programs go through phases: a unit that waits begins one, and the units of a phase may run in any order and at once.
    `old` is what no unit of the phase before writes, nor one of the step's own.

    Attributes:
        products: (x, weight, how many leading inputs of x are old).
        added, residuals: (term, whether it is old).
        factors: (a, b, whether both are old).
        gate, stores: of `pixel_step`.
        waits: for all that was before it.
    """

    products: tuple[tuple[Tensor, Tensor, int], ...] = ()
    added: tuple[tuple[Tensor, bool], ...] = ()
    factors: tuple[tuple[Tensor, Tensor, bool], ...] = ()
    gate: str = ""
    residuals: tuple[tuple[Tensor, bool], ...] = ()
    stores: tuple[Store, ...] = ()
    waits: bool = True


@dataclass(frozen=True, eq=False)
class ProgramDraw:
    """A `pixel_draw` of a program."""

    params: Tensor
    uniforms: Tensor
    kept: Tensor
    temperature: Tensor
    out: Tensor
    kind: str
    levels: int
    first: int = 0
    waits: bool = True


ProgramUnit = ProgramStep | ProgramDraw
