"""What models over flat vectors share: one fixed image size, and values in the order that they are drawn in."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastgen.likelihoods import Likelihood
from fastgen.models.autoregressive.base import AutoregressiveModel, check_image_options
from fastgen.models.base import check_image_size


class FlatModel(AutoregressiveModel):
    """A model of images as vectors of D = C H W values, all of one size.

    Value d = (row W + column) C + channel, counted from 0, is drawn after all values before it. The papers write
    binary values as x in {0, 1}: the signals -1 and +1 of the two levels become x = (signal + 1) / 2, and the L levels
    of other likelihoods k / (L - 1).
    """

    image_size: tuple[int, int]

    def __init__(self, options: Any, likelihood: Likelihood) -> None:
        super().__init__(options, likelihood)
        self.n_pixels = self.image_size[0] * self.image_size[1]
        self.n_values = self.n_pixels * self.image_channels

    def flatten(self, x: Tensor, cond: Tensor | None) -> Tensor:
        """Check the images and return the papers' x. Shapes: [N, C, H, W] -> [N, D], in [0, 1]."""
        x = self.prepare_image(x)
        self.prepare_cond(cond, x.shape[0])
        check_image_size(type(self).__name__, x, self.image_size)
        return (x.permute(0, 2, 3, 1).flatten(1) + 1) / 2

    def unflatten(self, params: Tensor) -> Tensor:
        """Parameters of every pixel as an image. Shapes: [N, H W P] -> [N, P, H, W]."""
        return params.unflatten(1, (*self.image_size, self.likelihood.n_params)).permute(0, 3, 1, 2)


def check_flat_options(name: str, image_channels: int, image_size: Any) -> tuple[int, int]:
    """Check the options that all flat models share; return image_size as a tuple of two ints.

    Raises:
        ValueError: no channels, or a size that is missing or not two positive integers.
    """
    size = check_image_options(name, image_channels, image_size)
    if size is None:
        raise ValueError(f"{name}: image_size must be (height, width), as every pixel has weights of its own; got None")
    return size
