"""What every model shares: its configuration, checked inputs and labels, what it is trained on, and drawing."""

from __future__ import annotations

import abc
import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from fastgen.likelihoods import Likelihood, level_dtype, levels_to_signal

if TYPE_CHECKING:
    from typing_extensions import Self

Terms = Mapping[str, Tensor]
Batches = Callable[[], Iterable[tuple[Tensor, Any]]]


@dataclasses.dataclass(frozen=True)
class Phase:
    """One optimiser's turn in a training step.

    Attributes:
        name: what logs and checkpoints call it.
        parameters: the weights that this turn moves.
        loss: of a batch and its condition the scalar "loss" that is minimised, and other scalars that are logged.
        lr_scale: times the recipe's learning rate.
        begin: the fraction of the budget at which the phase starts.
        end: the fraction of the budget at which it is over.
        betas: Adam's decay rates in this phase; None takes the recipe's.
        repeats: turns in a training step, each with a batch of its own; phases share the batches of a step, so that
            turn j of every phase sees batch j.
        after: called after each turn, for instance to clip weights.
        averaged: whether the moving average smooths these weights; else it holds the latest.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    loss: Callable[[Tensor, Any], Terms]
    lr_scale: float = 1.0
    begin: float = 0.0
    end: float = 1.0
    betas: tuple[float, float] | None = None
    repeats: int = 1
    after: Callable[[], None] | None = None
    averaged: bool = True

    def active(self, progress: float) -> bool:
        """Whether the phase has its turn when the fraction `progress` of the budget is spent."""
        return self.begin <= progress < self.end


class Model(nn.Module, abc.ABC):
    """A generative model of images [N, C, H, W], or of signals in time [N, C, T].

    A subclass names its frozen dataclass of options in `config_class`, passes an instance of it to
    `super().__init__`, and says what training minimises (`objective`, or several `phases`), what is measured on
    held-out images (`held_out`) and how it draws (`sample`).

    Attributes:
        axes: the axes of an item beside its channels.
        image_channels: C.
        image_size: (H, W) the model was trained on, or None.
        n_classes: number of labels it is conditioned on; 0 for none.
        levels: levels of a channel; level k is the signal 2k / (levels - 1) - 1.
    """

    config_class: ClassVar[type[Any]]
    axes: ClassVar[tuple[str, ...]] = ("H", "W")
    image_channels: int
    image_size: tuple[int, int] | None
    n_classes: int
    levels: int

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "config_class" in cls.__dict__:  # help() and editors show the options, which are written only once
            cls.__signature__ = inspect.signature(cls.config_class)  # type: ignore[attr-defined]

    def __init__(self, options: Any, n_classes: int = 0, levels: int = 256) -> None:
        super().__init__()
        self._options = options
        self.n_classes, self.levels = n_classes, levels
        if len(self.axes) == 2:
            self.image_channels, self.image_size = options.image_channels, options.image_size

    @property
    def channels(self) -> int:
        """C."""
        return self.image_channels

    @property
    def size(self) -> tuple[int, ...] | None:
        """Length along each of the axes that the model was trained on, or None."""
        return self.image_size

    @property
    def config(self) -> dict[str, Any]:
        """All options, ready for JSON: `type(model).from_config(model.config)` builds the same model."""
        fields = dataclasses.fields(self._options)
        return {field.name: _json_ready(getattr(self._options, field.name)) for field in fields}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build an untrained model from its `config`.

        Raises:
            ValueError: a key that is no option of this model, or a value that it refuses.
        """
        known = [field.name for field in dataclasses.fields(cls.config_class)]
        unknown = sorted(set(config) - set(known))
        if unknown:
            raise ValueError(
                f"{cls.__name__}.from_config: keys must be options of the model; got unknown {unknown}; known: {known}"
            )
        return cls(**config)

    @abc.abstractmethod
    def objective(self, x: Tensor, cond: Any = None) -> Terms:
        """Of a batch the scalar "loss" that training minimises, and other scalars that are logged.

        Shapes: x [N, C, *axes], cond as `condition_of` returns it.
        """

    def phases(self) -> Sequence[Phase]:
        """The turns of a training step, one after another; by default one that moves all weights on `objective`."""
        return (Phase("all", tuple(self.parameters()), self.objective),)

    def shards(self) -> Sequence[nn.Module]:
        """The parts whose weights are gathered one at a time where processes share them (FSDP): called as modules.

        By default none: all weights are gathered at once.
        """
        return ()

    def begin_step(self, progress: float) -> None:
        """Hear, before each training step, what fraction of the budget is spent; by default nothing changes."""

    def training_state(self) -> dict[str, Tensor]:
        """Tensors that training carries from step to step beside the weights, by name; by default none.

        Checkpoints hold them and a resumed run writes into them in place; model files do not.
        """
        return {}

    def finish(self, batches: Batches) -> None:
        """Fit, after the last step and without gradient, what is no weight; by default there is nothing.

        `batches()` goes once over the training images and their conditions, in order.
        """

    @abc.abstractmethod
    def held_out(self, x: Tensor, cond: Any = None) -> Terms:
        """What is measured on held-out images, [N] each: the first is the model's own figure of merit, lower is better.

        "nats" is -log p(x) or an upper bound of it, from which bits per dimension follow.
        """

    def summarize(self, figures: Terms) -> dict[str, float]:
        """What is said of all held-out images: by default the mean of each figure that `held_out` gave of them.

        Shapes: figures [images, ...] each, without "nats".
        """
        return {name: float(values.mean()) for name, values in figures.items()}

    @abc.abstractmethod
    def sample(self, n: int, *, seed: int = 0, **options: Any) -> Tensor:
        """Draw n images, uint8 levels [n, C, H, W] (int32 for more than 256 levels)."""

    def condition_of(self, x: Tensor, labels: Tensor | None = None) -> Any:
        """`cond` of images (or signals) x that are learned from or measured: here the labels that came with them.

        A model that is conditioned on something of the image itself computes it here, without gradient.

        Shapes: x as in `objective`, labels [N] or None -> what `prepare_cond` takes.
        """
        return labels

    def prepare_image(self, x: Tensor) -> Tensor:
        """Check [N, C, H, W] and return it in [-1, 1] in the dtype of the model: `prepare_input` of an image."""
        return self.prepare_input(x)

    def prepare_input(self, x: Tensor) -> Tensor:
        """Check [N, C, *axes] and return it in [-1, 1] in the dtype of the model.

        Levels k become 2k / (levels - 1) - 1; floats are taken as they are.

        Raises:
            TypeError: neither float nor of the dtype of the levels: uint8, or int32 for more than 256 of them.
            ValueError: other dimensions, another number of channels, no pixels, levels out of range.
        """
        name, axes, levels = type(self).__name__, ", ".join(self.axes), self.levels
        item = "image" if len(self.axes) == 2 else "signal"
        if x.dim() != 2 + len(self.axes) or x.shape[1] != self.channels or 0 in x.shape[2:]:
            raise ValueError(
                f"{name}: x must be [N, {self.channels}, {axes}] with {axes} >= 1; got {list(x.shape)}; "
                f"give each {item} a batch dimension, and the channels that the model was built for"
            )
        dtype = next(self.parameters()).dtype
        if x.dtype.is_floating_point:
            return x.to(dtype)
        wanted = level_dtype(levels)
        if x.dtype != wanted:
            kind = str(wanted).removeprefix("torch.")
            raise TypeError(
                f"{name}: x must be {kind} levels or float in [-1, 1]; got {x.dtype}; use x.to(torch.{kind})"
            )
        check_levels(name, x, levels, item)
        return levels_to_signal(x, levels, dtype)

    def prepare_cond(self, cond: Any, n: int) -> Any:
        """Check the labels of n images and return them as int64 [n] on the model's device; None without classes.

        Shapes: cond [n] integers (a tensor or a sequence), or one integer for all.

        Raises:
            TypeError: labels that are not integers.
            ValueError: labels for a model without classes, none for one with classes, another number of them, or
                one out of range.
        """
        name = type(self).__name__
        if self.n_classes == 0:
            if cond is not None:
                raise ValueError(f"{name}: cond must be None, the model has no classes; build it with n_classes > 0")
            return None
        if cond is None:
            raise ValueError(
                f"{name}: cond must hold {n} labels in 0..{self.n_classes - 1}, as the model was built with classes; "
                "got None"
            )
        labels = torch.as_tensor(cond)
        if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
            raise TypeError(f"{name}: cond must be integer labels; got {labels.dtype}; use cond.long()")
        if labels.dim() == 0:
            labels = labels.expand(n)
        if labels.shape != (n,):
            raise ValueError(f"{name}: cond must be [{n}], a label for each image; got {list(labels.shape)}")
        labels = labels.long()
        if n and can_read(labels):
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= self.n_classes:
                raise ValueError(
                    f"{name}: labels must be in 0..{self.n_classes - 1}; got {low if low < 0 else high}; "
                    "unlabelled images (label -1) need a model without classes"
                )
        return labels.to(next(self.parameters()).device)


def check_image_options(name: str, image_channels: int, image_size: Sequence[int] | None) -> tuple[int, int] | None:
    """Check the options that all models share; return image_size as a tuple of two ints, or None.

    Raises:
        ValueError: no channels, or a size that is not two positive integers.
    """
    if image_channels < 1:
        raise ValueError(f"{name}: image_channels must be at least 1; got {image_channels}")
    if image_size is None:
        return None
    size = tuple(int(n) for n in image_size)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"{name}: image_size must be (height, width), at least 1 each; got {image_size}")
    return (size[0], size[1])


def check_image_size(name: str, x: Tensor, image_size: tuple[int, int]) -> None:
    """Check that images [N, C, H, W] are of the one size that a model has weights for.

    Raises:
        ValueError: they are of another one.
    """
    if tuple(x.shape[2:]) != image_size:
        raise ValueError(
            f"{name}: x must be of the size that the weights are for, {image_size}; got {tuple(x.shape[2:])}; resize "
            "the images, or build the model with another image_size"
        )


def check_codes(name: str, z: Tensor, latent_shape: tuple[int, ...]) -> Tensor:
    """Check that codes are [N, *latent_shape] and return them.

    Raises:
        ValueError: they are not.
    """
    if tuple(z.shape[1:]) != latent_shape or z.dim() != 1 + len(latent_shape):
        shape = ", ".join(map(str, latent_shape))
        raise ValueError(f"{name}: codes must be [N, {shape}]; got {list(z.shape)}")
    return z


def check_levels(name: str, x: Tensor, levels: int, item: str = "image") -> None:
    """Check that x, in the dtype of levels, holds 0..levels - 1, where reading it stalls nothing.

    Raises:
        ValueError: a level out of range.
    """
    if levels == 256 or not x.numel() or not can_read(x):
        return
    low, high = int(x.min()), int(x.max())
    if low < 0 or high >= levels:
        hint = f", for 8-bit ones x // {256 // levels} where 256 is a multiple of the levels"
        raise ValueError(
            f"{name}: levels must be in 0..{levels - 1}; got {high if high >= levels else low}; "
            f"quantise the {item}s{hint if levels < 256 else ''}"
        )


def can_read(x: Tensor) -> bool:
    """Whether values may be looked at: not while a compiler traces or a CUDA graph is captured."""
    return not (torch.compiler.is_compiling() or (x.is_cuda and torch.cuda.is_current_stream_capturing()))


def _json_ready(value: Any) -> Any:
    if isinstance(value, Likelihood):
        return value.config
    return [_json_ready(v) for v in value] if isinstance(value, (tuple, list)) else value
