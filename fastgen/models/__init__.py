"""Generative models, and `MODELS`, which finds their classes by name."""

from fastgen.models.autoregressive import AutoregressiveModel, GatedPixelCNN, PixelCNN, PixelCNNPP

MODELS: dict[str, type[AutoregressiveModel]] = {
    "PixelCNN": PixelCNN,
    "GatedPixelCNN": GatedPixelCNN,
    "PixelCNNPP": PixelCNNPP,
}
"""Every model that `fastgen.save` and `fastgen.load` know, by the name of its class."""

__all__ = ["MODELS", "AutoregressiveModel", "GatedPixelCNN", "PixelCNN", "PixelCNNPP"]
