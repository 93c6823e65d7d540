"""What images are conditioned on besides the pixels before: labels, a vector, a map of places.

van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu 2016, Conditional Image Generation with PixelCNN
Decoders, https://arxiv.org/abs/1606.05328, section 2.3: equation 4 (location-independent) and 5 (location-dependent).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class ImageConditions:
    """What N images are conditioned on, checked.

    Attributes:
        labels: [N] int64, or None.
        vector: h of equation 4, [N, D], or None.
        map: what the map s of equation 5 is computed from, [N, D, H', W'], or None.
    """

    labels: Tensor | None = None
    vector: Tensor | None = None
    map: Tensor | None = None

    def __getitem__(self, part: slice) -> ImageConditions:
        """Take some of the images."""
        return ImageConditions(*(None if t is None else t[part] for t in (self.labels, self.vector, self.map)))


def named_conditions(name: str, cond: Any, kinds: Sequence[str]) -> dict[str, Any]:
    """`cond` as a mapping of exactly `kinds`; the bare value will do where there is only one of them.

    Raises:
        ValueError: something missing or superfluous, for the model `name`.
    """
    wanted = " and ".join(kinds)
    if cond is not None and not isinstance(cond, Mapping):
        if len(kinds) != 1:
            raise ValueError(f"{name}: cond must be a mapping of {wanted}; got {type(cond).__name__}; name its parts")
        return {kinds[0]: cond}
    given = {} if cond is None else {kind: value for kind, value in cond.items() if value is not None}
    if set(given) != set(kinds):
        raise ValueError(
            f"{name}: cond must hold {wanted}, as the model was built; got {' and '.join(map(str, given)) or 'nothing'}"
        )
    return given


def float_condition(name: str, kind: str, value: Any, shape: tuple[int | str, ...], like: Tensor) -> Tensor:
    """A condition of `shape` (a word is any length) in the dtype of `like`; one for all lacks the first dimension.

    Raises:
        TypeError: not floating point.
        ValueError: another shape.
    """
    tensor = torch.as_tensor(value)
    if not tensor.is_floating_point():
        raise TypeError(f"{name}: cond {kind} must be floating point; got {tensor.dtype}; use .float()")
    sizes = tuple(tensor.shape) if tensor.dim() == len(shape) else (shape[0], *tensor.shape)
    if len(sizes) != len(shape) or any(isinstance(b, int) and a != b for a, b in zip(sizes, shape)):
        layout = ", ".join(map(str, shape))
        raise ValueError(
            f"{name}: cond {kind} must be [{layout}], or the same for all without its first dimension; got "
            f"{list(tensor.shape)}"
        )
    return tensor.to(like).expand(sizes)


class ConditionMap(nn.Module):
    """s = m(map): 3x3 convolutions over the whole map, then, where it is smaller than the image, a deconvolution.

    A pixel of s sees the map on all sides, later places included: it is known before the first pixel is drawn.

    Shapes: [N, D, H', W'] -> [N, F, scale H', scale W'].
    Dtypes: those of the weights.
    """

    def __init__(self, channels: int, filters: int, n_layers: int, scale: int) -> None:
        super().__init__()
        size = 3 if n_layers else 1
        self.conv_in = nn.Conv2d(channels, filters, size, padding=size // 2)
        self.layers = nn.ModuleList(nn.Conv2d(filters, filters, 3, padding=1) for _ in range(n_layers - 1))
        # twice as wide as its step, so that neighbours overlap; padded for exactly `scale` pixels each
        self.enlarge = (
            nn.ConvTranspose2d(filters, filters, 2 * scale, scale, (scale + 1) // 2, output_padding=scale % 2)
            if scale > 1
            else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with a map of the scale of the input: He initialisation, the inputs counted that an output sums."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name == "enlarge.weight":  # a pixel lies under four of the overlapping windows
                nn.init.normal_(parameter, 0.0, (2 / (4 * parameter.shape[0])) ** 0.5)
            else:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Compute s."""
        s = self.conv_in(x)
        for layer in self.layers:
            s = s + layer(F.relu(s))
        if self.enlarge is not None:
            s = self.enlarge(F.relu(s))
        return F.relu(s)
