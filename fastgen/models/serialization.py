"""Models on disk: one safetensors file with the weights and, in its header, the class and its options as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fastgen._files import atomic_path
from fastgen._names import unknown_name
from fastgen._version import __version__
from fastgen.models import MODELS, Model

FORMAT = "fastgen-1"
"""Marks our files; the number changes when older readers could no longer understand them."""


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write weights and options of `model` to one .safetensors file, whole or not at all.

    The weights keep their dtype. Nothing is pickled, and `fastgen.load` needs only the file.

    Raises:
        TypeError: not one of the models in `fastgen.models.MODELS` (wrapped ones must be unwrapped).
        OSError: the file cannot be written.
    """
    from safetensors.torch import save_file

    name = type(model).__name__
    if MODELS.get(name) is not type(model):
        raise TypeError(
            f"save: model must be one of {', '.join(sorted(MODELS))}; got {name}; "
            "of a wrapped or compiled model, save the module inside"
        )
    metadata = {
        "format": FORMAT,
        "fastgen_version": __version__,
        "class": name,
        "config": json.dumps(model.config, sort_keys=True),
    }
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Model:
    """Rebuild the model that `fastgen.save` wrote, in evaluation mode, on `device`, in the dtype that was saved.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a safetensors file, a truncated one, one that fastgen did not write, an unknown class or
            option, weights that are missing, superfluous or of another shape (all are listed).
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"load: path must be a file that fastgen.save wrote; got {str(path)!r}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
            tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"load: {str(path)!r} must be a whole .safetensors file; reading it failed ({error}); "
            "copy it again if it was cut short, and use fastgen.convert for other formats"
        ) from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"load: {str(path)!r} must be a file of format {FORMAT!r}; got {metadata.get('format')!r}; use "
            "fastgen.convert for other projects' weights, and a newer fastgen for newer formats"
        )
    name = metadata.get("class", "")
    if name not in MODELS:
        raise unknown_name("model class", name, MODELS)
    try:
        config = dict(json.loads(metadata.get("config", "")))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"load: the config of {str(path)!r} must be a JSON object; got {metadata.get('config')!r}; "
            "the file was edited: save the model again"
        ) from error
    with torch.random.fork_rng(devices=[]):  # the random start is overwritten: leave the caller's generator alone
        model = MODELS[name].from_config(config)
    load_weights(model, tensors, f"load: {str(path)!r}")
    return model.eval().to(device)


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Give `model` copies of exactly these weights, in their dtype.

    Raises:
        ValueError: missing keys, superfluous keys or other shapes; all are listed, after the words of `source`.
    """
    want = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    got = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    check_keys(want, got, source)
    # copies: tensors of a file may be views of its pages, those of a caller are his
    copies = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
    model.load_state_dict(copies, assign=True)


def check_keys(want: Mapping[str, tuple[int, ...]], got: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Compare names and shapes of weights.

    Raises:
        ValueError: they differ; missing, superfluous and misshapen ones are listed.
    """
    problems = []
    if missing := sorted(set(want) - set(got)):
        problems.append(f"missing {', '.join(missing)}")
    if extra := sorted(set(got) - set(want)):
        problems.append(f"superfluous {', '.join(extra)}")
    if wrong := [f"{k} {got[k]} instead of {want[k]}" for k in sorted(set(want) & set(got)) if got[k] != want[k]]:
        problems.append(f"wrong shape {', '.join(wrong)}")
    if problems:
        raise ValueError(f"{source}: the weights must be those of the model; got {'; '.join(problems)}")
