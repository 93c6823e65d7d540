"""Models of images given something of the image itself learn, resume and are measured by the loop that all have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastgen.data import TensorImages
from fastgen.evaluation import evaluate_bits
from fastgen.models.serialization import load
from fastgen.training.checkpoint import read_checkpoint
from fastgen.training.loop import train
from fastgen.training.recipes import Recipe
from fastgen.training.run import CHECKPOINT, MODEL

SMALL = {"n_layers": 2, "n_filters": 8, "kernel_size": 3, "first_kernel_size": 3, "head_filters": 16}
DMOL = {"name": "DiscretizedLogisticMixture", "channels": 3, "n_mix": 2}
CONFIGS = {
    "Colorization": {"cond_filters": 8, "likelihood": DMOL},
    "SuperResolution": {"cond_filters": 8, "likelihood": DMOL},
    "MultiScalePixelCNN": {"cond_filters": 8, "factors": [2], "likelihood": DMOL},
}


@pytest.fixture
def coloured() -> tuple[TensorImages, TensorImages]:
    """4x4 images of one colour each, a label a hue."""

    def images(n: int, seed: int) -> TensorImages:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(n) % 2
        brightness = torch.randint(40, 250, (n, 1, 1, 1), generator=generator)
        hue = torch.tensor([[1.0, 0.6, 0.2], [0.2, 0.6, 1.0]])[labels][:, :, None, None]
        levels = (brightness * hue).to(torch.uint8).expand(n, 3, 4, 4)
        return TensorImages("colours", levels.contiguous(), labels, ("warm", "cold"))

    return images(40, 0), images(12, 1)


@pytest.mark.parametrize("name, conditional", [(name, False) for name in CONFIGS] + [("Colorization", True)])
def test_it_learns_resumes_and_is_measured(
    recipe: Recipe, coloured: tuple[TensorImages, TensorImages], tmp_path: Path, name: str, conditional: bool
) -> None:
    changes = {"model": name, "config": {**SMALL, **CONFIGS[name]}, "conditional": conditional, "lr": 2e-2}
    recipe = recipe.replace(**changes, steps=10)
    result = train(recipe, tmp_path / "whole", data=coloured, progress=False)
    assert result.after is not None
    assert result.after.bits_per_dim < result.before.bits_per_dim - 0.1

    model = load(tmp_path / "whole" / MODEL)
    x, labels = coloured[1].tensors()
    cond = model.condition_of(x, labels if conditional else None)
    nats = -model.log_prob(x, cond).mean().item()
    assert result.after.nats == pytest.approx(nats, rel=1e-6)
    assert evaluate_bits(model, coloured[1], batch_size=5).nats == pytest.approx(nats, rel=1e-6)
    assert model.sample(2, cond=model.condition_of(x[:2], labels[:2] if conditional else None)).shape == (2, 3, 4, 4)

    asked = iter(range(9))
    train(recipe, tmp_path / "parts", data=coloured, progress=False, should_stop=lambda: next(asked) == 7)
    train(recipe, tmp_path / "parts", data=coloured, resume=True, progress=False)
    whole, parts = (read_checkpoint(tmp_path / folder / CHECKPOINT).tensors for folder in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
