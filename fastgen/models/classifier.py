"""A classifier over the encoder of a trained model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastgen.models.base import Model


class Classifier(nn.Module):
    """softmax(W s(f(x)) + b): a linear layer on the standardised features of an encoder.

    The features f are `model.encoder` of images in [-1, 1] where the model has one, else `model.features(x)`.

    Shapes: x [N, C, H, W] levels or float in [-1, 1] -> logits [N, n_classes].

    Attributes:
        model: whose encoder it is; its other weights are not used.
        frozen: whether the encoder stays as it is.

    Raises: ValueError for a model without encoder, or whose encoder needs labels, and for fewer than two classes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Model, n_classes: int, *, frozen: bool = False) -> None:
        super().__init__()
        name = type(model).__name__
        if not isinstance(getattr(model, "encoder", None), nn.Module) and not callable(
            getattr(model, "features", None)
        ):
            raise ValueError(
                f"Classifier: {name} has no encoder to start from; take a model with features(x): an autoencoder, a "
                "variational one or an energy"
            )
        if getattr(model, "encoder", None) is not None and int(getattr(model.encoder, "n_classes", 0)):
            raise ValueError(f"Classifier: the encoder of {name} is told the label; take one that sees images alone")
        if n_classes < 2 or model.image_size is None:
            raise ValueError(
                f"Classifier: it takes two classes or more, and images of one size; got {n_classes} classes and "
                f"image_size={model.image_size}"
            )
        self.model, self.frozen = model.requires_grad_(not frozen), frozen
        like = next(model.parameters())
        blank = like.new_zeros((1, model.image_channels, *model.image_size))
        with torch.no_grad():
            n_features = self.features(blank).shape[1]
        self.register_buffer("mean", like.new_zeros(n_features))
        self.register_buffer("std", like.new_ones(n_features))
        self.head = nn.Linear(n_features, n_classes).to(like)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self.head.out_features

    def features(self, x: Tensor) -> Tensor:
        """Features of the encoder. Shapes: [N, C, H, W] -> [N, F]."""
        encoder: Any = getattr(self.model, "encoder", None)
        found: Tensor = self.model.features(x) if encoder is None else encoder(self.model.prepare_input(x))  # type: ignore[operator]
        return found.flatten(1)

    @torch.no_grad()
    def standardise(self, features: Tensor) -> None:
        """Note mean and standard deviation of features [N, F]; one that never changes is only moved."""
        self.mean.copy_(features.mean(0))
        std = features.std(0, unbiased=False)
        self.std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def classify(self, features: Tensor) -> Tensor:
        """Logits of features. Shapes: [N, F] -> [N, n_classes]."""
        logits: Tensor = self.head((features - self.mean) / self.std)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Logits. Shapes: as the class says."""
        return self.classify(self.features(x))

    def check_labels(self, labels: Tensor) -> Tensor:
        """Return int64 labels [N].

        Raises:
            TypeError: labels that are not integers.
            ValueError: other dimensions, or one out of range.
        """
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"Classifier: labels must be integers; got {labels.dtype}; use labels.long()")
        if labels.dim() != 1:
            raise ValueError(f"Classifier: labels must be [N], one an image; got {list(labels.shape)}")
        if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < self.n_classes):
            bad = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
            raise ValueError(
                f"Classifier: labels must be in 0..{self.n_classes - 1}; got {bad}; leave out unlabelled images (-1), "
                "or build it with more classes"
            )
        return labels.long()
