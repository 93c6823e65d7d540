"""A program in plain PyTorch, unit by unit: the oracle of the persistent kernel. Imports torch only."""

from __future__ import annotations

from collections.abc import Sequence

from fastgen.kernels.pixel_program.units import ProgramDraw, ProgramUnit
from fastgen.kernels.pixel_step.reference import pixel_draw_reference, pixel_step_reference


def pixel_program_reference(units: Sequence[ProgramUnit]) -> None:
    """Carry out the units one after another; see `PixelProgram`.

    Shapes, dtypes: of `pixel_step_reference` and `pixel_draw_reference`.
    Gradient order: none.
    Raises: nothing of its own.
    """
    for unit in units:
        if isinstance(unit, ProgramDraw):
            operands = (unit.params, unit.uniforms, unit.kept, unit.temperature, unit.out)
            pixel_draw_reference(*operands, kind=unit.kind, levels=unit.levels, first=unit.first)
        else:
            pixel_step_reference(
                [(x, weight) for x, weight, _ in unit.products],
                added=[term for term, _ in unit.added],
                factors=[(a, b) for a, b, _ in unit.factors],
                gate=unit.gate,
                residuals=[term for term, _ in unit.residuals],
                stores=unit.stores,
            )
