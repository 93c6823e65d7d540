"""The public function: validation and the choice of an implementation."""

from __future__ import annotations

import difflib
import math

import torch
from torch import Tensor

from fastgen.kernels._common.checks import LIMIT, check_float, check_impl, check_same_device, shape_of
from fastgen.kernels._common.dispatch import auto_takes_triton, recording
from fastgen.kernels.bias_act import op
from fastgen.kernels.bias_act.analytic import keeps_output
from fastgen.kernels.bias_act.reference import ACTIVATIONS, bias_act_reference, scale_and_noise

NAME = "bias_act"


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    *,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """y = clamp(gain act(x scale + noise + b)), clamp(v) = max(-clamp, min(v, clamp)).

    act is one of linear; relu, max(v, 0); lrelu, v or alpha v where v < 0; tanh; sigmoid; elu; selu; softplus,
    ln(1 + e^v); swish, v sigmoid(v). By default alpha is 0.2, and gain sqrt 2 for relu, lrelu and swish, 1 for others.
    A gradient is zero where the clamp holds, and on its bounds.

    The output is kept for the gradient; for swish, and lrelu with alpha < 0, the input instead; for linear without a
    clamp nothing. With `scale` the input is kept too where the scale needs a gradient.

    Shapes: x any, b [x.shape[dim]] -> the shape and layout of x (dense in any order of its dimensions; else as
        `torch.empty_like` has it). scale [N, C] and noise [N or 1, 1, *spatial] for x [N, C, *spatial], dim=1.
    Dtypes: float16, bfloat16, float32 or float64; b, scale and noise may have others than x. float16 and bfloat16 are
        computed in float32 and rounded once; so are sums for gradients.
    Gradient order: first and second, by x, b, scale and noise; any on a CPU and with impl="reference".
    impl: "auto", or "triton" or "reference" to insist on one. Sums are formed in a fixed order: equal arguments give
        equal bits.
    Raises: ValueError for shapes, dim, act, alpha, gain, clamp or impl that do not fit; TypeError for dtypes;
        RuntimeError for impl="triton" where it cannot run, and for a third derivative of the kernels.
    Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020, for what is fused;
        swish: Ramachandran et al., "Searching for Activation Functions", 2017; selu: Klambauer et al., NeurIPS 2017.
    """
    activation = ACTIVATIONS.get(act)
    if activation is None:
        near = difflib.get_close_matches(str(act).lower(), ACTIVATIONS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(ACTIVATIONS)}."
        raise ValueError(f"{NAME}: act must be the name of an activation; got {act!r}; {hint}")
    check_float(NAME, "x", x)
    if b is not None:
        dim = _check_bias(x, b, dim)
    if scale is not None or noise is not None:
        _check_scale_and_noise(x, scale, noise, dim)
    alpha = _check_alpha(act, activation.alpha, alpha)
    gain = activation.gain if gain is None else float(gain)
    if not math.isfinite(gain):
        raise ValueError(f"{NAME}: gain must be finite; got {gain}.")
    if clamp is not None and not clamp >= 0:
        raise ValueError(f"{NAME}: clamp must not be negative; got {clamp}; pass None for no clamp.")
    check_impl(NAME, impl, x.device)
    if impl == "triton" and x.dtype == torch.float64:
        raise RuntimeError(f"{NAME}: impl='triton' computes in float32; got float64 x; use impl='auto' or float32.")
    if impl == "reference":
        return bias_act_reference(x, b, dim, act, alpha, gain, clamp, scale=scale, noise=noise)
    bound = None if clamp is None or math.isinf(clamp) else float(clamp)
    dim = dim if b is not None or scale is not None or noise is not None else 0
    fused = scale is None and noise is None
    if impl == "triton" or (auto_takes_triton(x.device) and x.dtype != torch.float64):
        if not fused and not keeps_output(act, alpha):  # what would be kept is the input of the bias
            x, scale, noise = scale_and_noise(x, scale, noise).to(x.dtype), None, None
        _check_size(x, b, dim)
        y: Tensor = op.bias_act_forward(x, b, scale, noise, dim, act, alpha, gain, bound, impl)
        return y
    needs_gradient = torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad))
    if fused and needs_gradient and not torch.compiler.is_compiling() and not recording():
        return op.BiasAct.apply(x, b, dim, act, alpha, gain, bound)
    return bias_act_reference(x, b, dim, act, alpha, gain, bound, scale=scale, noise=noise)


def _check_bias(x: Tensor, b: Tensor, dim: int) -> int:
    """The dimension, counted from the first."""
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"{NAME}: dim must be a dimension of x, {shape_of(x)}; got {dim}.")
    if b.ndim != 1 or b.shape[0] != x.shape[dim]:
        raise ValueError(
            f"{NAME}: b must be [{int(x.shape[dim])}], one for each entry of dimension {dim} of x {shape_of(x)}; "
            f"got {shape_of(b)}."
        )
    check_float(NAME, "b", b)
    check_same_device(NAME, x=x, b=b)
    return dim % x.ndim


def _check_scale_and_noise(x: Tensor, scale: Tensor | None, noise: Tensor | None, dim: int) -> None:
    if x.ndim < 2 or dim != 1:
        raise ValueError(
            f"{NAME}: scale and noise are for x [N, C, *spatial] with dim=1; got {shape_of(x)} and dim={dim}."
        )
    if scale is not None:
        if scale.shape != x.shape[:2]:
            raise ValueError(f"{NAME}: scale must be [N, C] of x, {shape_of(x)}; got {shape_of(scale)}.")
        check_float(NAME, "scale", scale)
        check_same_device(NAME, x=x, scale=scale)
    if noise is not None:
        if noise.ndim != x.ndim or noise.shape[1:] != (1, *x.shape[2:]) or noise.shape[0] not in (1, x.shape[0]):
            raise ValueError(
                f"{NAME}: noise must be [N or 1, 1, *spatial] of x, {shape_of(x)}; got {shape_of(noise)}; "
                "it is the same for all channels."
            )
        check_float(NAME, "noise", noise)
        check_same_device(NAME, x=x, noise=noise)


def _check_alpha(act: str, default: float | None, alpha: float | None) -> float:
    if alpha is None:
        return default or 0.0
    if default is None:
        raise ValueError(f"{NAME}: alpha is the slope of lrelu; got alpha={alpha} for {act!r}; leave it out.")
    if not math.isfinite(alpha):
        raise ValueError(f"{NAME}: alpha must be finite; got {alpha}.")
    return float(alpha)


def _check_size(x: Tensor, b: Tensor | None, dim: int) -> None:
    """Offsets within a row are 32 bits wide in the kernels."""
    period = x.numel() // max(1, math.prod(x.shape[: dim + 1])) if x.ndim else 1
    if period >= LIMIT // 2:
        raise ValueError(
            f"{NAME}: a channel of an image must have less than 2^30 elements; got {shape_of(x)}; split it."
        )
