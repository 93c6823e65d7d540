"""Small models of every kind, with weights that let every path matter."""

import pytest
import torch

from fastgen.models import MODELS

SMALL = {
    "PixelCNN": {"n_blocks": 2, "n_filters": 6, "head_filters": 9},
    "GatedPixelCNN": {"n_layers": 3, "n_filters": 6, "kernel_size": 3, "head_filters": 6},
    "PixelCNNPP": {"n_resnet": 1, "n_filters": 4, "n_mix": 2, "dropout": 0.0},
    "PixelRNN": {"n_layers": 2, "n_filters": 5, "head_filters": 6},
    "PixelSNAIL": {
        "n_blocks": 1, "n_resnet": 1, "n_filters": 6, "dropout": 0.0, "key_channels": 4, "value_channels": 6,
        "head_filters": 6,
    },
}  # fmt: skip


@pytest.fixture
def build():
    """`build(name, channels, **options)`: a small model in float64, evaluation mode, fixed random weights."""

    def make(name, channels=3, **options):
        torch.manual_seed(0)
        model = MODELS[name](channels, **{**SMALL[name], **options}).double().eval()
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if key.endswith("bias"):
                    parameter.normal_(0.0, 0.3)
                if key.endswith("weight_g"):
                    parameter.uniform_(0.7, 1.5)
        return model

    return make
