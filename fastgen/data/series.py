"""Time series from .npy and .csv files, scaled to [-1, 1]."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Values = npt.NDArray[np.float64]
Pairs = tuple[tuple[float, float], ...]


def read_series(path: str | os.PathLike[str]) -> Values:
    """The numbers of a .npy or .csv file of [T] or [T, C], a channel a row: float64 [C, T].

    A first line of a .csv that holds no numbers is taken for the names of the columns.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is corrupt, has another shape, no rows, or numbers that are not finite.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"read_series: no file at {str(path)!r}; check the path.")
    try:
        values = np.load(path, allow_pickle=False) if path.suffix.lower() == ".npy" else _read_csv(path)
        real = np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)
        values = values.astype(np.float64) if real else None
    except Exception as error:  # EOFError, ValueError, OSError, ... by what is wrong with the file
        raise ValueError(
            f"read_series: {str(path)!r} must be a table of numbers; got {type(error).__name__}: {error}; replace it."
        ) from error
    if values is None or values.ndim not in (1, 2) or not values.size or not np.isfinite(values).all():
        raise ValueError(
            f"read_series: {str(path)!r} must hold finite numbers [T] or [T, C]; got "
            f"{'no numbers' if values is None else f'{list(values.shape)}, perhaps with gaps'}; fill or remove them."
        )
    return np.ascontiguousarray(values.reshape(len(values), -1).T)


def fit_scale(values: Values) -> Pairs:
    """(offset, gain) of each channel [C, T]: its middle and half its range, or gain 1 where it is constant."""
    low, high = values.min(1), values.max(1)
    gain = np.where(high > low, (high - low) / 2, 1.0)
    return tuple((float(o), float(g)) for o, g in zip((low + high) / 2, gain))


def to_signal(path: Path, values: Values, scale: Pairs) -> Tensor:
    """(value - offset) / gain of each channel: float32 [C, T] in [-1, 1].

    Raises:
        ValueError: another number of channels, a gain that is not positive, or values outside the scale.
    """
    if len(scale) != len(values) or not all(gain > 0 for _, gain in scale):
        raise ValueError(
            f"load_audio: scale must be {len(values)} pairs (offset, gain > 0), one a channel; got {scale}; correct it."
        )
    offset, gain = np.array(scale).T[:, :, None]
    signal = (values - offset) / gain
    if np.abs(signal).max() > 1 + 1e-6:
        raise ValueError(
            f"load_audio: {str(path)!r} must lie within the scale {scale}; got {values.min():g}..{values.max():g}; "
            "clip it or train with a wider scale."
        )
    return torch.from_numpy(np.clip(signal, -1, 1).astype(np.float32))


def _read_csv(path: Path) -> Values:
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    named = bool(first.strip()) and not any(_is_number(cell) for cell in first.split(","))
    if not first or (named and len(path.read_text(encoding="utf-8").split("\n", 1)[1].strip()) == 0):
        raise ValueError("no rows")
    return np.loadtxt(path, delimiter=",", skiprows=int(named), ndmin=2, encoding="utf-8")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
