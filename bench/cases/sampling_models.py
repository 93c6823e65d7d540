"""Sampling a batch of digits with every autoregressive model of images, against one plain forward of that batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.case import Builder, Case, Run

FORWARD = "one full forward"
BATCH, SHAPE = 16, (1, 28, 28)

# name -> (class, options): about the sizes that papers and their followers train on MNIST, all with 256 levels
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "pixelcnn": ("PixelCNN", {"n_blocks": 7, "n_filters": 32, "head_filters": 128}),
    "gated-pixelcnn": ("GatedPixelCNN", {"n_layers": 7, "n_filters": 32, "kernel_size": 3}),
    "row-lstm": ("PixelRNN", {"n_layers": 7, "n_filters": 16, "layer": "row_lstm", "head_filters": 32}),
    "diagonal-bilstm": ("PixelRNN", {"n_layers": 7, "n_filters": 16, "layer": "diagonal_bilstm", "head_filters": 32}),
    "pixelsnail": ("PixelSNAIL", {"n_blocks": 2, "n_resnet": 2, "n_filters": 32, "value_channels": 32}),
    "image-gpt": ("ImageGPT", {"n_layers": 4, "n_features": 64, "n_heads": 4, "image_size": SHAPE[1:]}),
}


def cases() -> list[Case]:
    """The ratio of the two times is S: a sampler that repeats no work has one near 1, the naive one has 784."""
    return [_case(name) for name in MODELS]


def _case(name: str) -> Case:
    class_name, options = MODELS[name]

    def model(device: str) -> torch.nn.Module:
        from fastgen import models

        torch.manual_seed(0)
        return models.MODELS[class_name](SHAPE[0], **options).eval().to(device)

    return Case(
        name=f"sampling/{name}/{BATCH}x{'x'.join(map(str, SHAPE))}",
        variants={
            FORWARD: _forward(model),
            "sample, PyTorch calls": _prepared(model, "cached"),
            "sample": _prepared(model, "auto"),
        },
        baseline=FORWARD,
        title=(
            f"{class_name} ({_text(options)}), sampling {BATCH} whole images 28x28x1; "
            "naive sampling is 784 full forwards"
        ),
        unit="s",
    )


def _forward(model: Callable[[str], torch.nn.Module]) -> Builder:
    def build(device: str) -> Run:
        network = model(device)
        x = torch.rand(BATCH, *SHAPE, generator=torch.Generator().manual_seed(0)).mul(2).sub(1).to(device)

        def run() -> Tensor:
            with torch.inference_mode():
                return network(x)

        return run

    return build


def _prepared(model: Callable[[str], torch.nn.Module], method: str) -> Builder:
    def build(device: str) -> Run:
        from fastgen.sampling import prepare, sample

        network = model(device)
        executor = prepare(network, BATCH, shape=SHAPE, method=method)
        return lambda: sample(network, BATCH, prepared=executor)

    return build


def _text(options: dict[str, Any]) -> str:
    """The options as words, without those that the title says anyway."""
    shown = {key: value for key, value in options.items() if key != "image_size"}
    return ", ".join(
        str(v) if k == "layer" else f"{k.removeprefix('n_').replace('_', ' ')} {v}" for k, v in shown.items()
    )
