"""Convolutions that see only the raster past, with the gate, the condition and the residual of their layers."""

from fastgen.kernels.masked_conv2d.api import masked_conv2d
from fastgen.kernels.masked_conv2d.reference import masked_conv2d_reference

__all__ = ["masked_conv2d", "masked_conv2d_reference"]
