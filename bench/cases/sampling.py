"""Sampling a batch of images with caches, against one plain forward of that batch: naive sampling takes one a pixel."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.case import Builder, Case, Run

FORWARD = "one full forward"


def cases() -> list[Case]:
    """PixelCNN++ at 32x32x3 with 10 mixtures, two sizes; and both methods drawing the same small images."""
    return [
        *(_against_forward(5, 80, batch, tags=("readme",) if batch == 16 else ()) for batch in (1, 16, 64)),
        _against_forward(2, 40, 16),
        _against_naive(tags=("readme",)),
    ]


def _model(n_resnet: int, n_filters: int, device: str) -> torch.nn.Module:
    from fastgen.models import PixelCNNPP

    torch.manual_seed(0)
    return PixelCNNPP(image_channels=3, n_resnet=n_resnet, n_filters=n_filters, n_mix=10).eval().to(device)


def _against_forward(n_resnet: int, n_filters: int, batch: int, *, tags: tuple[str, ...] = ()) -> Case:
    shape = (3, 32, 32)

    def forward(device: str) -> Run:
        model = _model(n_resnet, n_filters, device)
        x = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0)).mul(2).sub(1).to(device)

        def run() -> Tensor:
            with torch.inference_mode():
                return model(x)

        return run

    def prepared(method: str) -> Builder:
        def build(device: str) -> Run:
            from fastgen.sampling import prepare, sample

            model = _model(n_resnet, n_filters, device)
            executor = prepare(model, batch, shape=shape, method=method)
            return lambda: sample(model, batch, prepared=executor)

        return build

    def cold(device: str) -> Run:
        from fastgen.sampling import sample

        model = _model(n_resnet, n_filters, device)
        return lambda: sample(model, batch, shape=shape, batch_size=batch)

    return Case(
        name=f"sampling/pixelcnnpp-{n_resnet}x{n_filters}/{batch}x3x32x32",
        variants={
            FORWARD: forward,
            "sample, PyTorch calls": prepared("cached"),
            "sample": prepared("auto"),
            "sample, tracing and planning included": cold,
        },
        baseline=FORWARD,
        title=(
            f"PixelCNN++ ({n_resnet} resnets, {n_filters} filters), sampling {batch} whole images 32x32x3; "
            "naive sampling is 1024 full forwards"
        ),
        unit="s",
        tags=tags,
    )


def _against_naive(*, tags: tuple[str, ...] = ()) -> Case:
    batch, shape = 4, (3, 16, 16)

    def build(method: str, device: str) -> Run:
        from fastgen.sampling import prepare, sample

        # float64: no level can flip by rounding, so both methods must draw the same images
        model = _model(1, 20, device).double()
        executor = prepare(model, batch, shape=shape, method=method)
        return lambda: sample(model, batch, prepared=executor)

    return Case(
        name="sampling/cached-against-naive/4x3x16x16",
        variants={
            "naive": lambda device: build("naive", device),
            "cached": lambda device: build("auto", device),
        },
        baseline="naive",
        title="PixelCNN++ (1 resnet, 20 filters, float64), 4 equal images 16x16x3",
        unit="s",
        tags=tags,
        check=_same_images,
    )


def _same_images(results: Mapping[str, object]) -> None:
    naive, cached = results["naive"], results["cached"]
    assert isinstance(naive, Tensor)
    assert isinstance(cached, Tensor)
    if not torch.equal(naive, cached):
        raise AssertionError(f"cached and naive images differ in {int((naive != cached).sum())} levels")
