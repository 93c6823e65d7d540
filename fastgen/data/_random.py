"""Random numbers as pure functions of (seed, purpose, index), the same on every platform and version.

Only the raw words of a bit generator are used: those are fixed for good, which NumPy does not promise for
`Generator.permutation` nor PyTorch for `randperm`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# purposes: streams that share a seed and must not share their numbers
SPLIT, EPOCH, SHAPES, PHOTOS, TONES, RING, PAIRS = range(7)


def words(n: int, seed: int, purpose: int, index: int = 0) -> npt.NDArray[np.uint64]:
    """The first n words of the Philox4x64 stream with the key (seed, purpose * 2**56 + index)."""
    key = np.array([seed, (purpose << 56) + index], dtype=np.uint64)
    return np.random.Philox(key=key).random_raw(n)


def uniforms(n: int, seed: int, purpose: int, index: int = 0) -> npt.NDArray[np.float64]:
    """Draw n numbers in [0, 1): the upper 53 bits of `words`."""
    return (words(n, seed, purpose, index) >> np.uint64(11)) * 2.0**-53


def permutation(n: int, seed: int, purpose: int, index: int = 0) -> npt.NDArray[np.int64]:
    """A permutation of 0..n-1: the order that sorts n random words."""
    return np.argsort(words(n, seed, purpose, index), kind="stable").astype(np.int64, copy=False)


def check_seed(name: str, seed: Any) -> int:
    """`seed` as an int; TypeError or ValueError unless it is a whole number in [0, 2**64)."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"{name}: seed must be an int; got {seed!r}; pass a whole number such as 0.")
    if not 0 <= seed < 2**64:
        raise ValueError(f"{name}: seed must be in [0, 2**64); got {seed}; pass a whole number such as 0.")
    return int(seed)
