"""The public functions: validation and the choice of an implementation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastgen.kernels._common.checks import LIMIT, check_float, check_impl, check_same_device, shape_of
from fastgen.kernels._common.dispatch import auto_takes_triton, recording
from fastgen.kernels.upfirdn2d import op
from fastgen.kernels.upfirdn2d.geometry import Geometry
from fastgen.kernels.upfirdn2d.reference import upfirdn2d_reference
from fastgen.kernels.upfirdn2d.strided import upfirdn2d_strided

Numbers = int | Sequence[int]
SEPARABLE_FROM = 8  # taps: from here on two passes of one dimension are fewer operations and not more traffic


def setup_filter(
    f: Tensor | Sequence[float] | Sequence[Sequence[float]] | float | None,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1.0,
    separable: bool | None = None,
) -> Tensor:
    """A filter for `upfirdn2d`: f as float32, with sum 1 if normalize, turned round if flip_filter, times gain.

    Shapes: a number, [K] for both axes, or [Kh, Kw] -> [K] if separable, else [Kh, Kw]. None is the filter that
        changes nothing, a number a filter of one tap.
    separable: keep [K] for two passes; by default from 8 taps on. A gain is of the whole: each pass has its root.
    Dtypes: float32. Gradient order: none, a filter is a constant.
    Raises: ValueError for another shape, separable=True with [Kh, Kw], a sum of zero to normalize, and gain < 0 that
        is to be split in two.
    """
    name = "setup_filter"
    taps = torch.as_tensor(1.0 if f is None else f, dtype=torch.float32, device=device).detach()
    if taps.ndim > 2 or not taps.numel():
        raise ValueError(f"{name}: a filter must be a number, [K] or [Kh, Kw]; got {shape_of(taps)}.")
    if taps.ndim == 0:
        taps = taps[None]
    if separable is None:
        separable = taps.ndim == 1 and taps.shape[0] >= SEPARABLE_FROM
    if separable and taps.ndim == 2:
        raise ValueError(f"{name}: a separable filter must be [K]; got {shape_of(taps)}; pass its factor.")
    if taps.ndim == 1 and not separable:
        taps = taps[:, None] * taps[None, :]
    if normalize:
        total = taps.sum()
        if total == 0:
            raise ValueError(f"{name}: a filter that sums to zero cannot be normalized; pass normalize=False.")
        taps = taps / total
    if flip_filter:
        taps = taps.flip(tuple(range(taps.ndim)))
    if gain < 0 and taps.ndim == 1:
        raise ValueError(f"{name}: gain must not be negative for a separable filter; got {gain}.")
    return taps * gain ** (taps.ndim / 2)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Numbers = 1,
    down: Numbers = 1,
    padding: Numbers = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    *,
    impl: str = "auto",
) -> Tensor:
    """y[m] = gain sum_k f[k] z[m down + K - 1 - k] along both axes, z[i] = x[(i - before) / up] or zero.

    In words: insert up - 1 zeros after each pixel, pad (or crop, by less than zero), convolve with f without further
    padding, keep every down-th. With flip_filter the sum runs over f[k] z[m down + k], a correlation.

    Shapes: x [N, C, H, W], f [Kh, Kw], or [K] along both axes, or None for one tap of 1 -> [N, C, H', W'] with
        H' = floor((H up + top + bottom - Kh) / down) + 1, in the layout of x, channels first or channels last (others
        become channels first).
    up, down: a number or (of columns, of rows). padding: a number, (columns, rows) or (left, right, top, bottom).
    Dtypes: float16, bfloat16, float32 or float64; f may have another. Each pass is computed in float32 (float64) and
        rounded once; f [K] takes two.
    Gradient order: any, by x: the gradient is the same op with the filter turned round and up for down. f is a
        constant.
    impl: "auto", or "triton" or "reference" to insist on one.
    Raises: ValueError for shapes, factors, padding or impl that do not fit, no output, an f that requires a gradient;
        TypeError for dtypes; RuntimeError for impl="triton" where it cannot run.
    Source: Vaidyanathan, "Multirate Systems and Filter Banks", 1993, chapter 4; Karras et al., "Analyzing and Improving
        the Image Quality of StyleGAN", CVPR 2020, for its use.
    """
    return _resample("upfirdn2d", x, f, _pair("upfirdn2d", "up", up), _pair("upfirdn2d", "down", down),
                     _sides("upfirdn2d", padding), flip_filter, gain, impl)  # fmt: skip


def filter2d(
    x: Tensor,
    f: Tensor | None,
    padding: Numbers = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    *,
    impl: str = "auto",
) -> Tensor:
    """`upfirdn2d` that keeps the size: padded by K // 2 before and (K - 1) // 2 after, and by `padding` on top.

    Shapes: x [N, C, H, W] -> [N, C, H, W] for padding=0. The rest is as in `upfirdn2d`.
    """
    name = "filter2d"
    taps_y, taps_x = _taps(name, f)
    left, right, top, bottom = _sides(name, padding)
    sides = (left + taps_x // 2, right + (taps_x - 1) // 2, top + taps_y // 2, bottom + (taps_y - 1) // 2)
    return _resample(name, x, f, (1, 1), (1, 1), sides, flip_filter, gain, impl)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: Numbers = 2,
    padding: Numbers = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    *,
    impl: str = "auto",
) -> Tensor:
    """`upfirdn2d` to `up` times the size, times up_x up_y: of a filter with sum 1 brightness stays.

    Shapes: x [N, C, H, W] -> [N, C, H up, W up] for padding=0, centred: padded by (K + up - 1) // 2 before and
        (K - up) // 2 after. The rest is as in `upfirdn2d`.
    """
    name = "upsample2d"
    up_x, up_y = _pair(name, "up", up)
    taps_y, taps_x = _taps(name, f)
    left, right, top, bottom = _sides(name, padding)
    sides = (
        left + (taps_x + up_x - 1) // 2,
        right + (taps_x - up_x) // 2,
        top + (taps_y + up_y - 1) // 2,
        bottom + (taps_y - up_y) // 2,
    )
    return _resample(name, x, f, (up_x, up_y), (1, 1), sides, flip_filter, gain * up_x * up_y, impl)


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: Numbers = 2,
    padding: Numbers = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    *,
    impl: str = "auto",
) -> Tensor:
    """`upfirdn2d` to one `down`-th of the size, centred: padded by (K - down + 1) // 2 before, (K - down) // 2 after.

    Shapes: x [N, C, H, W] -> [N, C, H / down, W / down] for padding=0 and whole quotients. The rest is as in
        `upfirdn2d`.
    """
    name = "downsample2d"
    down_x, down_y = _pair(name, "down", down)
    taps_y, taps_x = _taps(name, f)
    left, right, top, bottom = _sides(name, padding)
    sides = (
        left + (taps_x - down_x + 1) // 2,
        right + (taps_x - down_x) // 2,
        top + (taps_y - down_y + 1) // 2,
        bottom + (taps_y - down_y) // 2,
    )
    return _resample(name, x, f, (1, 1), (down_x, down_y), sides, flip_filter, gain, impl)


def _resample(
    name: str,
    x: Tensor,
    f: Tensor | None,
    up: tuple[int, int],
    down: tuple[int, int],
    sides: tuple[int, int, int, int],
    flip: bool,
    gain: float,
    impl: str,
) -> Tensor:
    if x.ndim != 4:
        raise ValueError(f"{name}: x must be [N, C, H, W]; got {shape_of(x)}.")
    check_float(name, "x", x)
    taps_y, taps_x = _taps(name, f)
    if f is None:
        f = torch.ones(1, 1, device=x.device)
    check_float(name, "f", f)
    check_same_device(name, x=x, f=f)
    if f.requires_grad:
        raise ValueError(f"{name}: f is a constant; got an f that requires a gradient; detach it.")
    if not math.isfinite(gain):
        raise ValueError(f"{name}: gain must be finite; got {gain}.")
    geometry = Geometry(*up, *down, *sides)
    height, width = x.shape[2:]
    size = geometry.output_size(height, width, taps_y, taps_x)
    if min(size) < 1:
        raise ValueError(
            f"{name}: something must be left; got {height} x {width} pixels, up {up[1]} x {up[0]}, padding {sides} "
            f"(left, right, top, bottom) and {taps_y} x {taps_x} taps; pad more, or take a shorter filter."
        )
    check_impl(name, impl, x.device)
    if impl == "triton" and x.dtype == torch.float64:
        raise RuntimeError(f"{name}: impl='triton' computes in float32; got float64 x; use impl='auto' or float32.")
    if x.is_cuda and x.shape[1] * max(height * width, size[0] * size[1]) >= LIMIT:
        raise ValueError(f"{name}: one image must have less than 2^31 elements; got {shape_of(x)} to {list(size)}.")
    if impl == "reference":
        return upfirdn2d_reference(x, f, up, down, sides, flip, gain)
    if f.ndim == 1:
        x = _pass(x, f[None, :], geometry.along_x(), flip, 1.0, impl)
        return _pass(x, f[:, None], geometry.along_y(), flip, gain, impl)
    return _pass(x, f, geometry, flip, gain, impl)


def _pass(x: Tensor, f: Tensor, geometry: Geometry, flip: bool, gain: float, impl: str) -> Tensor:
    if impl == "triton" or (auto_takes_triton(x.device) and x.dtype != torch.float64):
        y: Tensor = op.upfirdn2d_forward(x, f, *geometry, flip, float(gain), impl)
        return y
    if torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling() and not recording():
        return op.Resampled.apply(x, f, geometry, flip, gain)
    return upfirdn2d_strided(x, f, geometry, flip, gain)


def _taps(name: str, f: Tensor | None) -> tuple[int, int]:
    """Height and width of a filter."""
    if f is None:
        return 1, 1
    if f.ndim not in (1, 2) or not f.numel():
        raise ValueError(f"{name}: f must be [K] or [Kh, Kw] with at least one tap; got {shape_of(f)}.")
    return int(f.shape[0]), int(f.shape[-1])


def _pair(name: str, what: str, value: Numbers) -> tuple[int, int]:
    """(of columns, of rows)."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(factor, int) and factor >= 1 for factor in pair):
        raise ValueError(f"{name}: {what} must be an int of at least 1, or two (columns, rows); got {value!r}.")
    return pair[0], pair[1]


def _sides(name: str, value: Numbers) -> tuple[int, int, int, int]:
    """(left, right, top, bottom)."""
    sides = (value,) if isinstance(value, int) else tuple(value)
    if len(sides) not in (1, 2, 4) or not all(isinstance(side, int) for side in sides):
        raise ValueError(
            f"{name}: padding must be an int, (columns, rows) or (left, right, top, bottom); got {value!r}."
        )
    if len(sides) == 4:
        return sides[0], sides[1], sides[2], sides[3]
    return sides[0], sides[0], sides[-1], sides[-1]
