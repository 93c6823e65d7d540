"""Models that draw the pixels in an order of their own, seen in that order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class InDrawingOrder(nn.Module):
    """A model whose `pixel_order` is not the raster, as one of images whose pixels are laid out in that order.

    Whatever visits the raster of such an image visits the pixels as the model wants them, so that every method of
    sampling serves both. The noise of a draw belongs to its place in the order.
    """

    def __init__(self, model: nn.Module, pixel_order: Tensor) -> None:
        super().__init__()
        self.model = model
        self.likelihood: Any = model.likelihood
        self.image_size: Any = model.image_size
        self.prepare_cond: Any = getattr(model, "prepare_cond", lambda cond, n: cond)
        self.order = pixel_order
        self.place = torch.empty_like(pixel_order).scatter_(
            0, pixel_order, torch.arange(len(pixel_order), device=pixel_order.device)
        )

    def arrange(self, image: Tensor) -> Tensor:
        """An image with its pixels in the order that they are drawn in. Shapes: [N, C, H, W] -> the same."""
        return image.flatten(2)[:, :, self.order.to(image.device)].view(image.shape)

    def restore(self, image: Tensor) -> Tensor:
        """The opposite of `arrange`."""
        return image.flatten(2)[:, :, self.place.to(image.device)].view(image.shape)

    def forward(self, x: Tensor, cond: Any = None) -> Tensor:
        """Parameters at every place of the order. Shapes: [N, C, H, W] -> [N, P, H, W]."""
        x = self.restore(x)
        return self.arrange(self.model(x) if cond is None else self.model(x, cond))


def in_drawing_order(model: nn.Module) -> nn.Module:
    """The model itself, or an `InDrawingOrder` of it where it has a `pixel_order`."""
    order = getattr(model, "pixel_order", None)
    return model if order is None else InDrawingOrder(model, order)
