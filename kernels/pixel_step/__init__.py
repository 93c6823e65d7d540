"""One layer step of a pixel in one launch, and the draw that ends it."""

from fastgen.kernels.pixel_step.api import pixel_draw, pixel_step
from fastgen.kernels.pixel_step.reference import pixel_draw_reference, pixel_step_reference

__all__ = ["pixel_draw", "pixel_draw_reference", "pixel_step", "pixel_step_reference"]
