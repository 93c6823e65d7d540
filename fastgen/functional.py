"""The ops as functions without state: documented where they are defined, in `fastgen.kernels`."""

from __future__ import annotations

from fastgen.kernels.dmol import dmol_log_prob, dmol_sample
from fastgen.kernels.gated_activation import concat_elu, gated_activation
from fastgen.kernels.masked_conv2d import masked_conv2d
from fastgen.kernels.reparameterize import reparameterize

__all__ = [
    "concat_elu",
    "dmol_log_prob",
    "dmol_sample",
    "gated_activation",
    "masked_conv2d",
    "reparameterize",
]
