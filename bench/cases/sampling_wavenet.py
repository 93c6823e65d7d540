"""Sampling audio with caches, against one forward over the receptive field: naive sampling takes one a sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.case import Builder, Case, Run

if TYPE_CHECKING:
    from fastgen.models import WaveNet

STEP = "one naive step: a forward over the receptive field"


def cases() -> list[Case]:
    """WaveNet of 30 layers and 64 channels: a second at 16 kHz, and both methods drawing the same short signal."""
    return [_second(), _against_naive()]


def _model(device: str) -> WaveNet:
    from fastgen.models import WaveNet

    torch.manual_seed(0)
    return WaveNet(1, 3, 64, skip_filters=256, head_filters=256).eval().to(device)


def _second() -> Case:
    """The naive second is not run: it is 16000 of the naive steps that are, as the title says."""
    batch, length = 1, 16_000

    def step(device: str) -> Run:
        model = _model(device)
        window = model.receptive_field + 1  # what an uncached step needs: the past that is seen, and the sample itself
        x = torch.rand(batch, 1, window, generator=torch.Generator().manual_seed(0)).mul(2).sub(1).to(device)

        def run() -> Tensor:
            with torch.inference_mode():
                return model(x)[:, :, -1]

        return run

    def prepared(method: str) -> Builder:
        def build(device: str) -> Run:
            from fastgen.sampling import prepare, sample

            model = _model(device)
            executor = prepare(model, batch, shape=(1, length), method=method)
            return lambda: sample(model, batch, prepared=executor)

        return build

    return Case(
        name=f"sampling/wavenet-30x64/{batch}x1x{length}",
        variants={STEP: step, "sample, PyTorch calls": prepared("cached"), "sample": prepared("auto")},
        baseline=STEP,
        title=(
            f"WaveNet (30 layers, 64 channels), sampling a second of 16 kHz; naive sampling is {length} of the naive "
            "steps (not run: one is)"
        ),
        unit="s",
        tags=("wavenet",),
    )


def _against_naive() -> Case:
    batch, length = 1, 64

    def build(method: str, device: str) -> Run:
        from fastgen.sampling import prepare, sample

        # float64: no level can flip by rounding, so both methods must draw the same signal
        model = _model(device).double()
        executor = prepare(model, batch, shape=(1, length), method=method)
        return lambda: sample(model, batch, prepared=executor)

    return Case(
        name=f"sampling/wavenet-cached-against-naive/{batch}x1x{length}",
        variants={
            "naive": lambda device: build("naive", device),
            "cached": lambda device: build("auto", device),
        },
        baseline="naive",
        title=f"WaveNet (30 layers, 64 channels, float64), {length} equal samples; naive runs on those {length} only",
        unit="s",
        tags=("wavenet",),
        check=_same_signals,
    )


def _same_signals(results: Mapping[str, object]) -> None:
    naive, cached = results["naive"], results["cached"]
    assert isinstance(naive, Tensor)
    assert isinstance(cached, Tensor)
    if not torch.equal(naive, cached):
        raise AssertionError(f"cached and naive signals differ in {int((naive != cached).sum())} levels")
