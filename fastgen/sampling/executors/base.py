"""What the sampling loop asks of an executor."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Executor(Protocol):
    """Computes the parameters of one pixel at a time, in raster order.

    The loop calls `start()`, then for every row `begin_row(i)`, for every pixel and sub-step `parameters(j, g)`, and
    after each of these `write(j, g, x)` with what was drawn; at the end of the row `end_row()`.
    """

    n_images: int  # how many images run side by side
    image_shape: tuple[int, int, int]  # C, H, W; of a sequence C, 1, T
    is_sequence: bool  # the model takes [N, C, T]
    substeps: int  # how many channel groups of a pixel are drawn one after another; 1 draws all at once

    def start(self) -> None:
        """Forget everything; the next row is row 0."""

    def begin_row(self, row: int) -> None:
        """Do what is done once per row."""

    def parameters(self, column: int, substep: int) -> Tensor:
        """Parameters [N, P] of the pixel; valid until the next call. Those of later channel groups are unspecified."""

    def write(self, column: int, substep: int, x: Tensor) -> None:
        """Take the drawn channels in [-1, 1]: [N, C] if substeps is 1, else [N, 1]."""

    def end_row(self) -> None:
        """Finish what is known only when the row is complete."""
