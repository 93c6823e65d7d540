"""Recipes of the autoregressive models."""

from __future__ import annotations

import dataclasses

from fastgen.training.recipes.recipe import Recipe

_DEMO = Recipe(
    name="mnist5k-demo",
    summary="PixelCNN++ of MNIST digits by class that two CPU cores train in three minutes",
    data="mnist5k",
    model="PixelCNNPP",
    config={
        "n_resnet": 1,
        "down_resnets": 1,
        "n_filters": [24, 32, 48],
        "n_mix": 10,
        "dropout": 0.0,
        "stem": [[4, 7], [1, 7], [4, 6]],
        "stem_classes": True,
    },
    conditional=True,
    batch_size=16,
    seconds=190.0,
    lr=6e-3,
    betas=(0.9, 0.99),
    warmup_steps=50,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.99,
)

_MNIST5K = Recipe(
    name="pixelcnnpp-mnist5k",
    summary="PixelCNN++ of MNIST digits by class, larger and longer than the demo, with dropout",
    data="mnist5k",
    model="PixelCNNPP",
    config={"n_resnet": 2, "n_filters": 64, "n_mix": 10, "dropout": 0.2},
    conditional=True,
    batch_size=32,
    steps=20_000,
    lr=2e-3,
    betas=(0.9, 0.99),
    warmup_steps=200,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.999,
    eval_interval=1000,
)

_PIXELCNNPP = dataclasses.replace(
    _DEMO,
    name="pixelcnnpp",
    summary="PixelCNN++ of MNIST digits by class, the demo's model with a budget of steps",
    seconds=None,
    steps=900,
)

_PIXELCNN = Recipe(
    name="pixelcnn",
    summary="PixelCNN of binarised MNIST digits",
    data="mnist5k",
    levels=2,
    model="PixelCNN",
    config={
        "n_blocks": 7,
        "n_filters": 32,
        "head_filters": 64,
        "likelihood": {"name": "Bernoulli", "channels": 1},
    },
    clip_norm=1.0,
    batch_size=16,
    steps=900,
    lr=4e-3,
    betas=(0.9, 0.99),
    warmup_steps=50,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.99,
)

_GATED = dataclasses.replace(
    _PIXELCNN,
    name="gated_pixelcnn",
    summary="Gated PixelCNN of MNIST digits by class, 256-way softmax",
    levels=256,
    model="GatedPixelCNN",
    config={"n_layers": 6, "n_filters": 32, "kernel_size": 3, "dilations": [1, 1, 2, 4, 1, 2]},
    conditional=True,
)

_DIGITS = Recipe(
    name="pixelcnnpp-digits",
    summary="a tiny PixelCNN++ of scikit-learn's 8x8 digits: seconds, to try things out",
    data="digits",
    model="PixelCNNPP",
    config={"n_resnet": 1, "down_resnets": 1, "n_filters": [8, 12, 16], "n_mix": 4, "dropout": 0.0},
    conditional=True,
    batch_size=16,
    steps=300,
    lr=6e-3,
    betas=(0.9, 0.99),
    warmup_steps=20,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.99,
    checkpoint_interval=100,
)

_PHOTOS = Recipe(
    name="pixelcnnpp-photos",
    summary="PixelCNN++ of 32x32 crops of two photographs: a colour run without a download",
    data="photos",
    size=32,
    model="PixelCNNPP",
    config={"n_resnet": 2, "n_filters": 64, "n_mix": 10, "dropout": 0.2},
    batch_size=16,
    steps=10_000,
    lr=2e-3,
    betas=(0.9, 0.99),
    warmup_steps=200,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.999,
    eval_interval=1000,
)

_PHOTOS_SMALL = dataclasses.replace(
    _DEMO,
    name="pixelcnnpp-photos-small",
    summary="PixelCNN++ of 32x32 crops of two photographs, of the demo's size",
    data="photos",
    size=32,
    config={**_DEMO.config, "n_mix": 5, "stem_classes": False},
    conditional=False,
    seconds=None,
    steps=900,
    clip_norm=1.0,
)

_WAVENET = Recipe(
    name="wavenet",
    summary="WaveNet of synthetic notes by timbre at 8 kHz, 256-way softmax",
    data="tones",
    size=2048,
    model="WaveNet",
    config={
        "n_blocks": 2,
        "n_filters": 32,
        "dilations": [1, 2, 4, 8, 16, 32, 64, 128, 256],
        "skip_filters": 64,
        "head_filters": 64,
        "sample_rate": 8000,
    },
    conditional=True,
    batch_size=4,
    steps=600,
    lr=3e-3,
    betas=(0.9, 0.99),
    warmup_steps=50,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.99,
    clip_norm=1.0,
)

_MULTISCALE = Recipe(
    name="multiscale",
    summary="multi-scale PixelCNN of binarised MNIST digits, 7x7 to 14x14 to 28x28",
    data="mnist5k",
    levels=2,
    model="MultiScalePixelCNN",
    config={
        "factors": [2, 2],
        "n_layers": [4, 4, 3],
        "n_filters": [24, 24, 16],
        "kernel_size": 3,
        "first_kernel_size": 5,
        "head_filters": 32,
        "cond_filters": 24,
        "likelihood": {"name": "Bernoulli", "channels": 1},
    },
    batch_size=16,
    steps=300,
    lr=1e-2,
    betas=(0.9, 0.99),
    warmup_steps=20,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.99,
    clip_norm=1.0,
)

_COLORIZATION = dataclasses.replace(
    _MULTISCALE,
    name="colorization",
    summary="Gated PixelCNN that colours gray 32x32 crops of photographs",
    data="photos",
    levels=256,
    size=32,
    model="Colorization",
    config={
        "n_layers": 5,
        "n_filters": 24,
        "kernel_size": 3,
        "first_kernel_size": 5,
        "head_filters": 48,
        "cond_layers": 3,
        "likelihood": {"name": "DiscretizedLogisticMixture", "channels": 3, "n_mix": 5},
    },
    batch_size=8,
    steps=1_500,
    lr=5e-3,
)

_SUPER_RESOLUTION = dataclasses.replace(
    _COLORIZATION,
    name="super_resolution",
    summary="Gated PixelCNN that enlarges photographs from 16x16 to 32x32",
    model="SuperResolution",
    config={**_COLORIZATION.config, "cond_scale": 2},
)

_FVSBN = Recipe(
    name="fvsbn",
    summary="FVSBN of binarised MNIST digits",
    data="mnist5k",
    levels=2,
    model="FVSBN",
    batch_size=50,
    steps=2_000,
    lr=3e-3,
    warmup_steps=20,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.995,
    log_interval=50,
)

_NADE = dataclasses.replace(
    _FVSBN,
    name="nade",
    summary="NADE of binarised MNIST digits, 500 hidden units",
    model="NADE",
    config={"n_hidden": 500},
    batch_size=20,
    steps=700,
    lr=3e-3,
    log_interval=20,
)

_MADE = dataclasses.replace(
    _FVSBN,
    name="made",
    summary="MADE of binarised MNIST digits, 500 hidden units and direct connections",
    model="MADE",
    config={"hidden": [500], "direct": True},
    steps=1_500,
)

_ROW_LSTM = Recipe(
    name="row_lstm",
    summary="PixelRNN with Row LSTM of binarised MNIST digits",
    data="mnist5k",
    levels=2,
    model="PixelRNN",
    config={
        "layer": "row_lstm",
        "n_layers": 3,
        "n_filters": 16,
        "head_filters": 32,
        "likelihood": {"name": "Bernoulli", "channels": 1},
    },
    batch_size=16,
    steps=500,
    lr=4e-3,
    betas=(0.9, 0.99),
    warmup_steps=30,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.99,
    clip_norm=1.0,
)

_DIAGONAL_BILSTM = dataclasses.replace(
    _ROW_LSTM,
    name="diagonal_bilstm",
    summary="PixelRNN with Diagonal BiLSTM of binarised MNIST digits",
    config={**_ROW_LSTM.config, "layer": "diagonal_bilstm", "n_layers": 2},
    steps=400,
)

_PIXELSNAIL = dataclasses.replace(
    _ROW_LSTM,
    name="pixelsnail",
    summary="PixelSNAIL of MNIST digits at 14x14 by class, mixture of logistics",
    size=14,
    levels=256,
    model="PixelSNAIL",
    config={"n_blocks": 2, "n_resnet": 2, "n_filters": 24, "value_channels": 24, "dropout": 0.0},
    conditional=True,
    steps=1_200,
)

_IMAGE_GPT = dataclasses.replace(
    _ROW_LSTM,
    name="image_gpt",
    summary="Image GPT of MNIST digits at 14x14 in 16 levels",
    size=14,
    levels=16,
    model="ImageGPT",
    config={
        "n_layers": 4,
        "n_features": 64,
        "n_heads": 4,
        "likelihood": {"name": "Categorical", "channels": 1, "levels": 16},
    },
    steps=1_400,
)

RECIPES: tuple[Recipe, ...] = (
    _DEMO, _FVSBN, _NADE, _MADE, _ROW_LSTM, _DIAGONAL_BILSTM, _PIXELCNN, _GATED, _PIXELCNNPP, _MULTISCALE,
    _COLORIZATION, _SUPER_RESOLUTION, _PIXELSNAIL, _IMAGE_GPT, _WAVENET, _PHOTOS_SMALL, _DIGITS, _MNIST5K, _PHOTOS,
)  # fmt: skip
