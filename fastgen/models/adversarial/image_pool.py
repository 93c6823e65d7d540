"""The history of generated images that a discriminator is shown."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class ImagePool:
    """Up to `size` images generated earlier, which new ones are exchanged for with probability 1/2 once it is full.

    Draws are the global generator's of the CPU, whose state checkpoints hold.

    Source: Shrivastava et al., "Learning from Simulated and Unsupervised Images through Adversarial Training", CVPR
        2017, section 2.3; Zhu et al., ICCV 2017, section 4.
    """

    def __init__(self, size: int, image_shape: Sequence[int]) -> None:
        self.shape = (size, *image_shape)
        self._images: Tensor | None = None
        self._held = torch.zeros((), dtype=torch.int64)

    def state(self, like: Tensor) -> dict[str, Tensor]:
        """The images, in dtype and place of `like`, and how many of them are there: tensors that are written in place.

        Shapes: [size, C, H, W] and a scalar.
        """
        if self._images is None:
            self._images = like.new_zeros(self.shape)
        return {"images": self._images, "held": self._held}

    def exchange(self, images: Tensor, like: Tensor) -> Tensor:
        """What a discriminator sees in place of new images, one after another: these, or earlier ones.

        Shapes: [N, C, H, W] -> the same. No gradient flows.
        """
        size = self.shape[0]
        images = images.detach()
        if not size:
            return images
        store = self.state(like)["images"]
        shown = []
        for image in images:
            held = int(self._held)
            if held < size:
                store[held] = image
                self._held += 1
            elif float(torch.rand(())) < 0.5:
                place = int(torch.randint(size, ()))
                image, store[place] = store[place].to(image.dtype, copy=True), image
            shown.append(image)
        return torch.stack(shown)
