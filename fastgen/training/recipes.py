"""Named training runs: everything that decides a run, as plain data.

This module imports nothing heavy, so that the command line can list recipes at once.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fastgen._names import unknown_name

Schedule = Literal["constant", "exponential", "cosine"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Recipe:
    """One training run as data: what is learned, by which model, how, for how long.

    Exactly one of `steps` and `seconds` is the budget. With `steps` the run is reproducible and can be
    resumed bit for bit; with `seconds` it always ends in time, and the cosine schedule follows the clock.

    Attributes:
        name: the recipe that the run started from.
        summary: one line for people.
        data: a data set's name or a folder of images (`fastgen.data.load`); for a model of signals "tones", recordings
            or a time series (`fastgen.data.load_audio`).
        size: side of the images, or (H, W); None takes the data set's own. Of signals the number of samples.
        levels: that images are quantised to, 2 by a threshold at 128; those of the model's likelihood.
        model: a name in `fastgen.models.MODELS`.
        config: arguments of the model. Size and classes come from the data, and so do channels that are not given.
        conditional: train on the labels of the data.
        batch_size: images a step.
        steps: budget in optimiser steps.
        seconds: budget in seconds of training, evaluation during it included.
        lr: Adam's learning rate after the warm-up.
        betas: Adam's two decay rates.
        warmup_steps: steps over which the learning rate rises linearly.
        schedule: what follows the warm-up: "constant", "exponential" (times `lr_decay` every step) or
            "cosine" (down to `lr_final` of `lr` at the end of the budget).
        lr_decay: factor a step of the exponential schedule.
        lr_final: last learning rate of the cosine schedule, as a fraction of `lr`.
        ema_decay: decay of the moving average of the weights, limited early to (1 + t) / (10 + t).
        clip_norm: largest norm of the gradient (of the loss in nats per dimension); None does not clip.
        init_from_data: data-dependent initialisation of the weight-normed layers from the first batch.
        precision: "float32", or "bfloat16" for autocast of the network (the likelihood stays in float32).
        workers: processes that read images which are not held in memory.
        seed: decides the weights, the batches and dropout.
        eval_interval: steps between evaluations on held-out images; 0 evaluates only before and after.
        checkpoint_interval: steps between checkpoints; one is always written at the end.
        log_interval: steps between lines of the log.
    """

    name: str
    data: str
    model: str
    summary: str = ""
    size: int | tuple[int, int] | None = None
    levels: int = 256
    config: Mapping[str, Any] = field(default_factory=dict)
    conditional: bool = False
    batch_size: int = 16
    steps: int | None = None
    seconds: float | None = None
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = 0
    schedule: Schedule = "constant"
    lr_decay: float = 1.0
    lr_final: float = 0.0
    ema_decay: float = 0.999
    clip_norm: float | None = None
    init_from_data: bool = False
    precision: Precision = "float32"
    workers: int = 2
    seed: int = 0
    eval_interval: int = 0
    checkpoint_interval: int = 500
    log_interval: int = 10

    def __post_init__(self) -> None:
        """Refuse values that cannot be trained with, naming the field."""
        if (self.steps is None) == (self.seconds is None):
            raise ValueError(
                f"recipe {self.name}: exactly one of steps and seconds is the budget; "
                f"got steps={self.steps}, seconds={self.seconds}; set one and leave the other none"
            )
        for key, low in [
            ("batch_size", 1),
            ("steps", 1),
            ("warmup_steps", 0),
            ("eval_interval", 0),
            ("checkpoint_interval", 1),
            ("log_interval", 1),
            ("seed", 0),
            ("workers", 0),
        ]:
            value = getattr(self, key)
            if value is not None and value < low:
                raise ValueError(f"recipe {self.name}: {key} must be at least {low}; got {value}")
        if not 2 <= self.levels <= 256:
            raise ValueError(f"recipe {self.name}: levels must be in 2..256; got {self.levels}")
        for key in ("lr", "seconds", "clip_norm", "lr_decay"):
            value = getattr(self, key)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"recipe {self.name}: {key} must be positive and finite; got {value}")
        for key, value in [("ema_decay", self.ema_decay), ("betas", self.betas[0]), ("betas", self.betas[1])]:
            if not 0 <= value < 1:
                raise ValueError(f"recipe {self.name}: {key} must be in [0, 1); got {value}")
        if not 0 <= self.lr_final <= 1:
            raise ValueError(f"recipe {self.name}: lr_final is a fraction of lr in [0, 1]; got {self.lr_final}")
        for key, choices in [
            ("schedule", typing.get_args(Schedule)),
            ("precision", typing.get_args(Precision)),
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
        elif self.schedule == "cosine":
            cosine = 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
            rate *= self.lr_final + (1 - self.lr_final) * cosine
        return rate * min(1.0, (step + 1) / (self.warmup_steps + 1))

    def replace(self, **changes: Any) -> Recipe:
        """Copy with fields changed; setting one budget clears the other."""
        if changes.get("steps") is not None:
            changes.setdefault("seconds", None)
        elif changes.get("seconds") is not None:
            changes.setdefault("steps", None)
        return dataclasses.replace(self, **changes)

    def override(self, assignments: Iterable[str]) -> Recipe:
        """Copy with `key=value` assignments applied; `config.key=value` reaches the model's arguments.

        Raises:
            ValueError: no `=`, an unknown key (the nearest ones are named), or a value of the wrong type.
        """
        changes: dict[str, Any] = {}
        config = dict(self.config)
        hints = typing.get_type_hints(type(self))
        for assignment in assignments:
            key, found, text = (part.strip() for part in assignment.partition("="))
            if not found:
                raise ValueError(f"--set: an assignment is key=value; got {assignment!r}; for example --set lr=1e-3")
            top, _, rest = key.partition(".")
            if top == "config" and rest:
                config[rest] = _parse_literal(text)
            elif key in hints and key not in ("name", "config"):
                changes[key] = _parse(key, text, hints[key])
            else:
                known = [name for name in hints if name not in ("name", "config")]
                raise unknown_name("recipe key", key, [*known, *(f"config.{name}" for name in config)])
        return self.replace(**changes, config=config)

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


_DEMO = Recipe(
    name="mnist5k-demo",
    summary="PixelCNN++ of MNIST digits by class that two CPU cores train in three minutes",
    data="mnist5k",
    model="PixelCNNPP",
    config={
        "n_resnet": 1,
        "down_resnets": 1,
        "n_filters": [24, 32, 48],
        "n_mix": 10,
        "dropout": 0.0,
        "stem": [[4, 7], [1, 7], [4, 6]],
        "stem_classes": True,
    },
    conditional=True,
    batch_size=16,
    seconds=190.0,
    lr=6e-3,
    betas=(0.9, 0.99),
    warmup_steps=50,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.99,
)

_MNIST5K = Recipe(
    name="pixelcnnpp-mnist5k",
    summary="PixelCNN++ of MNIST digits by class, larger and longer than the demo, with dropout",
    data="mnist5k",
    model="PixelCNNPP",
    config={"n_resnet": 2, "n_filters": 64, "n_mix": 10, "dropout": 0.2},
    conditional=True,
    batch_size=32,
    steps=20_000,
    lr=2e-3,
    betas=(0.9, 0.99),
    warmup_steps=200,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.999,
    eval_interval=1000,
)

_PIXELCNN = Recipe(
    name="pixelcnn-mnist5k",
    summary="PixelCNN of MNIST digits, 256-way softmax",
    data="mnist5k",
    model="PixelCNN",
    config={"n_blocks": 7, "n_filters": 32, "head_filters": 128},
    clip_norm=1.0,
    batch_size=16,
    steps=10_000,
    lr=1e-3,
    betas=(0.9, 0.99),
    warmup_steps=100,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.999,
    eval_interval=1000,
)

_GATED = dataclasses.replace(
    _PIXELCNN,
    name="gated-mnist5k",
    summary="Gated PixelCNN of MNIST digits by class, 256-way softmax",
    model="GatedPixelCNN",
    config={"n_layers": 6, "n_filters": 32, "kernel_size": 3, "dilations": [1, 1, 2, 4, 1, 2]},
    conditional=True,
    lr=4e-3,
)

_DIGITS = Recipe(
    name="pixelcnnpp-digits",
    summary="a tiny PixelCNN++ of scikit-learn's 8x8 digits: seconds, to try things out",
    data="digits",
    model="PixelCNNPP",
    config={"n_resnet": 1, "down_resnets": 1, "n_filters": [8, 12, 16], "n_mix": 4, "dropout": 0.0},
    conditional=True,
    batch_size=16,
    steps=300,
    lr=6e-3,
    betas=(0.9, 0.99),
    warmup_steps=20,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.99,
    checkpoint_interval=100,
)

_PHOTOS = Recipe(
    name="pixelcnnpp-photos",
    summary="PixelCNN++ of 32x32 crops of two photographs: a colour run without a download",
    data="photos",
    size=32,
    model="PixelCNNPP",
    config={"n_resnet": 2, "n_filters": 64, "n_mix": 10, "dropout": 0.2},
    batch_size=16,
    steps=10_000,
    lr=2e-3,
    betas=(0.9, 0.99),
    warmup_steps=200,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.999,
    eval_interval=1000,
)

_CIFAR10 = Recipe(
    name="pixelcnnpp-cifar10",
    summary="PixelCNN++ of CIFAR-10 with the paper's settings; 2.92 bits/dim there (needs a large GPU, days)",
    data="cifar10",
    model="PixelCNNPP",
    config={"n_resnet": 5, "n_filters": 160, "n_mix": 10, "dropout": 0.5},
    batch_size=128,
    steps=400_000,
    lr=1e-3,
    betas=(0.95, 0.9995),
    schedule="exponential",
    lr_decay=0.999995,
    ema_decay=0.9995,
    init_from_data=True,
    eval_interval=2000,
    checkpoint_interval=2000,
    log_interval=100,
)
"""The paper's CIFAR-10 run: 2.92 bits/dim on the test set (its table 1).

Source: Salimans, Karpathy, Chen and Kingma 2017, PixelCNN++, https://arxiv.org/abs/1701.05517. The optimiser's
settings are the defaults of the authors' train.py at https://github.com/openai/pixel-cnn: Adam 1e-3 with betas
(0.95, 0.9995), times 0.999995 every step, averages with 0.9995, eight GPUs of 16 images each, data-dependent
initialisation, dropout of 0.5. They report about five days on eight Titan X; 400,000 steps of 128 are about 1,100
passes. Held-out here is a tenth of the training images: `fastgen eval RUN --split test` gives the paper's figure.
"""

_WAVENET = Recipe(
    name="wavenet",
    summary="WaveNet of synthetic notes by timbre at 8 kHz, 256-way softmax; 4.1 bits a held-out sample",
    data="tones",
    size=2048,
    model="WaveNet",
    config={
        "n_blocks": 2,
        "n_filters": 32,
        "dilations": [1, 2, 4, 8, 16, 32, 64, 128, 256],
        "skip_filters": 64,
        "head_filters": 64,
        "sample_rate": 8000,
    },
    conditional=True,
    batch_size=4,
    steps=600,
    lr=3e-3,
    betas=(0.9, 0.99),
    warmup_steps=50,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.99,
    clip_norm=1.0,
)

_MULTISCALE = Recipe(
    name="multiscale",
    summary="multi-scale PixelCNN of binarised MNIST digits, 7x7 to 14x14 to 28x28; 78 nats",
    data="mnist5k",
    levels=2,
    model="MultiScalePixelCNN",
    config={
        "factors": [2, 2],
        "n_layers": [4, 4, 3],
        "n_filters": [24, 24, 16],
        "kernel_size": 3,
        "first_kernel_size": 5,
        "head_filters": 32,
        "cond_filters": 24,
        "likelihood": {"name": "Bernoulli", "channels": 1},
    },
    batch_size=16,
    steps=300,
    lr=1e-2,
    betas=(0.9, 0.99),
    warmup_steps=20,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.99,
    clip_norm=1.0,
)

_COLORIZATION = dataclasses.replace(
    _MULTISCALE,
    name="colorization",
    summary="Gated PixelCNN that colours gray 32x32 crops of photographs; 5.54 bits/dim given gray at --steps 400",
    data="photos",
    levels=256,
    size=32,
    model="Colorization",
    config={
        "n_layers": 5,
        "n_filters": 24,
        "kernel_size": 3,
        "first_kernel_size": 5,
        "head_filters": 48,
        "cond_layers": 3,
        "likelihood": {"name": "DiscretizedLogisticMixture", "channels": 3, "n_mix": 5},
    },
    batch_size=8,
    steps=2000,
    lr=5e-3,
)

_SUPER_RESOLUTION = dataclasses.replace(
    _COLORIZATION,
    name="super_resolution",
    summary="Gated PixelCNN that enlarges photographs from 16x16 to 32x32; 5.30 bits/dim at --steps 400",
    model="SuperResolution",
    config={**_COLORIZATION.config, "cond_scale": 2},
)

_FVSBN = Recipe(
    name="fvsbn",
    summary="FVSBN of binarised MNIST digits, 114 nats in a minute (97.45 with all of MNIST in the literature)",
    data="mnist5k",
    levels=2,
    model="FVSBN",
    batch_size=50,
    steps=2_000,
    lr=3e-3,
    warmup_steps=20,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.995,
    log_interval=50,
)

_NADE = dataclasses.replace(
    _FVSBN,
    name="nade",
    summary="NADE of binarised MNIST digits, 500 hidden units; 111 nats in a minute (88.33 on all of MNIST, published)",
    model="NADE",
    config={"n_hidden": 500},
    batch_size=20,
    steps=700,
    lr=3e-3,
    log_interval=20,
)

_MADE = dataclasses.replace(
    _FVSBN,
    name="made",
    summary="MADE of binarised MNIST digits, two layers of 500 hidden units, 16 sets of masks; 124 nats",
    model="MADE",
    config={"hidden": [500, 500], "n_masks": 16, "direct": True},
    steps=1_500,
    lr=1e-3,
)

_ROW_LSTM = Recipe(
    name="row_lstm",
    summary="PixelRNN with Row LSTM of binarised MNIST digits; 77 nats (0.14 bits/dim) held out in two minutes",
    data="mnist5k",
    levels=2,
    model="PixelRNN",
    config={
        "layer": "row_lstm",
        "n_layers": 3,
        "n_filters": 16,
        "head_filters": 32,
        "likelihood": {"name": "Bernoulli", "channels": 1},
    },
    batch_size=16,
    seconds=120.0,
    lr=4e-3,
    betas=(0.9, 0.99),
    warmup_steps=30,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.99,
    clip_norm=1.0,
)

_DIAGONAL_BILSTM = dataclasses.replace(
    _ROW_LSTM,
    name="diagonal_bilstm",
    summary="PixelRNN with Diagonal BiLSTM of binarised MNIST digits; 91 nats (0.17 bits/dim) held out in two minutes",
    config={**_ROW_LSTM.config, "layer": "diagonal_bilstm", "n_layers": 2},
)

_PIXELSNAIL = dataclasses.replace(
    _ROW_LSTM,
    name="pixelsnail",
    summary="PixelSNAIL of MNIST digits at 14x14 by class, mixture of logistics; 2.12 bits/dim held out in two minutes",
    size=14,
    levels=256,
    model="PixelSNAIL",
    config={"n_blocks": 2, "n_resnet": 2, "n_filters": 24, "value_channels": 24, "dropout": 0.0},
    conditional=True,
)

_IMAGE_GPT = dataclasses.replace(
    _ROW_LSTM,
    name="image_gpt",
    summary="Image GPT of MNIST digits at 14x14 in 16 levels; 1.12 bits/dim held out in two minutes",
    size=14,
    levels=16,
    model="ImageGPT",
    config={
        "n_layers": 4,
        "n_features": 64,
        "n_heads": 4,
        "likelihood": {"name": "Categorical", "channels": 1, "levels": 16},
    },
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _DEMO, _MNIST5K, _PIXELCNN, _GATED, _DIGITS, _PHOTOS, _CIFAR10, _WAVENET, _MULTISCALE, _COLORIZATION,
        _SUPER_RESOLUTION, _FVSBN, _NADE, _MADE, _ROW_LSTM, _DIAGONAL_BILSTM, _PIXELSNAIL, _IMAGE_GPT,
    )
}  # fmt: skip


def get_recipe(name: str) -> Recipe:
    """Look a recipe up by its name.

    Raises:
        ValueError: no such recipe; the nearest names are given.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]
