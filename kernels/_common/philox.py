"""Philox4x32-10, a counter-based random number generator, bit for bit that of `tl.philox` and `tl.rand`."""

from __future__ import annotations

import torch
from torch import Tensor

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF
ROUNDS = 10

# 31 random bits to [0, 1): just below 2^-31, so that the largest of them rounds to less than 1 in float32
UNIT = 4.6566127342e-10


def philox4x32(
    seed: int, c0: Tensor | int, c1: Tensor | int, c2: Tensor | int, c3: Tensor | int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four random words per counter: Philox4x32-10 with key (low, high word of `seed`), counter (c0, c1, c2, c3).

    Shapes: the counters broadcast against each other; each result has their common shape.
    Dtypes: int64 tensors (or ints) that hold 32-bit words; of a wider counter the low 32 bits count.
    Gradient order: none (integers).
    Raises: ValueError if `seed` is outside [0, 2^64); TypeError if a counter is neither an int nor an integer tensor.
    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"philox4x32: seed must be in [0, 2^64); got {seed}; reduce it modulo 2**64.")
    counters = [c0, c1, c2, c3]
    for counter in counters:
        if isinstance(counter, Tensor) and (counter.is_floating_point() or counter.is_complex()):
            raise TypeError(f"philox4x32: counters must be integers; got {counter.dtype}; convert to torch.int64.")
    device = next((c.device for c in counters if isinstance(c, Tensor)), None)
    x0, x1, x2, x3 = torch.broadcast_tensors(
        *(torch.as_tensor(c, dtype=torch.int64, device=device) & MASK for c in counters)
    )
    k0, k1 = seed & MASK, seed >> 32
    high0, high1 = (torch.empty_like(x0, memory_format=torch.contiguous_format) for _ in range(2))
    low0, low1, spare0, spare1 = (torch.empty_like(high0) for _ in range(4))
    for _ in range(ROUNDS):
        # The product of two 32-bit words wraps to the same 64 bits whether they are read as signed or not.
        # Its high word comes down with copies of the sign bit, which the mask removes.
        torch.mul(x0, MULTIPLIERS[0], out=low0)
        torch.mul(x2, MULTIPLIERS[1], out=low1)
        torch.bitwise_right_shift(low1, 32, out=high0).bitwise_xor_(x1).bitwise_xor_(k0).bitwise_and_(MASK)
        torch.bitwise_right_shift(low0, 32, out=high1).bitwise_xor_(x3).bitwise_xor_(k1).bitwise_and_(MASK)
        low0.bitwise_and_(MASK)
        low1.bitwise_and_(MASK)
        (x0, x1, x2, x3), (low0, low1, spare0, spare1) = (
            (high0, low1, high1, low0),
            (spare0, spare1, low0, low1),
        )
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return x0, x1, x2, x3


def uniform(words: Tensor) -> Tensor:
    """u = min(w, 2^32 - 1 - w) * 4.6566127342e-10 in [0, 1), the same float32 as `tl.rand` makes of the word w.

    Shapes: any. Dtypes: int64 words in [0, 2^32) -> float32. Gradient order: none.
    Source: `uint_to_uniform_float` of triton.language.random: a word and its complement share a number.
    """
    return torch.minimum(words, MASK - words).to(torch.float32).mul_(UNIT)
