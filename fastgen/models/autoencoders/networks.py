"""Encoders and decoders of latent models: dense ones, and convolutions with upsampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen._names import unknown_name
from fastgen.likelihoods import Categorical, DiscretizedLogisticMixture, Likelihood
from fastgen.models.autoencoders.base import likelihood_head

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
}


def activation(name: str) -> nn.Module:
    """The activation of that name.

    Raises:
        ValueError: nobody knows it.
    """
    if name not in ACTIVATIONS:
        raise unknown_name("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()


class DenseEncoder(nn.Module):
    """Flatten, and dense layers with their activations; without layers the flat image itself.

    Labels come as one-hot vectors beside the image.

    Shapes: x [N, C, H, W] in [-1, 1], labels [N] where there are classes -> [N, n_features].
    """

    def __init__(self, n_inputs: int, hidden: Sequence[int], kind: str, n_classes: int = 0) -> None:
        super().__init__()
        widths = (n_inputs + n_classes, *hidden)
        self.layers = _dense(widths, kind)
        self.n_features, self.n_classes = widths[-1], n_classes

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Features of images. Shapes: as the class says."""
        h: Tensor = self.layers(with_labels(x.flatten(1), labels, self.n_classes))
        return h


class DenseDecoder(nn.Module):
    """Dense layers from a code to what the head reads at every pixel; labels come beside the code.

    Shapes: z [N, D], labels [N] where there are classes -> [N, n_features, H, W].
    """

    def __init__(
        self,
        n_latents: int,
        hidden: Sequence[int],
        kind: str,
        n_features: int,
        image_size: tuple[int, int],
        n_classes: int = 0,
    ) -> None:
        super().__init__()
        widths = (n_latents + n_classes, *hidden)
        self.layers = _dense(widths, kind)
        self.out = nn.Linear(widths[-1], n_features * math.prod(image_size))
        self.shape, self.n_classes = (n_features, *image_size), n_classes

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Features of every pixel. Shapes: as the class says."""
        h: Tensor = self.out(self.layers(with_labels(z, labels, self.n_classes)))
        return h.unflatten(1, self.shape)


class ConvEncoder(nn.Module):
    """3x3 convolutions that halve the image, one for each number of filters, and a dense layer.

    Shapes: x [N, C, H, W] in [-1, 1] -> [N, n_features].
    """

    def __init__(
        self, channels: int, image_size: tuple[int, int], n_filters: Sequence[int], hidden: int, kind: str
    ) -> None:
        super().__init__()
        stages = [
            part for a, b in pairwise((channels, *n_filters)) for part in (nn.Conv2d(a, b, 3, 2, 1), activation(kind))
        ]
        self.stages = nn.Sequential(*stages)
        n_inputs = n_filters[-1] * math.prod(halved(image_size, len(n_filters))[-1])
        self.dense = nn.Sequential(nn.Flatten(), nn.Linear(n_inputs, hidden), activation(kind))
        self.n_features = hidden
        keep_variance(self)

    def forward(self, x: Tensor) -> Tensor:
        """Features of images. Shapes: as the class says."""
        h: Tensor = self.dense(self.stages(x))
        return h


class ConvDecoder(nn.Module):
    """Dense layers to the coarsest map, then 3x3 convolutions, each after doubling the map to the size before it.

    Nearest-neighbour upsampling and a convolution reach every size and leave no checkerboard (Odena et al. 2016).

    Shapes: z [N, D] -> [N, n_filters[0], H, W].
    """

    def __init__(
        self, n_latents: int, image_size: tuple[int, int], n_filters: Sequence[int], hidden: int, kind: str
    ) -> None:
        super().__init__()
        self.sizes = halved(image_size, len(n_filters))[::-1]
        self.coarsest = (n_filters[-1], *self.sizes[0])
        self.dense = nn.Sequential(
            nn.Linear(n_latents, hidden),
            activation(kind),
            nn.Linear(hidden, math.prod(self.coarsest)),
            activation(kind),
        )
        filters = (*n_filters[::-1], n_filters[0])
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), activation(kind)) for a, b in pairwise(filters)
        )
        keep_variance(self)

    def forward(self, z: Tensor) -> Tensor:
        """Features of every pixel. Shapes: as the class says."""
        h: Tensor = self.dense(z).unflatten(1, self.coarsest)
        for stage, size in zip(self.stages, self.sizes[1:]):
            h = stage(F.interpolate(h, size=size))
        return h


def keep_variance(module: nn.Module) -> None:
    """Draw weights of variance 2 / fan-in, biases 0 (He et al. 2015).

    PyTorch's own start has a sixth of that: a code would hardly be heard behind ten layers, nor the image before it.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def dense_head(likelihood: Likelihood, head_filters: int) -> tuple[nn.Module, int]:
    """The head of a dense decoder and the features of a pixel that it reads.

    The parameters themselves, where there are few; where there are many, `head_filters` features and a fused 1x1 head:
    a dense layer to hundreds of parameters a pixel would hold almost all weights of the model.
    """
    if isinstance(likelihood, (DiscretizedLogisticMixture, Categorical)):
        return likelihood_head(likelihood, head_filters), head_filters
    return nn.Identity(), likelihood.n_params


def halved(size: tuple[int, int], times: int) -> list[tuple[int, int]]:
    """Sizes of a map before and after each of so many convolutions of stride 2."""
    sizes = [size]
    for _ in range(times):
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
    return sizes


def with_labels(h: Tensor, labels: Tensor | None, n_classes: int) -> Tensor:
    """Vectors with one-hot labels behind them. Shapes: [N, D], labels [N] -> [N, D + n_classes]."""
    if labels is None:
        return h
    return torch.cat([h, F.one_hot(labels, n_classes).to(h.dtype)], 1)


def check_widths(name: str, **widths: Sequence[int]) -> None:
    """Check that every width named is at least 1.

    Raises:
        ValueError: one is not.
    """
    for key, values in widths.items():
        if any(width < 1 for width in values):
            raise ValueError(f"{name}: {key} must be at least 1 each; got {tuple(values)}")


def _dense(widths: Sequence[int], kind: str) -> nn.Sequential:
    activation(kind)  # an unknown one is refused even where there is no layer
    return nn.Sequential(*(part for a, b in pairwise(widths) for part in (nn.Linear(a, b), activation(kind))))
