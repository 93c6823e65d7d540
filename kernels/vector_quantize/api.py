"""The public functions: validation and the choice of an implementation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen.kernels._common.checks import LIMIT, check_float, check_impl, check_same_device, shape_of
from fastgen.kernels._common.dispatch import auto_takes_triton
from fastgen.kernels.vector_quantize import op
from fastgen.kernels.vector_quantize.chunked import vector_quantize_chunked
from fastgen.kernels.vector_quantize.reference import vector_quantize_reference, working_dtype


class VectorQuantized(NamedTuple):
    """What `vector_quantize` returns.

    Attributes:
        quantized: [N, D, *spatial], the nearest entry of each vector; its gradient goes to x unchanged.
        indices: [N, *spatial] int64, which entry that is.
    """

    quantized: Tensor
    indices: Tensor


def vector_quantize(x: Tensor, codebook: Tensor, *, tf32: bool = False, impl: str = "auto") -> VectorQuantized:
    """k = argmin_k |x - e_k|^2 for each vector x, the smallest such k, and its e_k. The N x K distances never exist.

    Shapes: x [N, D, *spatial] (spatial is (H, W), (T,), () or any other), codebook [K, D] -> quantized like x, indices
        [N, *spatial]. x contiguous or channels_last (other strides are copied), and so is quantized.
    Dtypes: x and codebook float16, bfloat16, float32 or float64, both the same; quantized has that dtype, indices are
        int64. Scores |e_k|^2 / 2 - <x, e_k> are accumulated in float64 for float64, else in float32. Tensor cores take
        the products of float32 in three parts, with an error like that of float32; tf32=True lets the Triton kernel
        take them in one, with 10 bits, three times faster. Entries whose scores agree up to rounding count as tied.
    Gradient order: any, with respect to x: the straight-through estimator d quantized / d x = 1. None with respect to
        the codebook, which learns by `vector_quantize_loss` or by `code_statistics`.
    A vector that holds NaN gets entry 0, one that holds an infinity any entry. An entry that holds either, or whose
        square overflows, is never the nearest (entry 0 if all are such).
    impl: "auto", or "triton" or "reference" (which holds all distances) to insist on one.
    Raises: ValueError for shapes, devices or impl that do not fit, for 2^31 vectors or more, and for an image or a
        codebook of 2^31 values or more; TypeError for dtypes; RuntimeError for impl="triton" where it cannot run.
    Source: van den Oord et al., "Neural Discrete Representation Learning", NeurIPS 2017.
    """
    name = "vector_quantize"
    _check_pair(name, x, codebook)
    check_impl(name, impl, x.device)
    if impl == "triton" and x.dtype == torch.float64:
        raise RuntimeError(f"{name}: impl='triton' computes in float32; got float64; use impl='auto' or float32.")
    if max(x.numel() // max(1, x.shape[1]), x.numel() // max(1, x.shape[0]), codebook.numel()) >= LIMIT:
        raise ValueError(
            f"{name}: x must hold less than 2^31 vectors, an image of it and the codebook less than 2^31 values; got "
            f"{shape_of(x)} and {shape_of(codebook)}; split the batch."
        )
    if impl == "reference":
        return VectorQuantized(*vector_quantize_reference(x, codebook))
    codebook = codebook.detach()
    if impl == "triton" or auto_takes_triton(x.device) or torch.compiler.is_compiling():
        return VectorQuantized(*op.vector_quantize_forward(x, codebook, tf32, impl))
    if x.requires_grad and torch.is_grad_enabled():
        return VectorQuantized(*op.StraightThrough.apply(x, codebook))
    return VectorQuantized(*vector_quantize_chunked(x, codebook))


def embed_codes(indices: Tensor, codebook: Tensor) -> Tensor:
    """y = e_k: the entries that indices name, with channels in dimension 1.

    Shapes: indices [N, *spatial], codebook [K, D] -> [N, D, *spatial], a view of [N, *spatial, D] (channels_last).
    Dtypes: indices an integer dtype; codebook floating point, which the result has too.
    Gradient order: any, with respect to the codebook: each entry gets the sum of what its vectors get.
    Raises: ValueError for shapes and, on the CPU, IndexError for indices outside [0, K); TypeError for dtypes.
    """
    name = "embed_codes"
    _check_codebook(name, codebook)
    if indices.ndim < 1:
        raise ValueError(f"{name}: indices must be [N, *spatial]; got a scalar; add the batch dimension.")
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TypeError(f"{name}: indices must be integers; got {indices.dtype}; use indices.long().")
    check_same_device(name, indices=indices, codebook=codebook)
    return F.embedding(indices.long(), codebook).movedim(-1, 1)


def vector_quantize_loss(
    x: Tensor, codebook: Tensor, indices: Tensor, *, commitment: float = 0.25, codebook_weight: float = 1.0
) -> Tensor:
    """L = w mean (sg[x] - e_k)^2 + b mean (x - sg[e_k])^2, sg the stopped gradient, k the indices, over all n values.

    w (`codebook_weight`) pulls entries to their vectors, b (`commitment`) vectors to their entries:
    dL/dx = 2b (x - e_k) / n, and dL/de_k = 2w sum of (e_k - x) / n over the vectors that have k.

    Shapes: x [N, D, *spatial], codebook [K, D], indices [N, *spatial] -> a scalar; 0 for no vectors.
    Dtypes: x and codebook floating point, both the same; computed and returned in float64 for float64, else in float32.
    Gradient order: any, with respect to x and the codebook.
    Raises: ValueError for shapes and devices that do not fit; TypeError for dtypes.
    Source: van den Oord et al., "Neural Discrete Representation Learning", NeurIPS 2017, equation 3; codebook_weight=0
        is the loss beside a codebook that moves by exponential averages.
    """
    name = "vector_quantize_loss"
    _check_pair(name, x, codebook)
    _check_indices(name, x, indices)
    dtype = working_dtype(x)
    entries, vectors = embed_codes(indices, codebook).to(dtype), x.to(dtype)
    share = 1 / max(1, x.numel())
    loss = commitment * share * (vectors - entries.detach()).square().sum()
    if codebook_weight:
        loss = loss + codebook_weight * share * (vectors.detach() - entries).square().sum()
    return loss


def code_statistics(x: Tensor, indices: Tensor, n_codes: int) -> tuple[Tensor, Tensor]:
    """n_k, the number of vectors that have entry k, and m_k, their sum.

    Shapes: x [N, D, *spatial], indices [N, *spatial] -> counts [K], sums [K, D], with K = n_codes.
    Dtypes: x floating point; counts int64; sums float64 for float64, else float32.
    Gradient order: none; the results are detached.
    On CUDA the order of summation, and so the last digits, may vary from call to call, unless
        `torch.use_deterministic_algorithms(True)`.
    Raises: ValueError for shapes and devices that do not fit; TypeError for dtypes; on the CPU IndexError for indices
        outside [0, K).
    Source: van den Oord et al., "Neural Discrete Representation Learning", NeurIPS 2017, appendix A.1.
    """
    name = "code_statistics"
    if x.ndim < 2:
        raise ValueError(f"{name}: x must be [N, D, *spatial]; got {shape_of(x)}.")
    if n_codes < 1:
        raise ValueError(f"{name}: n_codes must be at least 1; got {n_codes}.")
    check_float(name, "x", x)
    _check_indices(name, x, indices)
    rows = x.detach().movedim(1, -1).reshape(-1, x.shape[1])
    rows, flat = rows.to(working_dtype(x)), indices.reshape(-1).long()
    counts = torch.zeros(n_codes, dtype=torch.int64, device=x.device).index_add_(0, flat, torch.ones_like(flat))
    return counts, rows.new_zeros(n_codes, x.shape[1]).index_add_(0, flat, rows)


def _check_codebook(name: str, codebook: Tensor) -> None:
    if codebook.ndim != 2 or not codebook.shape[0]:
        raise ValueError(f"{name}: codebook must be [K, D] with at least one entry; got {shape_of(codebook)}.")
    check_float(name, "codebook", codebook)


def _check_pair(name: str, x: Tensor, codebook: Tensor) -> None:
    _check_codebook(name, codebook)
    check_float(name, "x", x)
    if x.ndim < 2 or x.shape[1] != codebook.shape[1]:
        raise ValueError(
            f"{name}: x must be [N, D, *spatial] and codebook [K, D] with the same D; got {shape_of(x)} and "
            f"{shape_of(codebook)}; channels are dimension 1."
        )
    if x.dtype != codebook.dtype:
        raise TypeError(
            f"{name}: x and codebook must have one dtype; got {x.dtype} and {codebook.dtype}; convert one of them."
        )
    check_same_device(name, x=x, codebook=codebook)


def _check_indices(name: str, x: Tensor, indices: Tensor) -> None:
    if indices.shape != (x.shape[0], *x.shape[2:]):
        raise ValueError(
            f"{name}: indices must be [N, *spatial] for x [N, D, *spatial]; got {shape_of(indices)} and {shape_of(x)}."
        )
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TypeError(f"{name}: indices must be integers; got {indices.dtype}; use indices.long().")
    check_same_device(name, x=x, indices=indices)
