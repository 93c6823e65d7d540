"""What a model reaches on held-out images, or signals: likelihood, or its own figure of merit."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.data import LabelledDataset
from fastgen.data.dataset import TensorDataset
from fastgen.evaluation.each_image import of_each_image
from fastgen.models import Model
from fastgen.models.base import Terms


@dataclass(frozen=True)
class HeldOut:
    """Means over `images` images (or signals) of `dims` dimensions each.

    Attributes:
        images: how many images were evaluated, each once.
        dims: C * H * W, of signals C * T.
        nats: mean of -log p(image), or of an upper bound of it, in nats per image; NaN for a model without density.
        bits_per_dim: nats / (dims * log 2).
        stderr: standard error of bits_per_dim over the images, without density of the first of `others` (0 for a
            single image, and for a figure that is no mean over images).
        others: means of what else the model measures, by name.
    """

    images: int
    dims: int
    nats: float = math.nan
    bits_per_dim: float = math.nan
    stderr: float = 0.0
    others: Mapping[str, float] = field(default_factory=dict)

    @property
    def merit(self) -> float:
        """The figure of merit, lower is better: nats, or the first of the model's own figures."""
        return next(iter(self.others.values())) if math.isnan(self.nats) else self.nats

    def __str__(self) -> str:
        """The figure of merit: `1.1350 bits/dim`, or `mse 0.0123`."""
        if not math.isnan(self.nats):
            return f"{self.bits_per_dim:.4f} bits/dim"
        name, value = next(iter(self.others.items()))
        return f"{name.replace('_', ' ')} {value:.4f}"

    def describe(self) -> str:
        """All figures: `1.1350 ± 0.0102 bits/dim, 616.81 nats each`, and what else was measured."""
        density = not math.isnan(self.nats)
        head = f"{self.bits_per_dim:.4f} ± {self.stderr:.4f} bits/dim, {self.nats:.2f} nats each"
        parts = [head] if density else []
        for index, (name, value) in enumerate(self.others.items()):
            error = f" ± {self.stderr:.4f}" if index == 0 and not density and self.stderr else ""
            parts.append(f"{name.replace('_', ' ')} {value:.4f}{error}")
        return ", ".join(parts)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Confidence interval of `bits_per_dim` (without density of the first of `others`), normal over images.

        An estimate by draws varies from image to image too, so its draws are in the interval; that it is a bound is
        not.
        """
        centre = next(iter(self.others.values())) if math.isnan(self.nats) else self.bits_per_dim
        reach = NormalDist().inv_cdf((1 + level) / 2) * self.stderr
        return centre - reach, centre + reach

    def to_json(self) -> dict[str, Any]:
        """Plain values for a log."""
        density = {} if math.isnan(self.nats) else {"nats": self.nats, "bits_per_dim": self.bits_per_dim}
        return {"images": self.images, "dims": self.dims, **density, "stderr": self.stderr, **self.others}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> HeldOut:
        """Undo `to_json`."""
        own = {entry.name for entry in fields(cls)} - {"others"}
        mine = {key: value for key, value in values.items() if key in own}
        return cls(**mine, others={key: value for key, value in values.items() if key not in own})


def evaluate(
    model: Model,
    data: Tensor | LabelledDataset,
    labels: Tensor | None = None,
    *,
    batch_size: int = 64,
    distributed: bool = False,
) -> HeldOut:
    """Means over the images of what `model.held_out` measures, every image counted once whatever the batch size.

    What is estimated by sampling is a function of the number of the batch, so that figures are repeatable. With
    `distributed` the batches are shared among the processes of `torch.distributed`, all of which call this with the
    same arguments and get the figures that one process alone would get.

    Shapes: data [N, C, H, W] (signals [N, C, T]) of levels with labels [N] for a class-conditional model, or a data
        set, which has both and may be too large for memory.
    Dtypes: the model's, accumulated over images in float64. The global random generators are left as they were.
    Gradient order: none.

    Raises:
        ValueError: no images, missing labels, or a figure that is not finite.
    """
    return _evaluate("evaluate", model, data, labels, batch_size, model.held_out, distributed)


def evaluate_bits(
    model: nn.Module,
    data: Tensor | LabelledDataset,
    labels: Tensor | None = None,
    *,
    batch_size: int = 64,
    distributed: bool = False,
) -> HeldOut:
    """bits/dim = -1 / (N D log 2) * sum_n log p(x_n), of any module with `log_prob(x, cond)`; else as `evaluate`."""

    def nats(x: Tensor, cond: Any) -> Terms:
        return {"nats": -model.log_prob(x, cond)}  # type: ignore[operator]

    return _evaluate("evaluate_bits", model, data, labels, batch_size, nats, distributed)


def evaluate_bound(
    model: Model,
    data: Tensor | LabelledDataset,
    labels: Tensor | None = None,
    *,
    n_samples: int,
    batch_size: int = 64,
    distributed: bool = False,
) -> HeldOut:
    """Importance-weighted bound of -log p(x) by `n_samples` draws an image, of a model with codes; else as `evaluate`.

    Raises:
        ValueError: also for a model whose `log_prob` takes no number of samples.
    Source: Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016.
    """
    bound: Any = getattr(model, "log_prob", None)
    if bound is None or "n_samples" not in inspect.signature(bound).parameters:
        raise ValueError(
            f"evaluate_bound: the model must have a bound that samples tighten; {type(model).__name__} has none; use "
            "evaluate"
        )

    def nats(x: Tensor, cond: Any) -> Terms:
        return {"nats": -bound(x, cond, n_samples=n_samples)}

    return _evaluate("evaluate_bound", model, data, labels, batch_size, nats, distributed)


def _evaluate(
    name: str,
    model: nn.Module,
    data: Tensor | LabelledDataset,
    labels: Tensor | None,
    batch_size: int,
    measure: Callable[[Tensor, Any], Terms],
    distributed: bool,
) -> HeldOut:
    dataset = _as_dataset(name, data, labels)
    conditional = bool(getattr(model, "n_classes", 0))
    if conditional and dataset.n_classes == 0 and labels is None:
        raise ValueError(f"{name}: a class-conditional model needs labels; {dataset.name} has none; pass labels")
    condition_of: Any = getattr(model, "condition_of", lambda x, labels: labels)
    figures = of_each_image(
        model,
        dataset,
        batch_size,
        lambda x, labels: measure(x, condition_of(x, labels if conditional else None)),
        distributed=distributed,
    )
    for key, values in figures.items():
        if not torch.isfinite(values).all():
            place = tuple((~torch.isfinite(values)).nonzero()[0].tolist())
            bad, found = place[0], values[place]
            what, value = ("log-likelihoods", -found) if key == "nats" else (key, found)
            raise ValueError(
                f"{name}: {what} must be finite; got {float(value)} for image {bad}; the weights have diverged"
            )
    n, dims = len(dataset), math.prod(dataset.shape)
    nats = figures.pop("nats", None)
    others = model.summarize(figures) if isinstance(model, Model) else {}
    if nats is None:
        return HeldOut(images=n, dims=dims, stderr=_standard_error(next(iter(figures.values()))), others=others)
    bits = nats / (dims * math.log(2))
    return HeldOut(n, dims, float(nats.mean()), float(bits.mean()), _standard_error(bits), others)


def _standard_error(values: Tensor) -> float:
    return float(values.std() / math.sqrt(len(values))) if values.dim() == 1 and len(values) > 1 else 0.0


def _as_dataset(name: str, data: Tensor | LabelledDataset, labels: Tensor | None) -> LabelledDataset:
    if not isinstance(data, Tensor):
        if len(data) == 0:
            raise ValueError(f"{name}: {data.name} must have images; got none")
        return data
    if data.ndim not in (3, 4) or len(data) == 0:
        raise ValueError(f"{name}: images must be [N, C, H, W] with N > 0; got {list(data.shape)}")
    if labels is not None and len(labels) != len(data):
        raise ValueError(f"{name}: one label an image; got {len(labels)} labels for {len(data)} images")
    return TensorDataset("images", data, torch.full((len(data),), -1) if labels is None else labels)
