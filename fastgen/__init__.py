"""Fast, exact parts for generative image models: likelihoods, masked convolutions, cached autoregressive sampling.

`import fastgen` loads nothing heavy: modules and functions are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastgen._version import __version__

if TYPE_CHECKING:
    from fastgen import convert, data, evaluation, functional, likelihoods, models, nn, sampling, training
    from fastgen.models.serialization import load, save
    from fastgen.sampling import sample

_MODULES = (
    "convert",
    "data",
    "evaluation",
    "functional",
    "likelihoods",
    "models",
    "nn",
    "sampling",
    "training",
)
_FUNCTIONS = {
    "load": "fastgen.models.serialization",
    "sample": "fastgen.sampling",
    "save": "fastgen.models.serialization",
}

__all__ = [
    "__version__",
    "convert",
    "data",
    "evaluation",
    "functional",
    "likelihoods",
    "load",
    "models",
    "nn",
    "sample",
    "sampling",
    "save",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"fastgen.{name}")
    if name in _FUNCTIONS:
        value = getattr(importlib.import_module(_FUNCTIONS[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'fastgen' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
