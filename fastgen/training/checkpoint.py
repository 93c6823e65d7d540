"""Checkpoints: one safetensors file that holds a whole run, written whole or not at all.

Tensors are `model/NAME`, `ema/NAME`, `optimizer/NAME/KEY` of the first phase's optimiser and
`optimizer.PHASE/NAME/KEY` of the others', `scaler/PHASE` of a float16 run, `state/NAME` of what else the model carries
from step to step, `rng/cpu` and `rng/cuda`; the metadata holds the JSON of everything else. Of a run of several
processes these are the first one's, weights and optimiser whole; what the others have of their own is
`process.R/state/NAME` and `process.R/rng/cpu`. The batches are a function of (seed, step), so the step is also the
position in the data.

Version 2 added the scaler and the other processes; files of version 1 are read as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgen._files import atomic_path
from fastgen.models import Model
from fastgen.training.distributed import ALONE, Ranks
from fastgen.training.ema import ExponentialMovingAverage, load_weights
from fastgen.training.recipes import Recipe
from fastgen.training.sharded import share_of, whole
from fastgen.training.turn import Turn

FORMAT = "fastgen-checkpoint"
VERSION = 2


@dataclass(frozen=True)
class Checkpoint:
    """A run between two steps.

    Attributes:
        recipe: the run's recipe.
        model_config: the model's config, with what the data decided.
        step: steps taken, which is also the position in the data.
        seconds: seconds of training so far.
        tensors: weights, averages, optimiser state and generator states by name.
        notes: JSON-ready facts to carry along (a fingerprint of the data, results so far, the environment).
    """

    recipe: Recipe
    model_config: dict[str, Any]
    step: int
    seconds: float
    tensors: dict[str, Tensor]
    notes: dict[str, Any] = field(default_factory=dict)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors below `prefix/`, by the rest of their names."""
        return {name[len(prefix) + 1 :]: value for name, value in self.tensors.items() if name.startswith(f"{prefix}/")}


def capture(
    model: Model,
    ema: ExponentialMovingAverage[Any],
    turns: Sequence[Turn],
    device: torch.device,
    carried: Mapping[str, Tensor] | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Tensor]:
    """Everything of a run that is a tensor, by the names of the checkpoint file (views, not copies).

    All processes of `ranks` call this together; the file is what the first one gets. `carried` is what training carries
    from step to step beside the weights, by default the model's `training_state`.
    """
    tensors = {f"model/{name}": whole(value) for name, value in model.state_dict().items()}
    tensors |= {f"ema/{name}": value for name, value in ema.model.state_dict().items()}
    names = {parameter: name for name, parameter in model.named_parameters()}
    for folder, turn in _folders(turns):
        for parameter in turn.phase.parameters:
            for key, value in turn.optimizer.state.get(parameter, {}).items():
                tensors[f"{folder}/{names[parameter]}/{key}"] = whole(value)
        scaler = turn.scaler_state()
        if scaler is not None:
            tensors[f"scaler/{turn.phase.name}"] = scaler
    own = _of_process(model, device, carried)
    for rank, theirs in enumerate(ranks.gather({name: value.cpu() for name, value in own.items()})):
        if rank:
            tensors |= {f"process.{rank}/{name}": value for name, value in theirs.items()}
    return tensors | own


def _of_process(model: Model, device: torch.device, carried: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """What every process has of its own."""
    carried = model.training_state() if carried is None else carried
    own = {f"state/{name}": value for name, value in carried.items()}
    own["rng/cpu"] = torch.get_rng_state()
    if device.type == "cuda":
        own["rng/cuda"] = torch.cuda.get_rng_state(device)
    return own


def restore(
    checkpoint: Checkpoint,
    model: Model,
    ema: ExponentialMovingAverage[Any],
    turns: Sequence[Turn],
    device: torch.device,
    carried: Mapping[str, Tensor] | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Put a run back exactly where `capture` saw it, the global random generators included; arguments as there.

    A process that the run did not have then keeps the random generators that it has, and takes the first one's state.

    Raises:
        ValueError: the checkpoint does not fit the model, or its optimiser state is not whole.
    """
    load_weights(model, checkpoint.part("model"), "checkpoint")
    load_weights(ema.model, checkpoint.part("ema"), "checkpoint (moving average)")
    ema.scatter()
    names = {parameter: name for name, parameter in model.named_parameters()}
    for folder, turn in _folders(turns):
        optimizer = turn.optimizer
        states: dict[int, dict[str, Tensor]] = {}
        found = checkpoint.part(folder)
        for index, parameter in enumerate(turn.phase.parameters):
            prefix = f"{names[parameter]}/"
            state = {
                key.removeprefix(prefix): share_of(value, parameter) if value.shape == parameter.shape else value
                for key, value in found.items()
                if key.startswith(prefix)
            }
            if found and not state:
                raise ValueError(
                    f"checkpoint: the optimiser state of {names[parameter]} is missing; the file is not whole"
                )
            if state:
                states[index] = state
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": states, "param_groups": groups})
        if f"scaler/{turn.phase.name}" in checkpoint.tensors:
            turn.set_scaler_state(checkpoint.tensors[f"scaler/{turn.phase.name}"])
    process = checkpoint.part(f"process.{ranks.rank}")
    saved = {name.removeprefix("state/"): value for name, value in process.items() if name.startswith("state/")}
    saved, own = saved or checkpoint.part("state"), model.training_state() if carried is None else carried
    if {name: value.shape for name, value in saved.items()} != {name: value.shape for name, value in own.items()}:
        raise ValueError(
            f"checkpoint: what {type(model).__name__} carries from step to step must be {sorted(own)}; got "
            f"{sorted(saved)}, or other shapes; the file is not whole, or of another version"
        )
    for name, value in own.items():
        value.copy_(saved[name])
    generators = process if ranks.rank else checkpoint.tensors
    if "rng/cpu" in generators:
        torch.set_rng_state(generators["rng/cpu"].cpu())
    if device.type == "cuda" and "rng/cuda" in generators:
        torch.cuda.set_rng_state(generators["rng/cuda"].cpu(), device)


def _folders(turns: Sequence[Turn]) -> list[tuple[str, Turn]]:
    """Where the state of each phase's optimiser lies in the file; the first one's where files always had it."""
    return [(f"optimizer.{turn.phase.name}" if index else "optimizer", turn) for index, turn in enumerate(turns)]


def write_checkpoint(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `path` whole or not at all; a kill or a full disk leaves the file of before.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    header = {
        "format": FORMAT,
        "version": VERSION,
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "recipe": checkpoint.recipe.to_json(),
        "model_config": checkpoint.model_config,
        "notes": checkpoint.notes,
    }
    tensors = {name: value.detach().contiguous() for name, value in checkpoint.tensors.items()}
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"fastgen": json.dumps(header)})
    except (SafetensorError, OSError) as error:
        raise OSError(
            f"checkpoint: {path} could not be written ({error}); what was there before is whole; "
            f"free some space and resume"
        ) from error


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is truncated, is not a checkpoint of fastgen, or comes from a newer format.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("fastgen", "null"))
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise ValueError(f"checkpoint: {path} is a safetensors file but no checkpoint of fastgen train")
            if header["version"] > VERSION:
                raise ValueError(
                    f"checkpoint: {path} has format version {header['version']}; "
                    f"this fastgen reads up to {VERSION}; update fastgen"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"checkpoint: {path} is truncated or not a safetensors file ({error}); take another copy of it"
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"checkpoint: the metadata of {path} is damaged ({error})") from error
    return Checkpoint(
        recipe=Recipe.from_json(header["recipe"]),
        model_config=header["model_config"],
        step=header["step"],
        seconds=header["seconds"],
        tensors=tensors,
        notes=header["notes"],
    )
