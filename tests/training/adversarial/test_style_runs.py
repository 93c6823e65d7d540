"""Runs of models that grow and of models with styles: exact resume across stages, averages, and learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fastgen.data import TensorImages
from fastgen.models.serialization import load
from fastgen.training import train
from fastgen.training.checkpoint import read_checkpoint
from fastgen.training.recipes import Recipe

Data = tuple[TensorImages, TensorImages]
STYLED = {"w_dim": 6, "mapping_layers": 2}


@pytest.fixture(scope="module")
def data() -> Data:
    """Class 0 has bright rows, class 1 bright columns."""

    def images(n: int, seed: int) -> TensorImages:
        labels = torch.arange(n) % 2
        stripes = (torch.arange(8) // 2 % 2 * 200).to(torch.uint8).expand(8, 8)
        x = torch.where(labels[:, None, None] == 0, stripes.T, stripes)
        noise = torch.randint(0, 9, (n, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
        return TensorImages("stripes", (x + noise)[:, None], labels, ("rows", "columns"))

    return images(32, 0), images(32, 1)


def recipe(model: str, config: dict[str, Any], **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "config": {"latent_dim": 6, "n_filters": [4, 5], **config},
        "batch_size": 4,
        "steps": 7,
        "lr": 2e-3,
        "ema_decay": 0.8,
        "checkpoint_interval": 100,
    }
    return Recipe(name="tiny", data="none", model=model, **{**values, **changes})


@pytest.mark.parametrize(
    ("model", "config", "changes", "stop"),
    [
        ("ProgressiveGAN", {"growth_share": 0.6}, {}, 2),  # in the coarsest stage
        ("StyleGAN", {**STYLED, "progressive": True}, {"adversarial": {"r1_interval": 2}}, 3),
        ("StyleGAN", STYLED, {}, 4),
        ("StyleGAN2", STYLED, {"conditional": True, "adversarial": {"r1_interval": 3, "path_length_interval": 2}}, 4),
    ],
)
def test_a_stopped_run_resumes_bit_for_bit(
    model: str, config: dict[str, Any], changes: dict[str, Any], stop: int, data: Data, tmp_path: Path
) -> None:
    r = recipe(model, config, **changes)
    train(r, tmp_path / "whole", data=data, progress=False)
    asked = iter(range(stop + 1))
    stopped = train(r, tmp_path / "parts", data=data, progress=False, should_stop=lambda: next(asked) == stop)
    assert stopped.step == stop
    torch.manual_seed(99)
    torch.rand(17)
    train(r, tmp_path / "parts", data=data, progress=False, resume=True)
    mine, theirs = (read_checkpoint(tmp_path / part / "checkpoint.safetensors").tensors for part in ("whole", "parts"))
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    if model != "ProgressiveGAN":
        average = mine["ema/generator.mapping.average"]
        assert torch.equal(average, mine["model/generator.mapping.average"]) and float(average.abs().sum()) > 0
    if model == "StyleGAN2":
        assert float(mine["state/adversarial/path_length"]) > 0
    else:
        assert (int(mine["model/stage"]), float(mine["model/alpha"])) == (1, 1.0)


def test_a_run_that_was_stopped_in_a_stage_draws_what_it_has_so_far(data: Data, tmp_path: Path) -> None:
    asked = iter(range(3))
    r = recipe("ProgressiveGAN", {"growth_share": 1.0})
    train(r, tmp_path, data=data, progress=False, should_stop=lambda: next(asked) == 2)
    model: Any = load(tmp_path / "model.safetensors").eval()
    assert int(model.stage) == 0
    images = model.sample(3)
    assert torch.equal(images, images[:, :, ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize(
    ("model", "config", "adversarial"),
    [
        ("ProgressiveGAN", {"growth_share": 0.5}, {}),
        ("StyleGAN", STYLED, {"r1": 0.1}),
        ("StyleGAN2", STYLED, {"r1": 0.1, "path_length": 0.1}),
    ],
)
def test_one_image_is_learned_by_heart(
    model: str, config: dict[str, Any], adversarial: dict[str, Any], data: Data, tmp_path: Path
) -> None:
    """Bright rows alone: what is drawn comes to look like them, in the brightness of every row."""
    rows = tuple(
        TensorImages("rows", part.tensors()[0][::2], part.tensors()[1][::2], ("rows", "columns")) for part in data
    )
    r = recipe(
        model,
        {**config, "n_filters": [8, 8]},
        adversarial=adversarial,
        batch_size=4,
        steps=50,
        lr=1e-2,
        ema_decay=0.8,
    )
    result = train(r, tmp_path, data=(rows[0], rows[1]), progress=False)
    drawn = result.model.sample(16).float().mean((0, 1, 3))
    real = rows[1].tensors()[0].float().mean((0, 1, 3))
    assert float((drawn - real).abs().mean()) < 50
    assert float(torch.corrcoef(torch.stack([drawn, real]))[0, 1]) > 0.9
