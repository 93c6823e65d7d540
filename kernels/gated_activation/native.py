"""The ops in compiled C on a CPU: one pass over the memory each, forward and backward; see native.c."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fastgen._cpu.eager import REALS, openmp
from fastgen._cpu.toolchain import CompilerError, load
from fastgen.kernels.gated_activation.analytic import sum_to_bias
from fastgen.kernels.gated_activation.layout import as_layout, dense, like
from fastgen.kernels.gated_activation.reference import keep_threshold

SOURCE = Path(__file__).with_name("native.c")
ELEMENTS_A_THREAD = 2**14  # a second thread costs what so many elements do
Padding = tuple[int, int, int, int]  # zeros left, right, above and below


class Elu(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("images", "channels", "height", "width")),
        *((name, ctypes.c_int64) for name in ("left", "right", "top", "bottom", "last")),
        ("seed", ctypes.c_uint64), ("threshold", ctypes.c_int64), ("scale", ctypes.c_double),
        ("threads", ctypes.c_int64),
    )  # fmt: skip


class Gate(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64) for name in ("images", "channels", "pixels", "last", "tanh", "bias_image", "threads")
    )


@functools.cache
def library(dtype: torch.dtype) -> ctypes.CDLL:
    """The compiled native.c for a dtype.

    Raises: CompilerError.
    """
    built = load(SOURCE, REALS[dtype], openmp())
    if built.elu_bytes() != ctypes.sizeof(Elu) or built.gate_bytes() != ctypes.sizeof(Gate):
        raise CompilerError("the compiler lays structures out in another way")
    for name, pointers in (("concat_elu", 3), ("concat_elu_backward", 4), ("gate", 5), ("gate_backward", 5)):
        function = getattr(built, name)
        function.argtypes, function.restype = (ctypes.c_void_p,) * pointers, None
    return built


def concat_elu(x: Tensor, dropout: float, seed: int, padding: Padding) -> tuple[Tensor, Elu]:
    """(drop(elu([x, -x])) with zeros around it, what the backward needs besides it).

    What is dropped is -0, a zero of another reason +0: so the result tells its own derivative.
    Shapes: x [N, C, *spatial] -> [N, 2C, *spatial], padded as `torch.nn.functional.pad` does.
    """
    x, last = dense(x)
    n, channels, *spatial = x.shape
    left, right, top, bottom = padding
    if any(padding):
        last = last and not x.is_contiguous()  # one pixel is both
        height, width = spatial
        spatial = [top + height + bottom, left + width + right]
    else:
        height, width = 1, math.prod(spatial)
    y = like(x, 2 * channels, last, spatial)
    threshold, scale = (keep_threshold(dropout), 1 / (1 - dropout)) if dropout else (0, 1.0)
    elu = Elu(n, channels, height, width, *padding, last, seed, threshold, scale, _threads(x))
    _run("concat_elu", x.dtype, elu, x, y)
    return y, elu


def concat_elu_backward(grad: Tensor, y: Tensor, elu: Elu, spatial: Sequence[int]) -> Tensor:
    """grad [N, 2C, ...] times the derivative of y by x [N, C, *spatial]."""
    grad = as_layout(grad, bool(elu.last))
    by_x = like(y, elu.channels, bool(elu.last), spatial)
    _run("concat_elu_backward", y.dtype, elu, y, grad, by_x)
    return by_x


def gate(x: Tensor, bias: Tensor | None, residual: Tensor | None, kind: str) -> Tensor:
    """The gate of x + bias, plus residual; as `gated_activation` without dropout."""
    x, last = dense(x)
    y = like(x, x.shape[1] // 2, last)
    options, bias = _gate(x, bias, kind, last)
    _run("gate", x.dtype, options, x, bias, None if residual is None else as_layout(residual, last), y)
    return y


def gate_backward(grad: Tensor, x: Tensor, bias: Tensor | None, kind: str) -> tuple[Tensor, Tensor | None]:
    """(grad [N, C, *spatial] times the derivative of gate(x + bias) by x, the same by the bias if there is one)."""
    x, last = dense(x)
    by_x = like(x, x.shape[1], last)
    options, added = _gate(x, bias, kind, last)
    _run("gate_backward", x.dtype, options, x, added, as_layout(grad, last), by_x)
    return by_x, sum_to_bias(by_x, bias)


def _gate(x: Tensor, bias: Tensor | None, kind: str, last: bool) -> tuple[Gate, Tensor]:
    n, channels, *spatial = x.shape
    bias = x.new_zeros(channels) if bias is None else bias.to(x.dtype).contiguous()
    distance = channels if bias.ndim == 2 else 0
    return Gate(n, channels // 2, math.prod(spatial), last, kind == "tanh", distance, _threads(x)), bias


def _threads(x: Tensor) -> int:
    return max(1, min(torch.get_num_threads(), x.numel() // ELEMENTS_A_THREAD))


def _run(name: str, dtype: torch.dtype, options: ctypes.Structure, *tensors: Tensor | None) -> None:
    getattr(library(dtype), name)(ctypes.addressof(options), *(None if t is None else t.data_ptr() for t in tensors))
