"""Nearest codebook entry in plain PyTorch: the oracle of the kernels. Imports torch only."""

from __future__ import annotations

import torch
from torch import Tensor


def working_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def scored(codebook: Tensor) -> tuple[Tensor, Tensor]:
    """The entries e_k, and |e_k|^2 / 2 of each, in the working dtype. Shapes: [K, D] -> [K, D], [K].

    An entry whose square is not finite becomes 0, with an infinite square: nothing is near it.
    """
    entries = codebook.detach().to(working_dtype(codebook))
    halves = entries.square().sum(1) / 2
    is_far = ~halves.isfinite()
    return entries.masked_fill(is_far.unsqueeze(1), 0), halves.masked_fill_(is_far, torch.inf)


def vector_quantize_reference(x: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """k = argmin_k |e_k|^2 / 2 - <x, e_k>, which is argmin_k |x - e_k|^2, and e_k; see `vector_quantize`.

    Shapes: x [N, D, *spatial], codebook [K, D] -> values like x, indices [N, *spatial]. Holds all N x K scores.
    Dtypes: scores in float64 for float64, else in float32.
    Gradient order: any: the identity with respect to x, none with respect to the codebook.
    Raises: nothing of its own; `vector_quantize` checks.
    Source: van den Oord et al., "Neural Discrete Representation Learning", NeurIPS 2017.
    """
    dtype = working_dtype(x)
    rows = x.detach().movedim(1, -1).to(dtype)  # [N, *spatial, D]
    entries, halves = scored(codebook)
    scores = halves - rows @ entries.t()
    indices = scores.argmin(-1)
    values = codebook.detach()[indices].movedim(-1, 1)
    return values + (x - x.detach()), indices  # the second term is zero, with a gradient
