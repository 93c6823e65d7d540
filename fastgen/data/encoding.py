"""Signals in [-1, 1] as levels and back: mu-law companding, or evenly spaced levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ENCODINGS = ("mu-law", "linear")


def mu_law_encode(x: Tensor, levels: int = 256) -> Tensor:
    """Level nearest to f(x) = sign(x) log(1 + mu |x|) / log(1 + mu), mu = levels - 1, of levels evenly in [-1, 1].

    Shapes: any. Dtypes: float in [-1, 1] -> uint8, or int32 for more than 256 levels; float64 is computed as such,
        anything else in float32. Gradient order: none.

    Raises:
        TypeError: x is not floating point.
        ValueError: fewer than 2 levels; x that is NaN or outside [-1, 1] (read on the CPU only).
    Source: ITU-T G.711; van den Oord et al. 2016, WaveNet, https://arxiv.org/abs/1609.03499, section 2.2.
    """
    from fastgen.likelihoods import signal_to_levels

    mu = _mu("mu_law_encode", levels)
    _check_signal("mu_law_encode", x)
    x = x if x.dtype == torch.float64 else x.float()
    return signal_to_levels(torch.copysign(torch.log1p(mu * x.abs()) / torch.log1p(x.new_tensor(mu)), x), levels)


def mu_law_decode(level: Tensor, levels: int = 256, dtype: torch.dtype = torch.float32) -> Tensor:
    """Signal sign(y) ((1 + mu)^|y| - 1) / mu of the level at y = 2 level / mu - 1, mu = levels - 1.

    Shapes: any. Dtypes: integers -> `dtype`, in [-1, 1]. Gradient order: none.

    Raises:
        TypeError: levels that are not integers.
        ValueError: fewer than 2 levels.
    Source: as `mu_law_encode`.
    """
    from fastgen.likelihoods import levels_to_signal

    mu = _mu("mu_law_decode", levels)
    if level.dtype.is_floating_point or level.dtype == torch.bool:
        raise TypeError(f"mu_law_decode: levels must be integers; got {level.dtype}; encode the signal first.")
    y = levels_to_signal(level, levels, dtype)
    return torch.copysign(torch.expm1(y.abs() * torch.log1p(y.new_tensor(mu))) / mu, y)


def encode(x: Tensor, encoding: str, levels: int) -> Tensor:
    """Levels of a signal in [-1, 1] by "mu-law" or "linear"; dtypes and errors as `mu_law_encode`."""
    from fastgen.likelihoods import signal_to_levels

    _check_encoding("encode", encoding)
    if encoding == "mu-law":
        return mu_law_encode(x, levels)
    _mu("encode", levels)
    _check_signal("encode", x)
    return signal_to_levels(x, levels)


def decode(level: Tensor, encoding: str, levels: int, scale: Sequence[Sequence[float]] | None = None) -> Tensor:
    """Signal in [-1, 1] of levels [N, C, T], or with `scale` the values offset + gain x; float32.

    Raises:
        ValueError: an unknown encoding.
    """
    from fastgen.likelihoods import levels_to_signal

    _check_encoding("decode", encoding)
    if encoding == "mu-law":
        x = mu_law_decode(level, levels)
    else:
        x = levels_to_signal(level, levels, torch.float32)
    if scale is None:
        return x
    offset, gain = torch.tensor(scale, dtype=torch.float64).T[:, :, None]
    return (offset + gain * x.double()).float()


def _mu(name: str, levels: int) -> float:
    if levels < 2:
        raise ValueError(f"{name}: levels must be at least 2; got {levels}; 256 is usual.")
    return float(levels - 1)


def _check_encoding(name: str, encoding: str) -> None:
    if encoding not in ENCODINGS:
        raise ValueError(f"{name}: encoding must be one of {', '.join(ENCODINGS)}; got {encoding!r}.")


def _check_signal(name: str, x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"{name}: the signal must be floating point in [-1, 1]; got {x.dtype}; scale it.")
    if x.device.type == "cpu" and x.numel():
        low, high = (float(value) for value in torch.aminmax(x))
        if not (low >= -1 and high <= 1):  # false for NaN too
            raise ValueError(f"{name}: the signal must lie in [-1, 1]; got {low:g}..{high:g}; scale or clip it.")
