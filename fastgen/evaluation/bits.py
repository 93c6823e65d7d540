"""Likelihood of held-out images, or signals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.data import LabelledDataset, sweep
from fastgen.data.dataset import TensorDataset


@dataclass(frozen=True)
class HeldOut:
    """Mean likelihood of `images` images (or signals) of `dims` dimensions each.

    Attributes:
        images: how many images were evaluated, each once.
        dims: C * H * W, of signals C * T.
        nats: mean of -log p(image), in nats per image.
        bits_per_dim: nats / (dims * log 2).
        stderr: standard error of bits_per_dim over the images (0 for a single image).
    """

    images: int
    dims: int
    nats: float
    bits_per_dim: float
    stderr: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for a log."""
        return asdict(self)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; the mode of before, of every submodule, afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def evaluate_bits(
    model: nn.Module, data: Tensor | LabelledDataset, labels: Tensor | None = None, *, batch_size: int = 64
) -> HeldOut:
    """bits/dim = -1 / (N D log 2) * sum_n log p(x_n), every image counted once whatever the batch size.

    Shapes: data [N, C, H, W] (signals [N, C, T]) of levels with labels [N] for a class-conditional model, or a data
        set, which has both and may be too large for memory.
    Dtypes: the model's, accumulated over images in float64. The global random generators are not touched.
    Gradient order: none.

    Raises:
        ValueError: no images, missing labels, or a log-likelihood that is not finite.
    """
    dataset = _as_dataset(data, labels)
    conditional = bool(getattr(model, "n_classes", 0))
    if conditional and dataset.n_classes == 0 and labels is None:
        raise ValueError(f"evaluate_bits: a class-conditional model needs labels; {dataset.name} has none; pass labels")
    device = next(model.parameters()).device
    condition_of: Any = getattr(model, "condition_of", lambda x, labels: labels)
    parts = []
    with torch.inference_mode(), evaluating(model):
        for x, y in sweep(dataset, batch_size):
            x, labels = x.to(device), y.to(device) if conditional else None
            parts.append(-model.log_prob(x, condition_of(x, labels)).double())  # type: ignore[operator]
    nats = torch.cat(parts)
    if not torch.isfinite(nats).all():
        bad = int((~torch.isfinite(nats)).nonzero()[0])
        raise ValueError(
            f"evaluate_bits: log-likelihoods must be finite; got {-float(nats[bad])} for image {bad}; "
            f"the weights have diverged"
        )
    n, dims = len(nats), math.prod(dataset.shape)
    bits = nats / (dims * math.log(2))
    return HeldOut(
        images=n,
        dims=dims,
        nats=float(nats.mean()),
        bits_per_dim=float(bits.mean()),
        stderr=float(bits.std() / math.sqrt(n)) if n > 1 else 0.0,
    )


def _as_dataset(data: Tensor | LabelledDataset, labels: Tensor | None) -> LabelledDataset:
    if not isinstance(data, Tensor):
        if len(data) == 0:
            raise ValueError(f"evaluate_bits: {data.name} must have images; got none")
        return data
    if data.ndim not in (3, 4) or len(data) == 0:
        raise ValueError(f"evaluate_bits: images must be [N, C, H, W] with N > 0; got {list(data.shape)}")
    if labels is not None and len(labels) != len(data):
        raise ValueError(f"evaluate_bits: one label an image; got {len(labels)} labels for {len(data)} images")
    return TensorDataset("images", data, torch.full((len(data),), -1) if labels is None else labels)
