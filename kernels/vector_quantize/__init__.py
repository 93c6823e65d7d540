"""The vector quantizer of VQ-VAE: nearest entry of a codebook, its loss, and the statistics that move the codebook."""

from fastgen.kernels.vector_quantize.api import (
    VectorQuantized,
    code_statistics,
    embed_codes,
    vector_quantize,
    vector_quantize_loss,
)
from fastgen.kernels.vector_quantize.reference import vector_quantize_reference

__all__ = [
    "VectorQuantized",
    "code_statistics",
    "embed_codes",
    "vector_quantize",
    "vector_quantize_loss",
    "vector_quantize_reference",
]
