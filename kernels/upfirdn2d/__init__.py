"""Pad, upsample by zeros, filter and downsample images in one pass, and what is built on it."""

from fastgen.kernels.upfirdn2d.api import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d
from fastgen.kernels.upfirdn2d.reference import upfirdn2d_reference

__all__ = ["downsample2d", "filter2d", "setup_filter", "upfirdn2d", "upfirdn2d_reference", "upsample2d"]
