"""The public functions: validation and the choice of an implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
from fastgen.kernels._common.dispatch import auto_takes_triton
from fastgen.kernels.output_head import op
from fastgen.kernels.output_head.chunked import Head
from fastgen.kernels.output_head.likelihoods import Categorical, Likelihood, Mixture
from fastgen.kernels.output_head.reference import (
    categorical_head_log_prob_reference,
    dmol_head_log_prob_reference,
    to_levels,
)

TAILS = ("exact", "pixelcnn++")
HALVES = (torch.float16, torch.bfloat16)


def dmol_head_log_prob(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    x: Tensor,
    *,
    bits: int = 8,
    tails: str = "exact",
    impl: str = "auto",
) -> Tensor:
    """log p(x | W f + b), nats: a 1x1 convolution and the discretized logistic mixture, the parameters never whole.

    Equal to dmol_log_prob(x, conv2d(features, weight, bias)), a chunk of pixels at a time in both directions: of the
    parameters [N, P, H, W] a few megabytes exist at a time, and as much of their gradient (on CUDA 64 of half precision
    and 128 of float32).

    Shapes: features [N, F, H, W], weight [P, F, 1, 1] or [P, F], bias [P] or None, x [N, C, H, W] -> [N, H, W].
        P = M (1 + 2C + C(C-1)/2), laid out as `dmol_log_prob` says. features contiguous or channels_last (other strides
        are copied); their gradient likewise.
    Dtypes: x as for `dmol_log_prob`; features, weight, bias float16, bfloat16, float32 or float64, all the same (under
        autocast they are converted as for a convolution, and float32 takes TF32 where one may). The parameters of a
        chunk have that dtype; computed and returned in float64 for float64, else in float32. Gradients of weight and
        bias are summed over chunks in that.
    Gradient order: first, with respect to features, weight and bias; exact for any gradient by pixel. impl="reference":
        any order. In float32 and float64 a gradient that differs between pixels costs a second evaluation, and to find
        out the backward looks at it once, which on CUDA waits for the forward.
    tails: as for `dmol_log_prob`.
    impl: "auto"; "triton" for the mixture's kernel on each chunk; "reference" for the two steps, with all parameters.
    Raises: ValueError for shapes, bits, tails, devices or impl that do not fit; TypeError for dtypes; on the CPU
        ValueError for what is no level (on CUDA such a pixel gets NaN). RuntimeError for impl="triton" where it cannot
        run, and for a second derivative.
    Source: Salimans et al., "PixelCNN++", ICLR 2017; chunks as in Wijmans et al., "Cut Your Losses in Large-Vocabulary
        Language Models", ICLR 2025.
    """
    name = "dmol_head_log_prob"
    features, weight, bias = _prepare(name, features, weight, bias, x, impl)
    channels = x.shape[1]
    blocks = 1 + 2 * channels + channels * (channels - 1) // 2
    if channels < 1 or not len(weight) or len(weight) % blocks:
        raise ValueError(
            f"{name}: weight must be [P, F] with P a multiple of 1 + 2C + C(C-1)/2 = {blocks} for C = {channels}; got "
            f"{shape_of(weight)}; give each mixture {blocks} outputs."
        )
    if tails not in TAILS:
        raise ValueError(f"{name}: tails must be one of {', '.join(map(repr, TAILS))}; got {tails!r}.")
    widest = 8 if x.dtype in (torch.uint8, *HALVES) else 16
    if not (isinstance(bits, int) and 1 <= bits <= widest):
        raise ValueError(f"{name}: bits must be an integer in 1..{widest} for {x.dtype} x; got {bits!r}.")
    if x.dtype in HALVES:  # to the level that was meant
        half = (2**bits - 1) / 2
        x = x.float().add_(1).mul_(half).round_().sub_(half).div_(half)
    _check_values(name, x, 2**bits)
    if impl == "reference":
        return dmol_head_log_prob_reference(features, weight, bias, x, bits=bits, tails=tails)
    return _run(
        features,
        weight,
        bias,
        x,
        Mixture(bits, tails, impl),
        op.dmol_head_log_prob_forward,
        op.dmol_head_log_prob_backward,
        (bits, tails, impl),
    )


def categorical_head_log_prob(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    x: Tensor,
    *,
    levels: int = 256,
    impl: str = "auto",
) -> Tensor:
    """sum_c log softmax((W f + b)_c)[x_c], nats: a 1x1 convolution and a softmax, the logits never whole.

    Equal to the categorical log-probability of x under conv2d(features, weight, bias), a chunk of pixels at a time in
    both directions: of the logits [N, P, H, W] and their gradient a few megabytes exist at a time (on CUDA 64 of half
    precision and 128 of float32).

    Shapes: features [N, F, H, W], weight [P, F, 1, 1] or [P, F], bias [P] or None, x [N, C, H, W] -> [N, H, W].
        P = C levels; the logit of level l of channel c is output c levels + l. features contiguous or channels_last
        (other strides are copied); their gradient likewise.
    Dtypes: x uint8 levels, or float 2 level / (levels - 1) - 1, rounded to the nearest level; features, weight, bias
        float16, bfloat16, float32 or float64, all the same (under autocast they are converted as for a convolution, and
        float32 takes TF32 where one may). Computed and returned in float64 for float64, else in float32. Gradients of
        weight and bias are summed over chunks in that.
    Gradient order: first, with respect to features, weight and bias; exact for any gradient by pixel. impl="reference":
        any order. In float32 and float64 a gradient that differs between pixels costs a second evaluation, and to find
        out the backward looks at it once, which on CUDA waits for the forward.
    impl: "auto"; "triton" for the softmax's kernel on each chunk; "reference" for the two steps, with all logits.
    Raises: ValueError for shapes, levels, devices or impl that do not fit; TypeError for dtypes; on the CPU ValueError
        for what is no level (on CUDA such a pixel gets NaN). RuntimeError for impl="triton" where it cannot run, and
        for a second derivative.
    Source: van den Oord et al., "Pixel Recurrent Neural Networks", ICML 2016; Wijmans et al., "Cut Your Losses in
        Large-Vocabulary Language Models", ICLR 2025.
    """
    name = "categorical_head_log_prob"
    features, weight, bias = _prepare(name, features, weight, bias, x, impl)
    if not (isinstance(levels, int) and 2 <= levels <= 256):
        raise ValueError(f"{name}: levels must be an integer in 2..256; got {levels!r}.")
    if x.shape[1] < 1 or len(weight) != x.shape[1] * levels:
        raise ValueError(
            f"{name}: weight must be [C levels, F] = [{x.shape[1] * levels}, {features.shape[1]}] for x of "
            f"{x.shape[1]} channels; got {shape_of(weight)}; give each channel {levels} outputs."
        )
    _check_values(name, x, levels)
    x = to_levels(x, levels)
    if impl == "reference":
        return categorical_head_log_prob_reference(features, weight, bias, x, levels=levels)
    return _run(
        features,
        weight,
        bias,
        x,
        Categorical(levels, impl),
        op.categorical_head_log_prob_forward,
        op.categorical_head_log_prob_backward,
        (levels, impl),
    )


def _run(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    x: Tensor,
    likelihood: Likelihood,
    forward: Callable[..., Tensor],
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]],
    options: tuple[Any, ...],
) -> Tensor:
    """The registered op, or the same without the dispatcher: in plain operations, or with the gradient along."""
    x = x.detach()
    if not features.is_contiguous() and not features.is_contiguous(memory_format=torch.channels_last):
        features = features.contiguous()
    weight = weight.contiguous()
    eager = not torch.compiler.is_compiling()
    by_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in (features, weight, bias))
    if eager and by_gradient and op.takes_gradient_early(features):
        log_prob: Tensor = op.ValueWithGradient.apply(features, weight, bias, x, likelihood, backward, options)
        return log_prob
    if by_gradient or not eager or options[-1] == "triton" or auto_takes_triton(features.device):
        return forward(features, weight, bias, x, *options)
    return Head(features, weight, bias, x, likelihood).log_prob()


def _prepare(
    name: str, features: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor, impl: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Check what both heads need; return features, weight [P, F] and bias [P] in one dtype."""
    if features.ndim != 4 or x.ndim != 4 or x.shape[0] != features.shape[0] or x.shape[2:] != features.shape[2:]:
        raise ValueError(
            f"{name}: features must be [N, F, H, W] and x [N, C, H, W] with the same N, H, W; got "
            f"{shape_of(features)} and {shape_of(x)}; images are channels first."
        )
    if (weight.ndim != 2 and (weight.ndim != 4 or weight.shape[2:] != (1, 1))) or weight.shape[1] != features.shape[1]:
        raise ValueError(
            f"{name}: weight must be [P, F] or [P, F, 1, 1] with F = {features.shape[1]}; got {shape_of(weight)}; the "
            "head is a 1x1 convolution without groups."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"{name}: bias must be [P] = [{weight.shape[0]}] or None; got {shape_of(bias)}.")
    check_float(name, "features", features)
    check_float(name, "weight", weight)
    weight = weight.reshape(weight.shape[:2])
    if bias is None:
        bias = weight.new_zeros(weight.shape[0])
    if x.dtype != torch.uint8:
        if not x.is_floating_point():
            raise TypeError(
                f"{name}: x must be uint8 levels or float in [-1, 1]; got {x.dtype}; use x.to(torch.uint8)."
            )
        check_float(name, "x", x)
    check_same_device(name, features=features, weight=weight, bias=bias, x=x)
    check_impl(name, impl, features.device)
    if torch.is_autocast_enabled(features.device.type) and features.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(features.device.type)
        features, weight, bias = features.to(dtype), weight.to(dtype), bias.to(dtype)
    if features.dtype != weight.dtype or features.dtype != bias.dtype:
        raise TypeError(
            f"{name}: features, weight and bias must have one dtype; got {features.dtype}, {weight.dtype}, "
            f"{bias.dtype}; convert them."
        )
    if impl == "triton" and features.dtype == torch.float64:
        raise RuntimeError(f"{name}: impl='triton' computes in float32; got float64; use impl='auto' or float32.")
    if features.device.type == "cuda" and features.shape[1:].numel() >= LIMIT:
        raise ValueError(
            f"{name}: the features of one image must number less than 2^31; got {shape_of(features)}; split the image "
            "into rows."
        )
    return features, weight, bias


def _check_values(name: str, x: Tensor, levels: int) -> None:
    """On a CPU, where looking at x is cheap."""
    if not torch.compiler.is_compiling() and x.device.type == "cpu":
        check_levels(name, x, levels)
