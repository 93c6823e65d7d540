"""Synthetic notes: labelled sounds of any length that need no file at all."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastgen.data._random import TONES, uniforms

CLASS_NAMES = ("bell", "pluck", "organ")
N_SOUNDS = 1000

_SCALE = np.array([0, 2, 4, 7, 9])  # semitones of the pentatonic scale, which any notes of it sound well in
_LOWEST, _OCTAVES = 110.0, 3
_SHORTEST, _LONGEST = 0.08, 0.25  # seconds of a note
_DRAWS = 4  # uniforms a note
_HARMONICS = {  # (multiple of the pitch, amplitude, decays a second) of each class
    "bell": ((1.0, 1.0, 4.0), (2.76, 0.6, 7.0), (5.4, 0.3, 12.0)),
    "pluck": tuple((float(k), 1 / k, 3.0 + 2.0 * k) for k in range(1, 8)),
    "organ": tuple((float(k), 1 / k, 0.5) for k in (1, 2, 3, 4, 6)),
}
_ATTACK = 0.004  # seconds


def draw_tones(indices: npt.NDArray[np.int64], length: int, sample_rate: int, seed: int) -> npt.NDArray[np.float32]:
    """Sounds number `indices` of `seed`: float32 [N, length] in [-1, 1], a pure function of (index, rate, seed).

    Sound i is a run of notes of class i mod 3, each of random pitch, length and loudness; a harmonic is a decaying
    sine, left out where it would lie above half the sample rate. A shorter sound is the start of a longer one.
    """
    signals = np.zeros((len(indices), length), np.float32)
    most = int(np.ceil(length / (sample_rate * _SHORTEST))) + 1
    for row, index in enumerate(indices.tolist()):
        kind = CLASS_NAMES[index % len(CLASS_NAMES)]
        u = uniforms(_DRAWS * most, seed, TONES, index).reshape(most, _DRAWS)
        start = 0
        for duration, place, loudness, phase in u:
            if start >= length:
                break
            step = _SCALE[int(place * len(_SCALE) * _OCTAVES) % len(_SCALE)]
            octave = int(place * len(_SCALE) * _OCTAVES) // len(_SCALE)
            pitch = _LOWEST * 2 ** (octave + step / 12)
            n = round(sample_rate * (_SHORTEST + (_LONGEST - _SHORTEST) * duration))
            note = _note(kind, pitch, n, sample_rate, phase) * (0.3 + 0.6 * loudness)
            signals[row, start : start + n] = note[: length - start]
            start += n
    return signals


def _note(kind: str, pitch: float, n: int, sample_rate: int, phase: float) -> npt.NDArray[np.float64]:
    """One note [n], its peak below 1."""
    t = np.arange(n) / sample_rate
    harmonics = [h for h in _HARMONICS[kind] if h[0] * pitch < sample_rate / 2]
    waves = [a * np.exp(-decay * t) * np.sin(2 * np.pi * (k * pitch * t + k * phase)) for k, a, decay in harmonics]
    # from and to silence, so that notes join without a click
    edge = np.minimum(1, np.minimum(np.arange(n) + 0.5, n - 0.5 - np.arange(n)) / (_ATTACK * sample_rate))
    return np.sum(waves, axis=0) * edge / sum(a for _, a, _ in harmonics) if waves else np.zeros(n)
