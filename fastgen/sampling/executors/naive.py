"""One full forward per pixel: the ground truth, and the way out for models the engine cannot trace."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastgen.sampling.trace import evaluating


class NaiveExecutor:
    """Runs the whole network on the whole image for every pixel and sub-step.

    Shapes: an image is [n, channels, height, width], a sequence [n, channels, length]; zero where nothing is drawn yet.
    """

    is_sequence = False

    def __init__(self, model: nn.Module, image: Tensor, cond: Any, substeps: int) -> None:
        self.model, self.cond, self.substeps = model, cond, substeps
        self.image = torch.zeros_like(image)
        self.n_images = len(image)
        self.image_shape = (image.shape[1], 1 if image.dim() == 3 else image.shape[2], image.shape[-1])
        self.row = 0

    def start(self) -> None:
        """Clear the image."""
        self.image.zero_()

    def begin_row(self, row: int) -> None:
        """Remember the row."""
        self.row = row

    def parameters(self, column: int, substep: int) -> Tensor:
        """Parameters [N, P] of the pixel, from a full forward."""
        with evaluating(self.model):
            out = self.model(self.image) if self.cond is None else self.model(self.image, self.cond)
        return out[:, :, self.row, column] if out.dim() == 4 else out[:, :, column]

    def write(self, column: int, substep: int, x: Tensor) -> None:
        """Put the drawn channels into the image."""
        target = self.image[:, :, self.row, column] if self.image.dim() == 4 else self.image[:, :, column]
        if self.substeps > 1:
            target = target[:, substep : substep + 1]
        target.copy_(x)

    def end_row(self) -> None:
        """Nothing waits for the end of a row."""
