"""The public functions: validation and the choice of an implementation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen._cpu.eager import runs_on
from fastgen.kernels._common.checks import LIMIT, check_float, check_impl, check_same_device, shape_of
from fastgen.kernels._common.dispatch import auto_takes_triton
from fastgen.kernels.gated_activation import op
from fastgen.kernels.gated_activation.reference import concat_elu_reference, gated_activation_reference

KINDS = ("tanh", "linear")


def gated_activation(
    x: Tensor,
    *,
    kind: str = "tanh",
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    impl: str = "auto",
) -> Tensor:
    """y = drop(tanh(a + bias_a) s(b + bias_b)) + residual, [a, b] = x; with kind="linear" a + bias_a for its tanh.

    s is the logistic sigmoid. drop zeroes an element with probability `dropout` and divides the others by
    1 - dropout. Which ones is a function of the seed and the element's place alone: channel c of pixel s of image n
    is dropped if word c % 4 of Philox4x32-10 at the counter (s, c // 4, n, 0) is below dropout 2^32. So a mask is
    the same at any batch size, in any layout and on any device, and is never stored.

    Shapes: x [N, 2C, *spatial], bias [2C] or one for each image [N, 2C], residual [N, C, *spatial]
        -> [N, C, *spatial] in the layout of x, channels first or channels last (other strides are copied).
    Dtypes: float16, bfloat16, float32 or float64; residual has that of x, bias may have another. float16 and bfloat16
        are computed in float32 and rounded once; so are sums for the gradient of the bias.
    Gradient order: first, by x, bias and residual; any on a CPU and with impl="reference".
    seed: an int in [0, 2^64), required where dropout > 0; a new one each step.
    impl: "auto", or "triton" or "reference" to insist on one.
    Raises: ValueError for shapes, kind, dropout, seed or impl that do not fit; TypeError for dtypes; RuntimeError for
        impl="triton" where it cannot run, and for a second derivative of the kernel.
    Source: van den Oord et al., "Conditional Image Generation with PixelCNN Decoders", NeurIPS 2016; linear: Dauphin
        et al., "Language Modeling with Gated Convolutional Networks", ICML 2017.
    """
    name = "gated_activation"
    if x.ndim < 2 or x.shape[1] < 2 or x.shape[1] % 2:
        raise ValueError(
            f"{name}: x must be [N, 2C, *spatial] with an even number of channels; got {shape_of(x)}; give the layer "
            "before it two outputs a channel."
        )
    if kind not in KINDS:
        raise ValueError(f"{name}: kind must be one of {', '.join(map(repr, KINDS))}; got {kind!r}.")
    _check(name, x, bias, x.shape[1])
    if residual is not None:
        wanted = (x.shape[0], x.shape[1] // 2, *x.shape[2:])
        if residual.shape != wanted:
            raise ValueError(
                f"{name}: residual must have the shape of the result, {list(wanted)}; "
                f"got {shape_of(residual)}; expand it."
            )
        if residual.dtype != x.dtype:
            raise TypeError(f"{name}: residual must be {x.dtype} like x; got {residual.dtype}; convert one of them.")
        check_same_device(name, x=x, residual=residual)
    seed = _check_dropout(name, dropout, seed)
    _check_impl(name, impl, x)
    if impl == "reference":
        return gated_activation_reference(x, kind=kind, bias=bias, residual=residual, dropout=dropout, seed=seed)
    if _takes_op(impl, x, dropout):
        y: Tensor = op.gated_activation_forward(x, bias, residual, kind, float(dropout), _signed(seed), impl)
        return y
    if not dropout and _needs_gradient(x, bias) and runs_on(x):
        return op.NativeGate.apply(x, bias, residual, kind)
    # aten's gradient of a gate whose channels come last is ten times as slow as ours
    beats_aten = dropout > 0 or (kind == "linear" and _channels_last(x) and not torch.compiler.is_compiling())
    if beats_aten and _needs_gradient(x, bias):
        return op.RecomputedGate.apply(x, bias, residual, kind, dropout, seed)
    return gated_activation_reference(x, kind=kind, bias=bias, residual=residual, dropout=dropout, seed=seed)


def concat_elu(
    x: Tensor,
    *,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    impl: str = "auto",
) -> Tensor:
    """y = drop(elu([x + bias, -(x + bias)])), concatenated over channels; elu(v) = v for v > 0, else e^v - 1.

    drop as in `gated_activation`; the two halves draw apart, with counters (s, c // 4, n, 0) and (s, c // 4, n, 1).
    padding puts zeros (left, right, above, below) y, for a convolution that pads on one side more than on the other.

    Shapes: x [N, C, *spatial], bias [C] or one for each image [N, C] -> [N, 2C, *spatial] in the layout of x, channels
        first or channels last (other strides are copied); with padding [N, C, H, W] ->
        [N, 2C, above + H + below, left + W + right].
    Dtypes: float16, bfloat16, float32 or float64; bias may have another than x. float16 and bfloat16 are computed in
        float32 and rounded once; so are sums for the gradient of the bias.
    Gradient order: first, by x and bias; any on a CPU and with impl="reference".
    seed: an int in [0, 2^64), required where dropout > 0; a new one each step.
    impl: "auto", or "triton" or "reference" to insist on one.
    Raises: ValueError for shapes, dropout, seed, padding or impl that do not fit; TypeError for dtypes; RuntimeError
        for impl="triton" where it cannot run, and for a second derivative of the kernel.
    Source: Shang et al., "Understanding and Improving Convolutional Neural Networks via Concatenated Rectified Linear
        Units", ICML 2016, with elu for relu.
    """
    name = "concat_elu"
    if x.ndim < 2 or x.shape[1] < 1:
        raise ValueError(f"{name}: x must be [N, C, *spatial] with at least one channel; got {shape_of(x)}.")
    _check(name, x, bias, x.shape[1])
    seed = _check_dropout(name, dropout, seed)
    if any(padding) and (x.ndim != 4 or len(padding) != 4 or min(padding) < 0):
        raise ValueError(
            f"{name}: padding must be (left, right, above, below), none negative, around images [N, C, H, W]; got "
            f"{padding} for x of {shape_of(x)}."
        )
    _check_impl(name, impl, x)
    if impl == "auto" and bias is None and _needs_gradient(x, None) and runs_on(x):
        return op.NativeElu.apply(x, dropout, seed, padding)
    y = _concat_elu(x, bias, dropout, seed, impl)
    return F.pad(y, padding) if any(padding) else y


def _concat_elu(x: Tensor, bias: Tensor | None, dropout: float, seed: int, impl: str) -> Tensor:
    if impl == "reference":
        return concat_elu_reference(x, bias=bias, dropout=dropout, seed=seed)
    if _takes_op(impl, x, dropout):
        y: Tensor = op.concat_elu_forward(x, bias, float(dropout), _signed(seed), impl)
        return y
    if _needs_gradient(x, bias) and not torch.compiler.is_compiling():
        if bias is None and not dropout and x.dtype in (torch.float32, torch.float64):
            return op.EluOfBoth.apply(x)
        return op.RecomputedElu.apply(x, bias, dropout, seed)
    return concat_elu_reference(x, bias=bias, dropout=dropout, seed=seed)


def _check(name: str, x: Tensor, bias: Tensor | None, channels: int) -> None:
    check_float(name, "x", x)
    if bias is not None:
        if tuple(bias.shape) not in ((channels,), (x.shape[0], channels)):
            raise ValueError(
                f"{name}: bias must be [{channels}] or [{x.shape[0]}, {channels}], one for each channel of x and "
                f"perhaps each image; got {shape_of(bias)}."
            )
        check_float(name, "bias", bias)
        check_same_device(name, x=x, bias=bias)


def _check_dropout(name: str, dropout: float, seed: int | None) -> int:
    """The seed; 0 where it does not matter."""
    if not 0 <= dropout < 1:
        raise ValueError(f"{name}: dropout must be in [0, 1); got {dropout}.")
    if not dropout:
        return 0
    if seed is None:
        raise ValueError(
            f"{name}: dropout needs a seed; got dropout={dropout} and seed=None; pass a new int each step."
        )
    if not 0 <= seed < 2**64:
        raise ValueError(f"{name}: seed must be in [0, 2^64); got {seed}; reduce it modulo 2**64.")
    return seed


def _check_impl(name: str, impl: str, x: Tensor) -> None:
    check_impl(name, impl, x.device)
    if impl == "triton" and x.dtype == torch.float64:
        raise RuntimeError(f"{name}: impl='triton' computes in float32; got float64 x; use impl='auto' or float32.")
    if x.is_cuda and x.numel() // max(1, x.shape[0]) >= LIMIT // 2:
        raise ValueError(f"{name}: one image must have less than 2^30 elements; got {shape_of(x)}; split it into rows.")


def _takes_op(impl: str, x: Tensor, dropout: float) -> bool:
    """Triton goes through the op, and so does what the compiler could not look into: Philox on large integers."""
    if impl == "triton" or (auto_takes_triton(x.device) and x.dtype != torch.float64):
        return True
    return dropout > 0 and torch.compiler.is_compiling()


def _needs_gradient(x: Tensor, bias: Tensor | None) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))


def _channels_last(x: Tensor) -> bool:
    return x.stride(1) == 1 and not x.is_contiguous()


def _signed(seed: int) -> int:
    """The same 64 bits as a number that a schema's int can hold."""
    return seed - 2**64 if seed >= 2**63 else seed
