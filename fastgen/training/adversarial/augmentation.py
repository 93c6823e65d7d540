"""Differentiable augmentation of what a discriminator sees, and the control of its probability.

Zhao, Liu, Lin, Zhu, Han 2020, Differentiable Augmentation for Data-Efficient GAN Training,
https://arxiv.org/abs/2006.10738: real and generated images go through the same random transformations, in the
discriminator's and the generator's turn, and the gradient goes through them.

Karras, Aittala, Hellsten, Laine, Lehtinen, Aila 2020, Training Generative Adversarial Networks with Limited Data,
https://arxiv.org/abs/2006.06676, section 3: each image is transformed with a probability below 1, so that the
transformations do not leak into what is generated, and the probability follows how far the discriminator overfits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen._names import unknown_name

SHIFT = 1 / 8  # of a side, at most, by a translation
HOLE = 1 / 2  # of a side, that is cut out


def color(x: Tensor) -> Tensor:
    """Brightness + U(-0.5, 0.5), saturation times U(0, 2) and contrast times U(0.5, 1.5), of each image its own."""
    x = x + (_uniform(x) - 0.5)
    gray = x.mean(1, keepdim=True)
    x = gray + (x - gray) * (2 * _uniform(x))
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (0.5 + _uniform(x))


def translation(x: Tensor) -> Tensor:
    """Moved by up to an eighth of the sides; what comes in is 0, the middle of [-1, 1]."""
    n, _, height, width = x.shape
    far = (round(height * SHIFT), round(width * SHIFT))
    padded = F.pad(x, (far[1], far[1], far[0], far[0]))
    rows = _integers(x, 2 * far[0] + 1)[:, None] + torch.arange(height, device=x.device)  # [N, H]
    columns = _integers(x, 2 * far[1] + 1)[:, None] + torch.arange(width, device=x.device)
    batch = torch.arange(n, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutout(x: Tensor) -> Tensor:
    """A rectangle of half the sides, centred anywhere, is 0."""
    height, width = x.shape[2:]
    hole = (round(height * HOLE), round(width * HOLE))
    rows = torch.arange(height, device=x.device) - _integers(x, height + 1 - hole[0] % 2)[:, None] + hole[0] // 2
    columns = torch.arange(width, device=x.device) - _integers(x, width + 1 - hole[1] % 2)[:, None] + hole[1] // 2
    inside = ((rows >= 0) & (rows < hole[0]))[:, :, None] & ((columns >= 0) & (columns < hole[1]))[:, None, :]
    return x.masked_fill(inside[:, None], 0.0)


AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "color": color,
    "translation": translation,
    "cutout": cutout,
}


def check_augmentations(names: Sequence[str] | str) -> tuple[str, ...]:
    """Names of augmentations, of a list or of "color,translation", in the order in which they are applied.

    Raises:
        ValueError: an unknown one; the nearest are named.
    """
    names = tuple(part.strip() for part in names.split(",") if part.strip()) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in AUGMENTATIONS:
            raise unknown_name("augmentation", str(name), AUGMENTATIONS)
    return names


def augment(x: Tensor, names: Sequence[str], p: Tensor | float = 1.0) -> Tensor:
    """Each image through each of the augmentations with probability p, by the global generator.

    Shapes: x [N, C, H, W] in [-1, 1] -> the same. Gradient order: any; linear or affine in x.
    """
    for name in names:
        moved = AUGMENTATIONS[name](x)
        x = moved if isinstance(p, float) and p >= 1 else torch.where(_uniform(x) < p, moved, x)
    return x


def controlled_probability(p: Tensor, sign: Tensor, target: float, change: float) -> Tensor:
    """p + change where E sign D(real) is above `target`, the mark of overfitting; p - change below; kept in [0, 1].

    Shapes: scalars. Source: Karras et al. 2020, section 3.1.
    """
    return (p + change * torch.sign(sign - target)).clamp(0, 1)


def _uniform(x: Tensor) -> Tensor:
    return torch.rand((len(x), 1, 1, 1), dtype=x.dtype, device=x.device)


def _integers(x: Tensor, high: int) -> Tensor:
    return torch.randint(high, (len(x),), device=x.device)
