"""A training run as plain data: everything that decides it."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fastgen._names import unknown_name

Schedule = Literal["constant", "exponential", "cosine", "linear"]
Precision = Literal["float32", "bfloat16", "float16"]
Optimizer = Literal["adam", "adamw", "adamax", "rmsprop", "sgd"]
Compile = Literal["none", "default", "reduce-overhead", "max-autotune"]
Sharding = Literal["none", "fsdp"]
NESTED = ("config", "adversarial")
"""Fields whose keys are set one by one: config.KEY=VALUE."""


@dataclass(frozen=True)
class Recipe:
    """One training run as data: what is learned, by which model, how, for how long.

    Exactly one of `steps` and `seconds` is the budget. With `steps` the run is reproducible and can be
    resumed bit for bit; with `seconds` it always ends in time, and the cosine schedule follows the clock.

    Attributes:
        name: the recipe that the run started from.
        summary: one line for people.
        expected: what the paper reports for it; empty where it reports no figure, and for recipes that are no paper's.
        source: the paper whose setting it is, where in it the figure stands, and its address.
        data: a data set's name or a folder of images (`fastgen.data.load`); for a model of signals "tones", recordings
            or a time series (`fastgen.data.load_audio`).
        size: side of the images, or (H, W); None takes the data set's own. Of signals the number of samples.
        skip_corrupt: leave out the images of a folder that cannot be decoded, with a warning that counts and names
            them; else such a file is an error when its turn comes.
        levels: that images are quantised to, 2 by a threshold at 128; those of the model's likelihood.
        model: a name in `fastgen.models.MODELS`.
        config: arguments of the model. Size and classes come from the data, and so do channels that are not given.
        adversarial: how an adversarial model is trained, where it differs from the model's own choice: loss,
            regularisers, augmentation, learning rates (`fastgen.training.adversarial.AdversarialOptions`).
        conditional: train on the labels of the data.
        batch_size: images a step, of all processes and micro-batches together.
        accumulate: micro-batches that a batch is taken in, one after another, to save memory; gradients are added up.
            Statistics over a batch (batch norm, minibatch standard deviation) are then those of a micro-batch.
        steps: budget in optimiser steps.
        seconds: budget in seconds of training, evaluation during it included.
        optimizer: "adam", "adamw", "adamax", "rmsprop" or "sgd".
        lr: the learning rate after the warm-up.
        betas: decay rates of the averages of gradients and of their squares; of rmsprop the second one counts, of sgd
            the first, its momentum. Players of an adversarial model have their own, adversarial.betas_generator and
            adversarial.betas_discriminator.
        weight_decay: of adamw and sgd.
        warmup_steps: steps over which the learning rate rises linearly.
        schedule: what follows the warm-up: "constant", "exponential" (times `lr_decay` every step), "cosine" or
            "linear" (down to `lr_final` of `lr` at the end of the budget).
        lr_decay: factor a step of the exponential schedule.
        lr_final: last learning rate of the cosine and the linear schedule, as a fraction of `lr`.
        lr_hold: fraction of the budget before those two begin to fall.
        ema_decay: decay of the moving average of the weights, limited early to (1 + t) / (10 + t).
        clip_norm: largest norm of the gradient (of the loss in nats per dimension); None does not clip.
        skip_norm: norm of the gradient above which a step is left out: weights and Adam's moments stay as they were
            (the moving average, of the same weights, goes on). None takes every step.
        init_from_data: data-dependent initialisation of the weight-normed layers from the first batch.
        precision: "float32", or "bfloat16" or "float16" for autocast of the network (the likelihood stays in float32);
            float16 scales the loss, and leaves out a step whose gradient overflows.
        compile: "none", or a mode of `torch.compile` for the loss and its gradient; "reduce-overhead" replays them as a
            CUDA graph.
        channels_last: keep images and weights of convolutions with the channels innermost.
        sharding: "none": every process has all weights; "fsdp" (FSDP2): each keeps its share of weights, gradients and
            optimiser state. For a model with a single phase, on more than one process.
        workers: processes that read images which are not held in memory.
        seed: decides the weights, the batches and dropout.
        eval_interval: steps between evaluations on held-out images; 0 evaluates only before and after.
        checkpoint_interval: steps between checkpoints; one is always written at the end.
        keep_checkpoints: how many of them are kept, the newest included.
        log_interval: steps between lines of the log.
        sample_grid: images drawn from the averaged weights at every evaluation, always of the same noise, into
            `samples/step-N.png` of the run's folder; 0 draws none.
    """

    name: str
    data: str
    model: str
    summary: str = ""
    size: int | tuple[int, int] | None = None
    skip_corrupt: bool = False
    levels: int = 256
    config: Mapping[str, Any] = field(default_factory=dict)
    adversarial: Mapping[str, Any] = field(default_factory=dict)
    conditional: bool = False
    batch_size: int = 16
    accumulate: int = 1
    steps: int | None = None
    seconds: float | None = None
    optimizer: Optimizer = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    schedule: Schedule = "constant"
    lr_decay: float = 1.0
    lr_final: float = 0.0
    lr_hold: float = 0.0
    ema_decay: float = 0.999
    clip_norm: float | None = None
    skip_norm: float | None = None
    init_from_data: bool = False
    precision: Precision = "float32"
    compile: Compile = "none"
    channels_last: bool = False
    sharding: Sharding = "none"
    workers: int = 2
    seed: int = 0
    eval_interval: int = 0
    checkpoint_interval: int = 500
    keep_checkpoints: int = 1
    log_interval: int = 10
    sample_grid: int = 0
    expected: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse values that cannot be trained with, naming the field."""
        if (self.steps is None) == (self.seconds is None):
            raise ValueError(
                f"recipe {self.name}: exactly one of steps and seconds is the budget; "
                f"got steps={self.steps}, seconds={self.seconds}; set one and leave the other none"
            )
        for key, low in [
            ("batch_size", 1),
            ("accumulate", 1),
            ("steps", 1),
            ("warmup_steps", 0),
            ("eval_interval", 0),
            ("checkpoint_interval", 1),
            ("keep_checkpoints", 1),
            ("log_interval", 1),
            ("sample_grid", 0),
            ("seed", 0),
            ("workers", 0),
        ]:
            value = getattr(self, key)
            if value is not None and value < low:
                raise ValueError(f"recipe {self.name}: {key} must be at least {low}; got {value}")
        if not 2 <= self.levels <= 256:
            raise ValueError(f"recipe {self.name}: levels must be in 2..256; got {self.levels}")
        for key in ("lr", "seconds", "clip_norm", "skip_norm", "lr_decay"):
            value = getattr(self, key)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"recipe {self.name}: {key} must be positive and finite; got {value}")
        for key, value in [("ema_decay", self.ema_decay), ("betas", self.betas[0]), ("betas", self.betas[1])]:
            if not 0 <= value < 1:
                raise ValueError(f"recipe {self.name}: {key} must be in [0, 1); got {value}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"recipe {self.name}: batch_size must be a multiple of accumulate, its micro-batches; got "
                f"{self.batch_size} and {self.accumulate}"
            )
        if not 0 <= self.lr_final <= 1:
            raise ValueError(f"recipe {self.name}: lr_final is a fraction of lr in [0, 1]; got {self.lr_final}")
        if not 0 <= self.lr_hold < 1:
            raise ValueError(f"recipe {self.name}: lr_hold is a fraction of the budget in [0, 1); got {self.lr_hold}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"recipe {self.name}: weight_decay must not be negative; got {self.weight_decay}")
        if self.weight_decay and self.optimizer not in ("adamw", "sgd"):
            raise ValueError(
                f"recipe {self.name}: weight_decay is of adamw and sgd; got optimizer={self.optimizer}; set another, "
                "or weight_decay=0"
            )
        for key, choices in [
            ("schedule", typing.get_args(Schedule)),
            ("precision", typing.get_args(Precision)),
            ("optimizer", typing.get_args(Optimizer)),
            ("compile", typing.get_args(Compile)),
            ("sharding", typing.get_args(Sharding)),
        ]:
            if getattr(self, key) not in choices:
                raise unknown_name(key, str(getattr(self, key)), choices)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width that the images are brought to; None leaves them."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def learning_rate(self, step: int, progress: float) -> float:
        """Learning rate of step `step` (from 0) when the fraction `progress` of the budget is spent."""
        rate = self.lr
        if self.schedule == "exponential":
            rate *= self.lr_decay**step
        elif self.schedule in ("cosine", "linear"):
            fallen = min(max((progress - self.lr_hold) / (1 - self.lr_hold), 0.0), 1.0)
            left = 0.5 * (1 + math.cos(math.pi * fallen)) if self.schedule == "cosine" else 1 - fallen
            rate *= self.lr_final + (1 - self.lr_final) * left
        return rate * min(1.0, (step + 1) / (self.warmup_steps + 1))

    def replace(self, **changes: Any) -> Recipe:
        """Copy with fields changed; setting one budget clears the other."""
        if changes.get("steps") is not None:
            changes.setdefault("seconds", None)
        elif changes.get("seconds") is not None:
            changes.setdefault("steps", None)
        return dataclasses.replace(self, **changes)

    def override(self, assignments: Iterable[str]) -> Recipe:
        """Copy with `key=value` assignments applied; `config.key=value` reaches the model's arguments, and
        `adversarial.key=value` the adversarial options.

        Raises:
            ValueError: no `=`, an unknown key (the nearest ones are named), or a value of the wrong type.
        """
        changes: dict[str, Any] = {}
        nested = {key: dict(getattr(self, key)) for key in NESTED}
        hints = typing.get_type_hints(type(self))
        for assignment in assignments:
            key, found, text = (part.strip() for part in assignment.partition("="))
            if not found:
                raise ValueError(f"--set: an assignment is key=value; got {assignment!r}; for example --set lr=1e-3")
            top, _, rest = key.partition(".")
            if top in NESTED and rest:
                nested[top][rest] = _parse_literal(text)
            elif key in hints and key not in ("name", *NESTED):
                changes[key] = _parse(key, text, hints[key])
            else:
                known = [name for name in hints if name not in ("name", *NESTED)]
                known += [f"{field}.{name}" for field, values in nested.items() for name in values]
                raise unknown_name("recipe key", key, known)
        return self.replace(**changes, **nested)

    def update(self, values: Mapping[str, Any]) -> Recipe:
        """Copy with fields set to plain values, as a configuration file has them.

        Keys of `config` and `adversarial` are set one by one.

        Raises:
            ValueError: an unknown key (the nearest ones are named), or a value of the wrong type.
        """
        hints = typing.get_type_hints(type(self))
        changes: dict[str, Any] = {}
        for key, value in values.items():
            if key not in hints:
                raise unknown_name("recipe key", key, hints)
            if key in NESTED:
                if not isinstance(value, Mapping):
                    raise ValueError(f"recipe key {key}: expected a table of values; got {value!r}")
                changes[key] = dict(getattr(self, key)) | dict(value)
            else:
                changes[key] = _typed(key, value, hints[key])
        return self.replace(**changes)

    def to_json(self) -> dict[str, Any]:
        """Plain values that `json` writes and `from_json` reads back to an equal recipe."""
        return typing.cast("dict[str, Any]", json.loads(json.dumps(dataclasses.asdict(self))))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Recipe:
        """Build the recipe that `to_json` described.

        Raises:
            ValueError: an unknown key; it was written by a newer version or by hand.
        """
        hints = typing.get_type_hints(cls)
        for key in values:
            if key not in hints:
                raise unknown_name("recipe key", key, hints)
        changes = dict(values)
        changes["betas"] = tuple(changes.get("betas", cls.betas))
        if isinstance(changes.get("size"), list):
            changes["size"] = tuple(changes["size"])
        return cls(**changes)


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the fields of a recipe from a TOML file, or a JSON file such as the `recipe.json` of a run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is neither TOML nor JSON, or no table.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"config: no file {path}; check the path")
    text = path.read_text()
    try:
        if path.suffix == ".json":
            values = json.loads(text)
        else:
            values = _toml().loads(text)
    except ValueError as error:  # TOMLDecodeError and JSONDecodeError are among them
        raise ValueError(f"config: {path} must be TOML, or JSON if so named; {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"config: {path} must hold a table of keys and values; got a {type(values).__name__}")
    return values


def _toml() -> Any:
    return importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


def _typed(key: str, value: Any, hint: Any) -> Any:
    """The value as the field's type."""
    for option in typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,):
        if typing.get_origin(option) is tuple:
            kinds = typing.get_args(option)
            if isinstance(value, (list, tuple)) and len(value) == len(kinds):
                return tuple(_typed(key, part, kind) for part, kind in zip(value, kinds, strict=True))
        elif typing.get_origin(option) is Literal:
            if value in typing.get_args(option):
                return value
        elif option is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        elif option in (int, bool, str, type(None)) and type(value) is option:
            return value
    raise ValueError(f"recipe key {key}: expected {_describe(hint)}; got {value!r}")


def _parse_literal(text: str) -> Any:
    """JSON where it is JSON (numbers, true, null, lists), a list for `1,2`, else the text itself."""
    for candidate in (text, f"[{text}]" if "," in text else text):
        try:
            return json.loads(candidate)
        except json.JSONDecodeError:
            continue
    return {"none": None, "True": True, "False": False, "None": None}.get(text, text)


def _parse(key: str, text: str, hint: Any) -> Any:
    """Read `text` as the field's type."""
    try:
        return _parse_as(text, hint)
    except (ValueError, TypeError):
        raise ValueError(f"--set {key}: expected {_describe(hint)}; got {text!r}") from None


def _parse_as(text: str, hint: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            try:
                return _parse_as(text, option)
            except (ValueError, TypeError):
                continue
        raise ValueError(text)
    if origin is Literal:
        if text not in typing.get_args(hint):
            raise ValueError(text)
        return text
    if origin is tuple:
        parts = text.replace("x", ",").strip("()[]").split(",")
        options = typing.get_args(hint)
        if len(parts) != len(options):
            raise ValueError(text)
        return tuple(_parse_as(part.strip(), option) for part, option in zip(parts, options, strict=True))
    if hint is type(None):
        if text.lower() not in ("none", "null"):
            raise ValueError(text)
        return None
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return hint(text)


def _describe(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in typing.get_args(hint))
    if origin is Literal:
        return " or ".join(typing.get_args(hint))
    if origin is tuple:
        return ",".join(_describe(option) for option in typing.get_args(hint))
    return "none" if hint is type(None) else str(hint.__name__)
