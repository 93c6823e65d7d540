"""Operations that whoever records a model takes as one, whatever they are made of.

A recurrence over the rows of an image is a loop of many small operations; the sampling engine wants to know only that
it is a recurrence, and its weights. A layer writes `as_one("lstm", loop, x, weight, ...)`: usually that calls `loop`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Tensor]
Recorder = Callable[[str, Function, tuple[Tensor, ...], dict[str, Any]], Tensor]

_recorder: ContextVar[Recorder | None] = ContextVar("fastgen_recorder", default=None)


def as_one(name: str, function: Function, *tensors: Tensor, **options: Any) -> Tensor:
    """function(*tensors, **options), which a recorder sees as one operation called `name`."""
    recorder = None if torch.compiler.is_compiling() else _recorder.get()
    return function(*tensors, **options) if recorder is None else recorder(name, function, tensors, options)


@contextlib.contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Inside, `as_one` calls the recorder instead of the function."""
    token = _recorder.set(recorder)
    try:
        yield
    finally:
        _recorder.reset(token)
