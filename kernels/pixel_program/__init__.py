"""Steps and draws of many pixels in one persistent launch."""

from fastgen.kernels.pixel_program.api import PixelProgram
from fastgen.kernels.pixel_program.reference import pixel_program_reference
from fastgen.kernels.pixel_program.units import ProgramDraw, ProgramStep, ProgramUnit

__all__ = ["PixelProgram", "ProgramDraw", "ProgramStep", "ProgramUnit", "pixel_program_reference"]
