"""The public class: a list of a pixel's steps and draws as one launch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastgen.kernels._common.checks import check_impl
from fastgen.kernels._common.tiling import interpreting
from fastgen.kernels.pixel_program.configurations import MOST_POLLS, draw_block, tiles
from fastgen.kernels.pixel_program.reference import pixel_program_reference
from fastgen.kernels.pixel_program.table import Packed, Table, encode
from fastgen.kernels.pixel_program.units import ProgramDraw, ProgramUnit
from fastgen.kernels.pixel_step.api import check_draw, check_step, takes_triton

BARRIER_WORDS = 64  # the count of those who arrived, and far from it whether somebody gave up


class PixelProgram:
    """Called, it does what `pixel_step` and `pixel_draw` do for one unit after another, in one launch.

    Shapes, dtypes: of `pixel_step` and `pixel_draw`; all weights of one dtype, all draws of one kind. The memory of all
        operands is bound: the program reads and writes where they lay when it was made.
    Gradient order: none.
    `impl` is "auto" (Triton on CUDA but for float64, else PyTorch, where `waits` and `old` of the units do not matter),
    "triton" or "reference". `programs` is how many run side by side, by default as many as the widest step has use for,
    and at most one a multiprocessor: they must all be resident at once. `packed` lets programs of one device share the
    layout of their weights. A kernel that polls a barrier `most_polls` times in vain gives up, and so do those after
    it; `check` says so.

    Raises: ValueError for units that do not fit; TypeError for dtypes; RuntimeError for impl="triton" where it cannot
        run, and from `check`.
    Source: persistent kernels with a grid barrier as in Gupta et al., "A Study of Persistent Threads Style GPU
        Programming for GPGPU Workloads", InPar 2012; for the caches Ramachandran et al., "Fast Generation for
        Convolutional Autoregressive Models", ICLR 2017 workshop.
    """

    def __init__(
        self,
        units: Sequence[ProgramUnit],
        *,
        impl: str = "auto",
        programs: int | None = None,
        most_polls: int = MOST_POLLS,
        packed: Packed | None = None,
    ) -> None:
        if not units:
            raise ValueError("PixelProgram: units must hold a step or a draw; got none.")
        for unit in units:
            _check(unit)
        first = units[0].out if isinstance(units[0], ProgramDraw) else units[0].stores[0][0]
        check_impl("PixelProgram", impl, first.device)
        self.units, self.most_polls = units, most_polls
        self.table: Table | None = None
        if takes_triton("PixelProgram", impl, first) and len(first):
            self.table = encode(units, packed)
            self.programs = _programs(self.table, programs)
            self.expected = self.programs  # that many arrive at each barrier
            self.barrier = torch.zeros(BARRIER_WORDS, dtype=torch.int32, device=first.device)

    def __call__(self) -> None:
        """Carry out all units; on a device this does not wait."""
        if self.table is None:
            pixel_program_reference(self.units)
            return
        from fastgen.kernels.pixel_program import triton as kernels

        self.barrier[:1].zero_()
        kernels.pixel_program(
            self.table, self.barrier, programs=self.programs, expected=self.expected, most_polls=self.most_polls
        )

    def check(self) -> None:
        """Wait for the device, and raise RuntimeError if a call since the last check gave up: its results are wrong."""
        if self.table is not None and self.barrier[1:].any():
            self.barrier.zero_()
            raise RuntimeError(
                f"PixelProgram: its {self.programs} programs must all run at once; got no sign of some at a barrier "
                f"after {self.most_polls} polls; free the device of what else runs there, or launch step by step "
                "(method='cuda_graph')."
            )


def _programs(table: Table, wanted: int | None) -> int:
    """How many programs of the kernel run side by side."""
    most = 1
    if table.words.device.type == "cuda":
        most = torch.cuda.get_device_properties(table.words.device).multi_processor_count
    if wanted is not None and not 1 <= wanted <= most:
        why = "the interpreter runs one after another" if interpreting() else "one for each multiprocessor"
        raise ValueError(f"PixelProgram: programs must be 1..{most} here ({why}); got {wanted}; leave it out.")
    blocks = -(-table.images // tiles(table.images, table.half)["BLOCK_N"])
    draws = 1 if table.draw is None else -(-table.images // draw_block(table.images, table.draw[2]))
    return wanted or min(most, max(table.tiles * blocks, draws))


def _check(unit: ProgramUnit) -> None:
    if isinstance(unit, ProgramDraw):
        check_draw(
            unit.params, unit.uniforms, unit.kept, unit.temperature, unit.out, unit.kind, unit.levels, unit.first
        )
        return
    check_step(
        [(x, weight) for x, weight, _ in unit.products],
        [term for term, _ in unit.added],
        [(a, b) for a, b, _ in unit.factors],
        unit.gate,
        [term for term, _ in unit.residuals],
        unit.stores,
    )
    for x, _, old in unit.products:
        if not 0 <= old <= x.shape[1]:
            raise ValueError(f"PixelProgram: of {x.shape[1]} inputs 0..{x.shape[1]} can be old; got {old}.")
