"""Sampling on a GPU: PyTorch calls, captured launches, one persistent launch, against one full forward of the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.case import Builder, Case, Run

FORWARD = "one full forward"
COMPILED = "one full forward, compiled"
TAG = "sampling-gpu"
METHODS = {"cached": "cached, PyTorch calls", "cuda_graph": "captured launches", "megakernel": "persistent launch"}
HALF = "captured launches, bfloat16 weights"


@dataclass(frozen=True)
class Model:
    """A network in a size that people train, and the batches that it is measured at."""

    class_name: str
    options: dict[str, Any] = field(hash=False)
    shape: tuple[int, ...]
    batches: tuple[int, ...]
    title: str

    def build(self, device: str) -> torch.nn.Module:
        """The network with random weights."""
        from fastgen import models
        from fastgen.likelihoods import Categorical

        torch.manual_seed(0)
        options = dict(self.options)
        if "levels" in options:
            options["likelihood"] = Categorical(1, options.pop("levels"))
        return models.MODELS[self.class_name](self.shape[0], **options).eval().to(device)

    def name(self, key: str, batch: int) -> str:
        """Of the case of a batch."""
        return f"sampling-launches/{key}/{batch}x{'x'.join(map(str, self.shape))}"


BATCHES = (1, 4, 16, 64, 128, 256)
MODELS = {
    "pixelcnnpp-5x160": Model(
        "PixelCNNPP", {"n_resnet": 5, "n_filters": 160, "n_mix": 10}, (3, 32, 32), BATCHES,
        "PixelCNN++ (5 resnets, 160 filters), 32x32x3",
    ),
    "gated-pixelcnn": Model(
        "GatedPixelCNN", {"n_layers": 7, "n_filters": 32, "kernel_size": 3, "levels": 256}, (1, 28, 28), (16, 256),
        "Gated PixelCNN (7 layers, 32 filters), 28x28x1",
    ),
    "vq-prior": Model(
        "GatedPixelCNN", {"n_layers": 15, "n_filters": 128, "kernel_size": 5, "levels": 256}, (1, 32, 32), (16, 256),
        "prior of a vector quantizer (Gated PixelCNN, 15 layers, 128 filters), 32x32 codes",
    ),
    "wavenet-30x64": Model(
        "WaveNet", {"n_blocks": 3, "n_filters": 64, "skip_filters": 256, "head_filters": 256}, (1, 16_000), (1, 16),
        "WaveNet (30 layers, 64 channels), one second at 16 kHz",
    ),
}  # fmt: skip


def cases() -> list[Case]:
    """Naive sampling is one full forward for every pixel: a figure that is H W times the first row of the table."""
    return [_case(key, model, batch) for key, model in MODELS.items() for batch in model.batches]


def _case(key: str, model: Model, batch: int) -> Case:
    positions = model.shape[-1] * (model.shape[-2] if len(model.shape) == 3 else 1)

    def sampler(method: str, precision: str | None = None) -> Builder:
        def build(device: str) -> Run:
            from fastgen.sampling import prepare, sample

            network = model.build(device)
            executor = prepare(network, batch, shape=model.shape, method=method, precision=precision)
            return lambda: sample(network, batch, prepared=executor)

        return build

    variants = {
        FORWARD: _forward(model, batch, lambda network: network),
        COMPILED: _forward(model, batch, torch.compile),
    }
    variants |= {label: sampler(method) for method, label in METHODS.items()}
    variants[HALF] = sampler("cuda_graph", "bfloat16")
    return Case(
        name=model.name(key, batch),
        variants=variants,
        baseline=FORWARD,
        title=f"{model.title}, {batch} drawn side by side; naive sampling is {positions} full forwards",
        unit="s",
        devices=("cuda",),
        tags=(TAG, "readme") if batch in (16, 256) else (TAG,),
    )


def _forward(model: Model, batch: int, wrap: Callable[[torch.nn.Module], Any]) -> Builder:
    def build(device: str) -> Run:
        network = wrap(model.build(device))
        x = torch.rand(batch, *model.shape, generator=torch.Generator().manual_seed(0)).mul(2).sub(1).to(device)

        def run() -> Tensor:
            with torch.inference_mode():
                return network(x)

        return run

    return build
