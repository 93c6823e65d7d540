"""Sampling images with models over flat vectors, against one plain forward of the batch; naive sampling takes 784."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bench.case import Builder, Case, Run

FORWARD = "one full forward"
SHAPE = (1, 28, 28)


def cases() -> list[Case]:
    """FVSBN, NADE and MADE at 28x28, binary, batch 16; and both methods drawing the same small images."""
    return [*(_against_forward(name, 16) for name in ("fvsbn", "nade", "made")), _against_naive()]


def _model(name: str, device: str, size: tuple[int, int] = (28, 28), hidden: int = 500) -> torch.nn.Module:
    from fastgen.models import FVSBN, MADE, NADE

    torch.manual_seed(0)
    build: dict[str, Callable[[], torch.nn.Module]] = {
        "fvsbn": lambda: FVSBN(1, size),
        "nade": lambda: NADE(1, hidden, image_size=size),
        "made": lambda: MADE(1, (hidden, hidden), image_size=size),
    }
    model = build[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model.eval().to(device)


def _against_forward(name: str, batch: int) -> Case:
    def forward(device: str) -> Run:
        model = _model(name, device)
        x = torch.randint(0, 2, (batch, *SHAPE), generator=torch.Generator().manual_seed(0)).mul(2).sub(1)
        signal = x.float().to(device)

        def run() -> Tensor:
            with torch.inference_mode():
                return model(signal)

        return run

    def prepared(method: str) -> Builder:
        def build(device: str) -> Run:
            from fastgen.sampling import prepare, sample

            model = _model(name, device)
            executor = prepare(model, batch, method=method)
            return lambda: sample(model, batch, prepared=executor)

        return build

    return Case(
        name=f"sampling/{name}/{batch}x1x28x28",
        variants={FORWARD: forward, "sample, PyTorch calls": prepared("cached"), "sample": prepared("auto")},
        baseline=FORWARD,
        title=f"{name.upper()} (500 hidden units where it has any), sampling {batch} whole binary images 28x28",
        unit="ms",
    )


def _against_naive() -> Case:
    batch, size = 4, (12, 12)

    def build(method: str, device: str) -> Run:
        from fastgen.sampling import prepare, sample

        # float64: no value can flip by rounding, so both methods must draw the same images
        model = _model("made", device, size, 60).double()
        executor = prepare(model, batch, method=method)
        return lambda: sample(model, batch, prepared=executor)

    return Case(
        name="sampling/made-against-naive/4x1x12x12",
        variants={
            "naive": lambda device: build("naive", device),
            "cached": lambda device: build("auto", device),
        },
        baseline="naive",
        title="MADE (two layers of 60 hidden units, float64), 4 equal images 12x12",
        unit="ms",
        check=_same_images,
    )


def _same_images(results: Mapping[str, object]) -> None:
    naive, cached = results["naive"], results["cached"]
    assert isinstance(naive, Tensor)
    assert isinstance(cached, Tensor)
    if not torch.equal(naive, cached):
        raise AssertionError(f"cached and naive images differ in {int((naive != cached).sum())} values")
