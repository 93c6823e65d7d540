"""The public functions: validation and the choice of an implementation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgen.kernels._common.checks import (
    LIMIT,
    check_float,
    check_impl,
    check_levels,
    check_same_device,
    shape_of,
)
from fastgen.kernels._common.tiling import runs_triton
from fastgen.kernels.dmol import op
from fastgen.kernels.dmol.reference import (
    blocks_per_mixture,
    dmol_log_prob_reference,
    dmol_sample_reference,
)

TAILS = ("exact", "pixelcnn++")
MAX_BITS = 16
HALVES = (torch.float16, torch.bfloat16)


def dmol_log_prob(x: Tensor, params: Tensor, *, bits: int = 8, tails: str = "exact", impl: str = "auto") -> Tensor:
    """log p(x) = log sum_m softmax(logits)_m prod_c [s((x_c + h - mu_mc) / s_mc) - s((x_c - h - mu_mc) / s_mc)], nats.

    The discretized logistic mixture of PixelCNN++: M mixtures over all C channels of a pixel, h = 1/(2^bits - 1) half
    a bin, the first and the last bin open to infinity, mu_mc = mean_mc + sum_{j<c} tanh(coefficient_mcj) x_j, and
    s_mc = exp(max(log_scale_mc, -7 - max(0, bits - 8) ln 2)).

    Shapes: x [N, C, H, W], params [N, P, H, W] -> [N, H, W], contiguous or channels_last (other strides are copied).
        P = M (1 + 2C + C(C-1)/2), which gives M. Along P: M logits; with C = 3, for each channel M means, M log-scales
        and M coefficients (1<-0, 2<-0, 2<-1); otherwise for each channel M means and M log-scales, then M coefficients
        for each pair (1,0), (2,0), (2,1), (3,0), ...
    Dtypes: x uint8 levels 0..2^bits - 1 (bits <= 8), or float 2 level / (2^bits - 1) - 1 (bits <= 16; half precision
        cannot hold these, so float16 and bfloat16 x are rounded to the nearest level). params float16, bfloat16,
        float32 or float64. Computed and returned in float64 for float64 params, else in float32; the gradient has the
        dtype of params.
    Gradient order: first, with respect to params; none with respect to x. impl="reference": any order, params only.
    tails: "exact" takes log[s(p) - s(q)] = log s(p) + log s(-q) + log(1 - e^-(p-q)), which loses nothing to
        cancellation: bins sum to 1. "pixelcnn++" is the published formula: the density times the bin where a bin holds
        less than 1e-5.
    impl: "auto", or "triton" or "reference" to insist on one.
    Finite params up to 1e30 have finite values and gradients (a float16 gradient may overflow, as everywhere).
    Raises: ValueError for shapes, bits, tails or impl that do not fit; TypeError for dtypes; on the CPU ValueError for
        levels of 2^bits or above and for float x that is NaN or outside [-1, 1]. On CUDA, where looking at x would
        stall, such a pixel gets NaN from the kernel. RuntimeError for impl="triton" where it cannot run, and for a
        second derivative.
    Source: Salimans et al., "PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other
        Modifications", ICLR 2017.
    """
    name = "dmol_log_prob"
    if x.ndim != 4 or params.ndim != 4 or x.shape[0] != params.shape[0] or x.shape[2:] != params.shape[2:]:
        raise ValueError(
            f"{name}: x must be [N, C, H, W] and params [N, P, H, W] with the same N, H, W; got "
            f"{shape_of(x)} and {shape_of(params)}; images are channels first."
        )
    _mixtures(name, params, x.shape[1])
    if tails not in TAILS:
        raise ValueError(f"{name}: tails must be one of {', '.join(map(repr, TAILS))}; got {tails!r}.")
    check_float(name, "params", params)
    if x.dtype != torch.uint8:
        if not x.is_floating_point():
            raise TypeError(
                f"{name}: x must be uint8 levels or float in [-1, 1]; got {x.dtype}; use x.to(torch.uint8)."
            )
        check_float(name, "x", x)
    widest = 8 if x.dtype in (torch.uint8, *HALVES) else MAX_BITS
    _check_bits(name, bits, widest, f" for {x.dtype} x")
    check_same_device(name, x=x, params=params)
    _check_impl(name, impl, params)
    if x.dtype in HALVES:
        half = (2**bits - 1) / 2
        x = x.float().add_(1).mul_(half).round_().sub_(half).div_(half)
    if impl == "reference":
        if not torch.compiler.is_compiling() and x.device.type == "cpu":
            check_levels(name, x, 2**bits)
        return dmol_log_prob_reference(x, params, bits=bits, tails=tails)
    x = x.detach()
    fused = (
        params.requires_grad
        and torch.is_grad_enabled()
        and params.device.type == "cpu"
        and params.dtype not in HALVES  # an unscaled gradient may underflow there
    )
    log_prob: Tensor
    if not fused:
        log_prob = op.dmol_log_prob_forward(x, params, bits, tails, impl)
    elif torch.compiler.is_compiling():
        log_prob, _ = op.dmol_log_prob_forward_gradient(x, params, bits, tails, impl)
    else:
        log_prob = op.ValueWithGradient.apply(x, params, bits, tails, impl)
    return log_prob


def dmol_sample(
    params: Tensor,
    uniforms: Tensor,
    *,
    channels: int,
    bits: int = 8,
    temperature: float | Sequence[float] = 1.0,
    snap: bool = True,
    impl: str = "auto",
) -> Tensor:
    """x_c = clamp(mean_c + sum_{j<c} tanh(coefficient_cj) x_j + t s_c log(u'_c / (1 - u'_c)), -1, 1), mixture drawn.

    The mixture is the inverse CDF of softmax(logits / t) at uniform 0; channel c takes uniform 1 + c with
    u' = 1e-5 + (1 - 2e-5) u. A pure function: equal uniforms give equal draws.

    Shapes: params [N, P, *spatial] laid out as in `dmol_log_prob`, uniforms [N, 1 + C, *spatial] -> [N, C, *spatial] in
        [-1, 1]; spatial is (H, W), (T,), () or any other.
    Dtypes: params and uniforms float16, bfloat16, float32 or float64, uniforms in [0, 1). Computed in float64 for
        float64 params, else in float32; the result has the dtype of params.
    Gradient order: none; the result is detached.
    temperature: t >= 0 divides logits and multiplies scales; 0 gives the mean of the heaviest mixture. C numbers are
        for the scales of one channel each, and their mean for the logits; impl="triton" takes a single number.
    snap: round each channel to its level before the next one is drawn, so that draws follow exp(dmol_log_prob) but for
        the margin of 1e-5. False leaves them continuous, as published.
    Raises: ValueError for shapes, bits, temperature or impl that do not fit; TypeError for dtypes; RuntimeError for
        impl="triton" where it cannot run.
    Source: Salimans et al., "PixelCNN++", ICLR 2017.
    """
    name = "dmol_sample"
    _mixtures(name, params, channels)
    if (
        uniforms.ndim != params.ndim
        or uniforms.shape[0] != params.shape[0]
        or uniforms.shape[1] != 1 + channels
        or uniforms.shape[2:] != params.shape[2:]
    ):
        raise ValueError(
            f"{name}: uniforms must be [N, 1 + C, *spatial] for params [N, P, *spatial] and C = {channels}; got "
            f"{shape_of(uniforms)} and {shape_of(params)}; draw one uniform for the mixture and one a channel."
        )
    check_float(name, "params", params)
    check_float(name, "uniforms", uniforms)
    each = (temperature,) * channels if isinstance(temperature, (int, float)) else tuple(map(float, temperature))
    if len(each) != channels or not all(0 <= t < float("inf") for t in each):
        raise ValueError(
            f"{name}: temperature must be finite and at least 0, one number or one for each of {channels} channels; "
            f"got {temperature}."
        )
    single = len(set(each)) == 1
    if impl == "triton" and not single:
        raise ValueError(f'{name}: impl="triton" takes one temperature; got {temperature}; use impl="auto".')
    _check_bits(name, bits, MAX_BITS, "")
    check_same_device(name, params=params, uniforms=uniforms)
    _check_impl(name, impl, params)
    if impl == "reference" or not single or (impl == "auto" and not (params.is_cuda and runs_triton(params.device))):
        # not through the op: its dispatch costs as much as the draw of a pixel
        return dmol_sample_reference(
            params,
            uniforms,
            channels=channels,
            bits=bits,
            temperature=each[0] if single else each,
            snap=snap,
        )
    drawn: Tensor = op.dmol_sample(params.detach(), uniforms.detach(), channels, bits, float(each[0]), snap, impl)
    return drawn


def _mixtures(name: str, params: Tensor, channels: int) -> int:
    """M, from the number of parameters a pixel."""
    if channels < 1:
        raise ValueError(f"{name}: an image must have at least one channel; got {channels}.")
    blocks = blocks_per_mixture(channels)
    n_params = params.shape[1] if params.ndim > 1 else 0
    if n_params < blocks or n_params % blocks:
        raise ValueError(
            f"{name}: params must be [N, P, ...] with P = M (1 + 2C + C(C-1)/2), a multiple of {blocks} for "
            f"C = {channels}; got {shape_of(params)}; give the last layer {blocks} outputs a mixture."
        )
    return n_params // blocks


def _check_bits(name: str, bits: int, most: int, where: str) -> None:
    if not (isinstance(bits, int) and 1 <= bits <= most):
        raise ValueError(f"{name}: bits must be an integer in 1..{most}{where}; got {bits!r}.")


def _check_impl(name: str, impl: str, params: Tensor) -> None:
    check_impl(name, impl, params.device)
    if impl == "triton" and params.dtype == torch.float64:
        raise RuntimeError(
            f"{name}: impl='triton' computes in float32; got float64 params; use impl='auto' or float32."
        )
    if params.is_cuda and params.numel() // max(1, params.shape[0]) >= LIMIT:
        raise ValueError(
            f"{name}: the parameters of one image must number less than 2^31; got {shape_of(params)}; split the "
            "image into rows."
        )
