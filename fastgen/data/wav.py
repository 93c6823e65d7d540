"""WAV files of PCM or float samples as signals in [-1, 1]: read them, write them."""

from __future__ import annotations

import os
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastgen._files import atomic_path

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_FORMATS = {2: "ADPCM", 6: "A-law", 7: "mu-law", 85: "MP3"}


def read_wav(path: str | os.PathLike[str]) -> tuple[Tensor, int]:
    """The signal of a WAV file, and its samples a second.

    Shapes: float32 [C, T].
    Dtypes: PCM of 8 bits (unsigned), 16, 24 or 32 (signed); sample s of b bits is (2 s + 1) / (2^b - 1) with s counted
        from the middle, so that levels s + 2^(b-1) are those of `fastgen.likelihoods.levels_to_signal`. Float samples
        of 32 or 64 bits are taken as they are, and must lie in [-1, 1].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no WAV file, is truncated, holds no samples, is compressed or of another width, or holds float
            samples that are NaN or outside [-1, 1]; the message names it.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"read_wav: no file at {os.fspath(path)!r}; check the path.")
    kind, channels, rate, bits, data = _parse(path)
    width = bits // 8
    if (kind, bits) not in {(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)}:
        what = {_PCM: "PCM", _FLOAT: "float"}.get(kind, _FORMATS.get(kind, f"format {kind}"))
        raise _refuse(
            path, f"PCM of 8, 16, 24 or 32 bits or float of 32 or 64; got {what} of {bits} bits", "convert it"
        )
    if channels < 1 or rate < 1 or not data or len(data) % (channels * width):
        raise _refuse(
            path,
            f"whole samples of at least one channel; got {len(data)} bytes for {channels} channels of {bits} bits at "
            f"{rate} Hz",
            "replace or remove the file",
        )
    samples = _samples(data, kind, bits).reshape(-1, channels).T
    if kind == _FLOAT and not (np.abs(samples) <= 1).all():  # false for NaN too
        raise _refuse(path, f"float samples in [-1, 1]; got a peak of {np.abs(samples).max():g}", "scale or clip them")
    return torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32)), rate


def write_wav(path: str | os.PathLike[str], signal: Tensor, sample_rate: int) -> None:
    """Write a signal in [-1, 1] as a WAV file of 16-bit PCM that is whole or not there at all.

    Shapes: signal [C, T], or [T] for one channel. Dtypes: float; (2 s + 1) / 65535 is nearest for sample s.

    Raises:
        TypeError: the signal is not floating point.
        ValueError: its shape is another, it is empty, NaN or outside [-1, 1], or `path` does not end in .wav.
        OSError: the file cannot be written.
    """
    if not signal.is_floating_point():
        raise TypeError(
            f"write_wav: the signal must be floating point in [-1, 1]; got {signal.dtype}; decode the levels."
        )
    signal = signal.detach().cpu().double()
    signal = signal[None] if signal.ndim == 1 else signal
    if signal.ndim != 2 or 0 in signal.shape:
        raise ValueError(f"write_wav: the signal must be [C, T] or [T], not empty; got {list(signal.shape)}.")
    if not bool((signal.abs() <= 1).all()):
        raise ValueError(
            f"write_wav: the signal must lie in [-1, 1]; its peak is {float(signal.abs().max()):g}; scale it."
        )
    if Path(path).suffix.lower() != ".wav" or sample_rate < 1:
        raise ValueError(
            f"write_wav: writes .wav at a positive sample rate; got {os.fspath(path)!r} at {sample_rate} Hz."
        )
    levels = ((signal + 1) * (65535 / 2)).round() - 32768
    with atomic_path(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(signal.shape[0])
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(levels.T.contiguous().numpy().astype("<i2").tobytes())


def _parse(path: str | os.PathLike[str]) -> tuple[int, int, int, int, bytes]:
    """Format, channels, rate, bits and the bytes of the samples.

    Not the standard library's `wave`: before Python 3.12 it refuses the extensible header, which most files of 24 bits
    have, and it never reads float samples.
    """
    header: tuple[int, int, int, int] | None = None
    with open(path, "rb") as file:
        start = file.read(12)
        if len(start) < 12 or start[:4] != b"RIFF" or start[8:] != b"WAVE":
            raise _refuse(path, f"a RIFF file of type WAVE; it starts with {start!r}", "replace or remove the file")
        while True:
            head = file.read(8)
            if len(head) < 8:
                break
            name, size = struct.unpack("<4sI", head)
            if name == b"data" and header is None:
                break
            body = file.read(size)
            if len(body) < size:
                raise _refuse(
                    path,
                    f"whole; the chunk {name!r} has {len(body)} bytes of {size}",
                    "the file is truncated: copy it again",
                )
            if name == b"data" and header is not None:
                return *header, body
            if name == b"fmt " and size >= 16:
                kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
                if kind == _EXTENSIBLE and size >= 40:
                    kind = struct.unpack("<H", body[24:26])[0]
                header = kind, channels, rate, bits
            file.seek(size % 2, os.SEEK_CUR)
    missing = "samples" if header else "format"
    raise _refuse(path, f"whole; it has no {missing}", "the file is truncated: copy it again")


def _samples(data: bytes, kind: int, bits: int) -> npt.NDArray[np.float64]:
    """Samples in [-1, 1] in the order of the file."""
    if kind == _FLOAT:
        return np.frombuffer(data, f"<f{bits // 8}").astype(np.float64)
    half: Any = 2.0 ** (bits - 1)
    if bits == 8:
        values = np.frombuffer(data, np.uint8) - half
    elif bits == 24:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        values = (wide.view("<i4")[:, 0] >> 8).astype(np.float64)
    else:
        values = np.frombuffer(data, f"<i{bits // 8}").astype(np.float64)
    return (2 * values + 1) / (2 * half - 1)


def _refuse(path: str | os.PathLike[str], invariant: str, remedy: str) -> ValueError:
    return ValueError(f"read_wav: {os.fspath(path)!r} must be {invariant}; {remedy}.")
