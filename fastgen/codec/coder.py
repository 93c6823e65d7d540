"""Streams of symbols as bytes, by the range coder of the library constriction."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fastgen.codec.tables import PRECISION


class StreamError(ValueError):
    """Bytes that no symbols of the given distributions would have made."""


class SymbolCoder(Protocol):
    """Takes symbols one way and gives them back the other, so that one walk over an image serves both."""

    def code(self, frequencies: Tensor, symbols: Tensor | None) -> Tensor:
        """Code a symbol of each of n distributions. Shapes: frequencies [n, L], symbols [n] or None -> [n]."""


class Writer:
    """Encodes symbols, first in first out."""

    def __init__(self) -> None:
        self._encoder = _constriction().stream.queue.RangeEncoder()

    def code(self, frequencies: Tensor, symbols: Tensor | None) -> Tensor:
        """Append n symbols, each at the cost of -log2(frequency / 2^24) bits."""
        assert symbols is not None
        self._encoder.encode(symbols.cpu().numpy().astype(np.int32), categorical(), table_of(frequencies))
        return symbols

    def finish(self) -> bytes:
        """All that was written; zero bytes at the end are left out."""
        words: Any = self._encoder.get_compressed()
        return words.astype("<u4").tobytes().rstrip(b"\0")


class Reader:
    """Decodes what a `Writer` wrote, given the same frequencies in the same order."""

    def __init__(self, data: bytes) -> None:
        words = np.frombuffer(data + b"\0" * (-len(data) % 4), "<u4").astype(np.uint32)
        self._decoder = _constriction().stream.queue.RangeDecoder(words)

    def code(self, frequencies: Tensor, symbols: Tensor | None) -> Tensor:
        """Take n symbols off; with other frequencies than the writer's they are arbitrary, but in range.

        Raises:
            StreamError: the bytes are not what any symbols of these frequencies would have given.
        """
        try:
            found = self._decoder.decode(categorical(), table_of(frequencies))
        except (ValueError, AssertionError) as error:
            raise StreamError("the stream holds no symbols of these distributions") from error
        return torch.from_numpy(np.asarray(found)).long().to(frequencies.device)


def ans_coder(words: Any) -> Any:
    """A stack of bits that symbols are put onto and taken from, which holds uint32 words to begin with."""
    return _constriction().stream.stack.AnsCoder(words)


def normal(low: int, high: int) -> Any:
    """Normal distributions of the whole numbers low..high, for means and standard deviations given later."""
    return _constriction().stream.model.QuantizedGaussian(low, high)


def categorical() -> Any:
    """Distributions of 0, 1, ..., for tables given later."""
    return _constriction().stream.model.Categorical(perfect=False)


def table_of(frequencies: Tensor) -> Any:
    """Whole-number frequencies as constriction takes them: exact in float64. Shapes: [n, L] both."""
    return frequencies.cpu().numpy().astype(np.float64) / float(1 << PRECISION)


def _constriction() -> Any:
    try:
        import constriction
    except ImportError as error:
        raise RuntimeError(
            "codec: entropy coding needs the package constriction; it is not installed; "
            "pip install 'fastgen-torch[codec]'"
        ) from error
    return constriction
