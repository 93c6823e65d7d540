"""The ops as functions without state: documented where they are defined, in `fastgen.kernels`."""

from __future__ import annotations

from fastgen.kernels.bias_act import ACTIVATIONS, bias_act
from fastgen.kernels.dmol import dmol_conditional, dmol_log_prob, dmol_sample
from fastgen.kernels.gated_activation import concat_elu, gated_activation
from fastgen.kernels.langevin import langevin_step
from fastgen.kernels.masked_conv2d import masked_conv2d
from fastgen.kernels.output_head import categorical_head_log_prob, dmol_head_log_prob
from fastgen.kernels.pixel_program import PixelProgram, ProgramDraw, ProgramStep, ProgramUnit
from fastgen.kernels.pixel_step import pixel_draw, pixel_step
from fastgen.kernels.reparameterize import reparameterize
from fastgen.kernels.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d
from fastgen.kernels.vector_quantize import (
    VectorQuantized,
    code_statistics,
    embed_codes,
    vector_quantize,
    vector_quantize_loss,
)

__all__ = [
    "ACTIVATIONS",
    "PixelProgram",
    "ProgramDraw",
    "ProgramStep",
    "ProgramUnit",
    "VectorQuantized",
    "bias_act",
    "categorical_head_log_prob",
    "code_statistics",
    "concat_elu",
    "dmol_conditional",
    "dmol_head_log_prob",
    "dmol_log_prob",
    "dmol_sample",
    "downsample2d",
    "embed_codes",
    "filter2d",
    "gated_activation",
    "langevin_step",
    "masked_conv2d",
    "pixel_draw",
    "pixel_step",
    "reparameterize",
    "setup_filter",
    "upfirdn2d",
    "upsample2d",
    "vector_quantize",
    "vector_quantize_loss",
]
