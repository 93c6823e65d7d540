"""Nearest codebook entry in plain PyTorch, a chunk of vectors at a time: what a CPU runs.

The scores of a chunk stay in the processor's cache, and the matrix of all scores never exists.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen.kernels.vector_quantize.reference import scored, working_dtype

CHUNK = 1 << 19  # scores: 2 MB


def vector_quantize_chunked(x: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Values in the strides of `torch.empty_like(x)`, indices contiguous; see `vector_quantize`. No gradient."""
    n, dim, *spatial = x.shape
    n_codes = codebook.shape[0]
    dtype = working_dtype(x)
    values = torch.empty_like(x)
    indices = torch.empty(n, *spatial, dtype=torch.int64, device=x.device)
    if not indices.numel():
        return values, indices
    if spatial:
        # flatten is a copy only where pixels do not lie evenly spaced; then what is written has to be copied back
        vectors, targets, found = x.flatten(2), values.flatten(2), indices.view(n, -1)
    else:  # the pixels of one image
        vectors, targets, found = x.t().unsqueeze(0), values.t().unsqueeze(0), indices.unsqueeze(0)
    n, pixels = found.shape
    entries, halves = scored(codebook)
    weight = entries.t()

    rows = max(1, CHUNK // n_codes)
    images = max(1, rows // pixels)
    run = pixels if images > 1 else min(rows, pixels)
    scores = torch.empty(min(n, images) * run, n_codes, dtype=dtype, device=x.device)
    for i in range(0, n, images):
        for j in range(0, pixels, run):
            part = vectors[i : i + images, :, j : j + run].transpose(1, 2)  # [images, run, D]
            part = part.reshape(-1, dim).to(dtype)
            out = torch.addmm(halves, part, weight, alpha=-1, out=scores[: len(part)])
            nearest = out.argmin(1).view(-1, min(run, pixels - j))
            found[i : i + images, j : j + run] = nearest
            targets[i : i + images, :, j : j + run] = F.embedding(nearest, codebook).transpose(1, 2)
    if targets.data_ptr() != values.data_ptr():
        values.copy_(targets.view(values.shape))
    return values, indices
