"""Lossless compression by exact likelihoods: a file is as long as the model is surprised."""

from __future__ import annotations

from fastgen.codec.container import CodecError
from fastgen.codec.lossless import decode, encode

__all__ = ["CodecError", "decode", "encode"]
