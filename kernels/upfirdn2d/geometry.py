"""The numbers of a resampling: factors, padding, sizes, and those of its adjoint."""

from __future__ import annotations

from typing import NamedTuple


class Geometry(NamedTuple):
    """Factors and padding by axis: z[i] = x[(i - before) / up] where that is whole and inside, y[m] = (f z)[m down]."""

    up_x: int
    up_y: int
    down_x: int
    down_y: int
    left: int
    right: int
    top: int
    bottom: int

    def output_size(self, height: int, width: int, taps_y: int, taps_x: int) -> tuple[int, int]:
        """Height and width of the result; not positive where nothing is left."""
        return (
            (height * self.up_y + self.top + self.bottom - taps_y) // self.down_y + 1,
            (width * self.up_x + self.left + self.right - taps_x) // self.down_x + 1,
        )

    def adjoint(self, height: int, width: int, taps_y: int, taps_x: int) -> Geometry:
        """That of the gradient, which is the same op with the filter turned round, up for down."""
        out_height, out_width = self.output_size(height, width, taps_y, taps_x)
        return Geometry(
            self.down_x,
            self.down_y,
            self.up_x,
            self.up_y,
            taps_x - self.left - 1,
            width * self.up_x - out_width * self.down_x + self.left - self.up_x + 1,
            taps_y - self.top - 1,
            height * self.up_y - out_height * self.down_y + self.top - self.up_y + 1,
        )

    def along_x(self) -> Geometry:
        """What of it concerns the columns."""
        return self._replace(up_y=1, down_y=1, top=0, bottom=0)

    def along_y(self) -> Geometry:
        """What of it concerns the rows."""
        return self._replace(up_x=1, down_x=1, left=0, right=0)
