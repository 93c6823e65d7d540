"""The ops as functions without state: documented where they are defined, in `fastgen.kernels`."""

from __future__ import annotations

from fastgen.kernels.dmol import dmol_log_prob, dmol_sample
from fastgen.kernels.gated_activation import concat_elu, gated_activation
from fastgen.kernels.masked_conv2d import masked_conv2d
from fastgen.kernels.output_head import categorical_head_log_prob, dmol_head_log_prob
from fastgen.kernels.reparameterize import reparameterize
from fastgen.kernels.vector_quantize import (
    VectorQuantized,
    code_statistics,
    embed_codes,
    vector_quantize,
    vector_quantize_loss,
)

__all__ = [
    "VectorQuantized",
    "categorical_head_log_prob",
    "code_statistics",
    "concat_elu",
    "dmol_head_log_prob",
    "dmol_log_prob",
    "dmol_sample",
    "embed_codes",
    "gated_activation",
    "masked_conv2d",
    "reparameterize",
    "vector_quantize",
    "vector_quantize_loss",
]
