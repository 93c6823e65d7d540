"""What every autoregressive model of images or signals shares: inputs, nats, configuration, sampling."""

from __future__ import annotations

import abc
import dataclasses
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from fastgen.likelihoods import Likelihood, level_dtype, levels_to_signal, likelihood_from_config

if TYPE_CHECKING:
    from typing_extensions import Self


class AutoregressiveModel(nn.Module, abc.ABC):
    """log p(x) = sum over pixels in raster order of log p(x_i | x_<i, cond).

    A subclass names its frozen dataclass of options in `config_class`, passes an instance of it and its likelihood
    to `super().__init__`, and writes `forward`: one pass gives the parameters of the likelihood at every pixel, those
    of a pixel depending on earlier pixels only (and, where the likelihood draws the channels one by one, those of a
    channel on the earlier channels of its pixel too).

    Images are [N, C, H, W]. A model of signals in time sets `axes` to ("T",), takes [N, C, T], has no `image_channels`
    and no `image_size`, and says in `size` how long a signal is; a "pixel" is then a sample in time.

    Attributes:
        axes: the axes that are drawn along, in raster order.
        likelihood: the distribution of a pixel given its parameters.
        image_channels: C.
        image_size: (H, W) the model was trained on, or None; other sizes work too.
        n_classes: number of labels it is conditioned on; 0 for none.
    """

    config_class: ClassVar[type[Any]]
    axes: ClassVar[tuple[str, ...]] = ("H", "W")
    likelihood: Likelihood
    image_channels: int
    image_size: tuple[int, int] | None
    n_classes: int

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "config_class" in cls.__dict__:  # help() and editors show the options, which are written only once
            cls.__signature__ = inspect.signature(cls.config_class)  # type: ignore[attr-defined]

    def __init__(self, options: Any, likelihood: Likelihood, n_classes: int = 0) -> None:
        super().__init__()
        self._options = options
        self.likelihood = likelihood
        self.n_classes = n_classes
        if len(self.axes) == 2:
            self.image_channels, self.image_size = options.image_channels, options.image_size
        if likelihood.channels != self.channels:
            raise ValueError(
                f"{type(self).__name__}: the likelihood must be one of {self.channels} channels; got "
                f"{likelihood.config}; build it with channels={self.channels}"
            )

    @property
    def channels(self) -> int:
        """C."""
        return self.image_channels

    @property
    def size(self) -> tuple[int, ...] | None:
        """Length along each of the axes that the model was trained on, or None; others work too."""
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
    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Parameters of the likelihood at every pixel.

        Shapes: x [N, C, H, W]; cond [N] labels where n_classes > 0 -> [N, likelihood.n_params, H, W].
            In time [N, C, T] -> [N, likelihood.n_params, T].
        Dtypes: x levels (uint8; int32 for more than 256 of them) or float in [-1, 1].
        """

    def log_prob(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Nats: log p(x) = sum over pixels of log p(x_i | x_<i, cond).

        Shapes: x as in `forward`, cond [N] -> [N].
        Dtypes: x as in `forward`; the terms have the likelihood's dtype and are summed in float64 (float32 on devices
            that have no float64), which is also the result's.
        Gradient order: that of the likelihood.

        Raises:
            ValueError: wrong shape, levels out of range, NaN, missing or unknown labels.
        """
        terms = self.likelihood.log_prob(x, self(x, cond))
        return terms.flatten(1).sum(1, dtype=torch.float32 if terms.device.type == "mps" else torch.float64)

    def condition_of(self, x: Tensor, labels: Tensor | None = None) -> Any:
        """`cond` of images (or signals) x that are learned from or measured: here the labels that came with them.

        A model that is conditioned on something of the image itself computes it here, without gradient.

        Shapes: x as in `forward`, labels [N] or None -> what `prepare_cond` takes.
        """
        return labels

    def bits_per_dim(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """-log2 p(x) / (C H W): bits for each channel of each pixel. Shapes: x as in `forward`, cond [N] -> [N]."""
        return self.log_prob(x, cond) / (-math.log(2.0) * math.prod(x.shape[1:]))

    def sample(self, n: int, *, seed: int = 0, **options: Any) -> Tensor:
        """Draw n images, uint8 [n, C, H, W]: `fastgen.sample(self, n, seed=seed, **options)`."""
        from fastgen.sampling import sample

        return sample(self, n, seed=seed, **options)

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
        name, axes, levels = type(self).__name__, ", ".join(self.axes), self.likelihood.levels
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

    def prepare_cond(self, cond: Any, n: int) -> Tensor | None:
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
        if n and _can_read(labels):
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= self.n_classes:
                raise ValueError(
                    f"{name}: labels must be in 0..{self.n_classes - 1}; got {low if low < 0 else high}; "
                    "unlabelled images (label -1) need a model without classes"
                )
        return labels.to(next(self.parameters()).device)


def parameter_groups(likelihood: Likelihood) -> list[int]:
    """Channel group of each parameter of an uncoupled likelihood: the channel that it describes; all 0 if coupled."""
    groups = torch.zeros(likelihood.n_params, dtype=torch.int64)
    if not likelihood.coupled:
        for channel in range(likelihood.channels):
            _, params, _ = likelihood.channel(channel)
            groups[params] = channel
    return groups.tolist()


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


def check_levels(name: str, x: Tensor, levels: int, item: str = "image") -> None:
    """Check that x, in the dtype of levels, holds 0..levels - 1, where reading it stalls nothing.

    Raises:
        ValueError: a level out of range.
    """
    if levels == 256 or not x.numel() or not _can_read(x):
        return
    low, high = int(x.min()), int(x.max())
    if low < 0 or high >= levels:
        hint = f", for 8-bit ones x // {256 // levels} where 256 is a multiple of the levels"
        raise ValueError(
            f"{name}: levels must be in 0..{levels - 1}; got {high if high >= levels else low}; "
            f"quantise the {item}s{hint if levels < 256 else ''}"
        )


def as_likelihood(value: Likelihood | Mapping[str, Any] | None, default: Likelihood) -> Likelihood:
    """The likelihood that an option names: an instance, the `config` of one, or None for the default."""
    if value is None:
        return default
    return value if isinstance(value, Likelihood) else likelihood_from_config(dict(value))


def _can_read(x: Tensor) -> bool:
    """Whether values may be looked at: not while a compiler traces or a CUDA graph is captured."""
    return not (torch.compiler.is_compiling() or (x.is_cuda and torch.cuda.is_current_stream_capturing()))


def _json_ready(value: Any) -> Any:
    if isinstance(value, Likelihood):
        return value.config
    return [_json_ready(v) for v in value] if isinstance(value, (tuple, list)) else value
