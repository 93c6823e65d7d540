"""Signals in time as data sets: synthetic notes, WAV files, time series, cut into pieces of one length."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgen._names import unknown_name
from fastgen.data import tones
from fastgen.data.dataset import TensorSignals
from fastgen.data.encoding import ENCODINGS, encode
from fastgen.data.folder import choose_files, files_below
from fastgen.data.series import fit_scale, read_series, to_signal
from fastgen.data.splits import Request, check_request
from fastgen.data.wav import read_wav

SUFFIXES = (".wav", ".wave")
SERIES = (".npy", ".csv")
_CHUNK = 64  # synthetic sounds drawn at a time

Scale = Sequence[Sequence[float]]


def load_audio(
    name_or_path: str | os.PathLike[str],
    *,
    length: int,
    split: str = "train",
    seed: int = 0,
    validation_fraction: float = 0.1,
    sample_rate: int | None = 16_000,
    channels: int | None = 1,
    encoding: str = "mu-law",
    levels: int = 256,
    scale: Scale | None = None,
    limit: int | None = None,
) -> TensorSignals:
    """Pieces of `length` samples of sounds or of a time series, as levels held in memory.

    "tones" is drawn: a thousand runs of notes of three timbres. Otherwise a .wav file, a folder of them (as
    `fastgen.data.load` reads folders: subfolders are classes, or splits of classes), or a time series: a .npy or .csv
    file of [T] or [T, C] numbers. Files are cut from their start, and what is left at their end is dropped. A recording
    is in one split only; a lone file is split piece by piece.

    Args:
        name_or_path: "tones", a file or a folder.
        length: samples of a piece.
        split: "train", "validation", "all" (training and then validation) or, where a folder has one, "test".
        seed: chooses the validation part and the order within every split (and what "tones" draws).
        validation_fraction: of the files (of the pieces of a lone file), the part that is for validation, in [0, 1).
        sample_rate: samples a second; a recording of another rate is resampled, which needs scipy. None takes the
            recordings' own, which must be one. A time series has none.
        channels: 1 mixes all channels of a recording down to their mean. None: the data's own.
        encoding: "mu-law" or "linear".
        levels: 256, or up to 65536 for recordings of 16 bits.
        scale: (offset, gain) of each channel of a time series, offset + gain x being its values; None takes the middle
            and half the range of each. The data set records it.
        limit: at most so many pieces, a random sample of the split.

    Shapes: pieces [C, length]. Dtypes: uint8 levels, or int32 for more than 256; int64 labels, -1 where there are none.

    Raises:
        ValueError: an argument out of range, no recordings, none long enough, too few for the split, a file that is
            corrupt or of another number of channels.
        TypeError: `seed` or `limit` is no whole number.
        FileNotFoundError: no such file or folder.
        ImportError: resampling without scipy.
    """
    name = os.fspath(name_or_path)
    request = check_request("load_audio", split=split, seed=seed, validation_fraction=validation_fraction, limit=limit)
    for key, value, low in (("length", length, 1), ("sample_rate", sample_rate, 1), ("channels", channels, 1)):
        if value is not None and value < low:
            raise ValueError(f"load_audio: {key} must be at least {low}; got {value}.")
    if encoding not in ENCODINGS:
        raise unknown_name("encoding", encoding, ENCODINGS)
    if not 2 <= levels <= 65536:
        raise ValueError(f"load_audio: levels must be in 2..65536; got {levels}; 256 is usual.")
    path = Path(name).expanduser()
    options: dict[str, Any] = {"levels": levels, "encoding": encoding}

    def as_levels(signal: Tensor) -> Tensor:
        return cut(encode(signal, encoding, levels), length)

    if isinstance(name_or_path, str) and name == "tones":
        return _tones(request, length, sample_rate or 16_000, channels, options)
    if not path.exists():
        if isinstance(name_or_path, str) and name == path.name and not path.suffix:
            raise unknown_name("data set (nor is there a file or folder of that name)", name, ["tones"])
        raise FileNotFoundError(f"load_audio: no file or folder {str(path)!r}; check the path.")
    if path.suffix.lower() in SERIES:
        values = read_series(path)
        if channels not in (None, 1, values.shape[0]) or (channels == 1 and values.shape[0] > 1):
            raise ValueError(
                f"load_audio: {str(path)!r} has {values.shape[0]} columns; got channels={channels}; pass channels=None."
            )
        scale = fit_scale(values) if scale is None else tuple((float(o), float(g)) for o, g in scale)
        pieces = _enough(as_levels(to_signal(path, values, scale)), values.shape[1], length, name)
        chosen = torch.from_numpy(request.choose(path.name, len(pieces)))
        unlabelled = torch.full((len(chosen),), -1)
        return TensorSignals(path.name, pieces[chosen], unlabelled, **options, scale=scale)

    files = [(path.name,)] if path.is_file() else files_below(path, SUFFIXES)
    folder = path.parent if path.is_file() else path
    if not files:
        raise ValueError(
            f"load_audio: {str(path)!r} has no {' or '.join(SUFFIXES)} files in any folder; check the path."
        )
    lone = len(files) == 1
    class_names: list[str] = []
    if lone:
        chosen_files, labels = files, torch.tensor([-1])
    else:
        whole = dataclasses.replace(request, limit=None)
        chosen_files, labels, class_names = choose_files(path.name, files, whole)
    reader = _Reader(sample_rate, channels)
    parts = [as_levels(reader.read(folder.joinpath(*file))) for file in chosen_files]
    pieces = _enough(torch.cat(parts), reader.longest, length, name)
    labels = labels.repeat_interleave(torch.tensor([len(part) for part in parts]))
    order = torch.from_numpy(request.choose(path.name, len(pieces)) if lone else request.shuffled(len(pieces)))
    options["sample_rate"] = reader.sample_rate
    return TensorSignals(path.resolve().name, pieces[order], labels[order], class_names, **options)


def cut(signal: Tensor, length: int) -> Tensor:
    """Whole pieces from the start of a signal: [C, T] -> [T // length, C, length]."""
    n = signal.shape[1] // length
    return signal[:, : n * length].unflatten(1, (n, length)).transpose(0, 1)


def resample(signal: Tensor, source: int, target: int) -> Tensor:
    """A signal [C, T] of `source` samples a second at `target`: polyphase low-pass filtering, clipped to [-1, 1].

    Raises:
        ImportError: scipy is not installed.
    """
    if source == target:
        return signal
    try:
        from scipy.signal import resample_poly
    except ImportError as error:
        raise ImportError(
            f"resample: bringing {source} Hz to {target} Hz needs scipy, which is not installed; run: "
            "pip install 'fastgen-torch[data]', or resample the files"
        ) from error
    common = math.gcd(source, target)
    values = resample_poly(signal.double().numpy(), target // common, source // common, axis=1)
    return torch.from_numpy(np.clip(values, -1, 1).astype(np.float32))


class _Reader:
    """Reads recordings at one rate and with one number of channels."""

    def __init__(self, sample_rate: int | None, channels: int | None) -> None:
        self.sample_rate, self.channels, self.longest = sample_rate, channels, 0

    def read(self, path: Path) -> Tensor:
        """The signal [C, T] of a file."""
        signal, rate = read_wav(path)
        if self.sample_rate is None:
            self.sample_rate = rate
        if self.channels is None:
            self.channels = signal.shape[0]
        if self.channels == 1:
            signal = signal.mean(0, keepdim=True)
        if signal.shape[0] != self.channels:
            raise ValueError(
                f"load_audio: {str(path)!r} must have {self.channels} channels; got {signal.shape[0]}; pass channels=1 "
                "to mix them down."
            )
        signal = resample(signal, rate, self.sample_rate)
        self.longest = max(self.longest, signal.shape[1])
        return signal


def _tones(
    request: Request, length: int, sample_rate: int, channels: int | None, options: dict[str, Any]
) -> TensorSignals:
    if channels not in (None, 1):
        raise ValueError(f"load_audio: 'tones' has one channel; got channels={channels}; pass 1.")
    chosen = request.choose("tones", tones.N_SOUNDS)
    parts: Iterable[Tensor] = (
        torch.from_numpy(tones.draw_tones(chosen[start : start + _CHUNK], length, sample_rate, request.seed))
        for start in range(0, len(chosen), _CHUNK)
    )
    pieces = torch.cat([encode(part, options["encoding"], options["levels"]) for part in parts])[:, None]
    labels = torch.from_numpy(chosen % len(tones.CLASS_NAMES))
    return TensorSignals("tones", pieces, labels, tones.CLASS_NAMES, **options, sample_rate=sample_rate)


def _enough(pieces: Tensor, longest: int, length: int, name: str) -> Tensor:
    if not len(pieces):
        raise ValueError(
            f"load_audio: {name!r} must have a signal of at least {length} samples; the longest has {longest}; pass a "
            "smaller length."
        )
    return pieces
