"""Autoregressive models of images and signals, one a file."""

from fastgen.models.autoregressive.base import AutoregressiveModel
from fastgen.models.autoregressive.colorization import Colorization, ColorizationConfig
from fastgen.models.autoregressive.conditions import ImageConditions
from fastgen.models.autoregressive.fvsbn import FVSBN, FVSBNConfig
from fastgen.models.autoregressive.gated_pixelcnn import GatedPixelCNN, GatedPixelCNNConfig
from fastgen.models.autoregressive.image_gpt import ImageGPT, ImageGPTConfig
from fastgen.models.autoregressive.made import MADE, MADEConfig
from fastgen.models.autoregressive.multiscale import MultiScalePixelCNN, MultiScalePixelCNNConfig
from fastgen.models.autoregressive.nade import NADE, NADEConfig
from fastgen.models.autoregressive.pixelcnn import PixelCNN, PixelCNNConfig
from fastgen.models.autoregressive.pixelcnnpp import PixelCNNPP, PixelCNNPPConfig
from fastgen.models.autoregressive.pixelrnn import PixelRNN, PixelRNNConfig
from fastgen.models.autoregressive.pixelsnail import PixelSNAIL, PixelSNAILConfig
from fastgen.models.autoregressive.super_resolution import SuperResolution, SuperResolutionConfig
from fastgen.models.autoregressive.wavenet import WaveNet, WaveNetConditions, WaveNetConfig

__all__ = [
    "FVSBN",
    "MADE",
    "NADE",
    "AutoregressiveModel",
    "Colorization",
    "ColorizationConfig",
    "FVSBNConfig",
    "GatedPixelCNN",
    "GatedPixelCNNConfig",
    "ImageConditions",
    "ImageGPT",
    "ImageGPTConfig",
    "MADEConfig",
    "MultiScalePixelCNN",
    "MultiScalePixelCNNConfig",
    "NADEConfig",
    "PixelCNN",
    "PixelCNNConfig",
    "PixelCNNPP",
    "PixelCNNPPConfig",
    "PixelRNN",
    "PixelRNNConfig",
    "PixelSNAIL",
    "PixelSNAILConfig",
    "SuperResolution",
    "SuperResolutionConfig",
    "WaveNet",
    "WaveNetConditions",
    "WaveNetConfig",
]
