"""Autoregressive image models, one a file."""

from fastgen.models.autoregressive.base import AutoregressiveModel
from fastgen.models.autoregressive.gated_pixelcnn import GatedPixelCNN, GatedPixelCNNConfig
from fastgen.models.autoregressive.pixelcnn import PixelCNN, PixelCNNConfig
from fastgen.models.autoregressive.pixelcnnpp import PixelCNNPP, PixelCNNPPConfig

__all__ = [
    "AutoregressiveModel",
    "GatedPixelCNN",
    "GatedPixelCNNConfig",
    "PixelCNN",
    "PixelCNNConfig",
    "PixelCNNPP",
    "PixelCNNPPConfig",
]
