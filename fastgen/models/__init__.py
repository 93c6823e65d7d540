"""Generative models, and `MODELS`, which finds their classes by name."""

from fastgen.models.autoregressive import (
    FVSBN,
    MADE,
    NADE,
    AutoregressiveModel,
    Colorization,
    GatedPixelCNN,
    ImageGPT,
    MultiScalePixelCNN,
    PixelCNN,
    PixelCNNPP,
    PixelRNN,
    PixelSNAIL,
    SuperResolution,
    WaveNet,
)
from fastgen.models.base import Model, Phase

MODELS: dict[str, type[Model]] = {
    "FVSBN": FVSBN,
    "NADE": NADE,
    "MADE": MADE,
    "PixelRNN": PixelRNN,
    "PixelCNN": PixelCNN,
    "GatedPixelCNN": GatedPixelCNN,
    "PixelCNNPP": PixelCNNPP,
    "MultiScalePixelCNN": MultiScalePixelCNN,
    "Colorization": Colorization,
    "SuperResolution": SuperResolution,
    "PixelSNAIL": PixelSNAIL,
    "ImageGPT": ImageGPT,
    "WaveNet": WaveNet,
}
"""Every model that `fastgen.save` and `fastgen.load` know, by the name of its class."""

__all__ = [
    "FVSBN",
    "MADE",
    "MODELS",
    "NADE",
    "AutoregressiveModel",
    "Colorization",
    "GatedPixelCNN",
    "ImageGPT",
    "Model",
    "MultiScalePixelCNN",
    "Phase",
    "PixelCNN",
    "PixelCNNPP",
    "PixelRNN",
    "PixelSNAIL",
    "SuperResolution",
    "WaveNet",
]
