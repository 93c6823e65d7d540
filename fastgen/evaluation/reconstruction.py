"""How far what a model with codes gives back of an image is from the image."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from fastgen.data import LabelledDataset
from fastgen.data.images import eight_bits
from fastgen.evaluation.each_image import Figures, of_each_image
from fastgen.models import LatentModel


@dataclass(frozen=True)
class ReconstructionError:
    """Mean over images of the squared error a dimension, of signals in [-1, 1].

    Attributes:
        images: how many.
        mse: the mean.
        stderr: its standard error over images; 0 for a single one.
    """

    images: int
    mse: float
    stderr: float

    def __str__(self) -> str:
        """`mse 0.0123 ± 0.0004 (25.1 dB)`, the latter the peak signal-to-noise ratio of the mean."""
        ratio = 10 * math.log10(4 / self.mse) if self.mse else math.inf
        return f"mse {self.mse:.4f} ± {self.stderr:.4f} ({ratio:.1f} dB)"

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return asdict(self)


def reconstruction_error(
    model: LatentModel, data: LabelledDataset, *, batch_size: int = 64, distributed: bool = False
) -> ReconstructionError:
    """mean |x - E p(x | code of x)|^2 / D, in 8-bit levels brought to [-1, 1].

    The code is the mean of the posterior where a model has one. Every image counts once whatever the batch size.
    The global random generators are left as they were. With `distributed` the batches are shared as in `evaluate`.

    Raises:
        TypeError: a model without codes.
        ValueError: an empty set, or images that are not the model's.
    """
    if not isinstance(model, LatentModel):
        raise TypeError(
            f"reconstruction_error: model must have codes; got {type(model).__name__}; take an autoencoder's run"
        )
    if not len(data):
        raise ValueError(f"reconstruction_error: {data.name} must have images; got none")

    def measure(x: Tensor, labels: Tensor) -> Figures:
        cond = model.condition_of(x, labels if model.n_classes else None)
        back = model.reconstruct(x, cond, expected=True)
        difference = (eight_bits(x, model.levels).double() - back.double()) * (2 / 255)
        return {"error": difference.square().flatten(1).mean(1)}

    found = of_each_image(model, data, batch_size, measure, distributed=distributed)["error"].cpu()
    stderr = float(found.std() / math.sqrt(len(found))) if len(found) > 1 else 0.0
    return ReconstructionError(len(found), float(found.mean()), stderr)
