"""An energy model in the training loop: chains that persist survive a stop bit for bit, and stay out of model files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from fastgen.cli import main
from fastgen.data import TensorImages, write_image
from fastgen.evaluation import outlier_auroc
from fastgen.models import EnergyModel
from fastgen.models.serialization import load
from fastgen.training.checkpoint import read_checkpoint
from fastgen.training.loop import train
from fastgen.training.recipes import RECIPES, Recipe
from fastgen.training.run import CHECKPOINT, MODEL

Data = tuple[TensorImages, TensorImages]


@pytest.fixture
def energy(recipe: Recipe) -> Recipe:
    config = {"n_filters": 4, "n_steps": 3, "buffer_size": 400}
    changes = {"model": "EnergyModel", "config": config, "conditional": False, "clip_norm": 0.1}
    return dataclasses.replace(recipe.replace(steps=6), checkpoint_interval=4, **changes)


@pytest.mark.parametrize("stop", [0, 3])
def test_the_chains_survive_a_stop_bit_for_bit(energy: Recipe, data: Data, tmp_path: Path, stop: int) -> None:
    train(energy, tmp_path / "whole", data=data, progress=False)
    asked = iter(range(stop + 1))
    train(energy, tmp_path / "parts", data=data, progress=False, should_stop=lambda: next(asked) == stop)
    held = read_checkpoint(tmp_path / "parts" / CHECKPOINT).part("state")
    assert held["chains"].shape == (400, 1, 8, 8)
    torch.manual_seed(99)  # another process would have another state
    resumed = train(energy, tmp_path / "parts", data=data, progress=False, resume=True)
    whole, parts = (read_checkpoint(tmp_path / run / CHECKPOINT).tensors for run in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not torch.equal(whole["state/chains"], held["chains"])
    assert resumed.after is not None and resumed.after.others.keys() >= {"misranked", "auroc_noise"}


def test_the_model_file_holds_no_chains_and_the_energies_of_training_images(
    energy: Recipe, data: Data, tmp_path: Path
) -> None:
    train(energy, tmp_path, data=data, progress=False)
    model = load(tmp_path / MODEL)
    assert isinstance(model, EnergyModel)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    assert weights < (tmp_path / MODEL).stat().st_size < weights + 4096
    images, _ = data[0].tensors()
    with torch.no_grad():
        scores = model.ood_score(images).double()
    assert float(scores.mean()) == pytest.approx(0, abs=1e-3) and float(scores.std()) == pytest.approx(1, rel=1e-3)


def test_a_checkpoint_with_other_chains_is_refused(energy: Recipe, data: Data, tmp_path: Path) -> None:
    from fastgen.training.checkpoint import write_checkpoint

    train(energy, tmp_path, data=data, progress=False)
    saved = read_checkpoint(tmp_path / CHECKPOINT)
    tensors = {name: tensor for name, tensor in saved.tensors.items() if not name.startswith("state/")}
    write_checkpoint(tmp_path / CHECKPOINT, dataclasses.replace(saved, tensors=tensors))
    with pytest.raises(ValueError, match=r"carries from step to step must be \['chains'\]; got \[\]"):
        train(energy.replace(steps=9), tmp_path, data=data, progress=False, resume=True)


@pytest.mark.parametrize("name", ["energy", "energy_score_matching"])
def test_the_recipes_run(name: str, data: Data, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    small = recipe.replace(steps=2, batch_size=4, config={**recipe.config, "n_filters": 2, "n_steps": 2})
    result = train(small, tmp_path, data=data, progress=False)
    assert result.after is not None and str(result.after).startswith(("misranked", "denoising loss"))


def test_images_of_another_set_are_told_by_their_energy(
    energy: Recipe, data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(energy.replace(steps=60), tmp_path, data=data, progress=False)
    images, labels = data[0].tensors()
    spoilt = TensorImages("noise", torch.randint(0, 256, images.shape, dtype=torch.uint8), labels)
    assert isinstance(result.model, EnergyModel)
    assert outlier_auroc(result.model, data[1], spoilt) > 0.95
    assert 0.3 < outlier_auroc(result.model, data[1], data[0]) < 0.7
    scores = [float(result.model.ood_score(image[None])) for image, _ in (*data[1], *spoilt)]
    pairs = [(a > b) + 0.5 * (a == b) for b in scores[:10] for a in scores[10:]]
    assert outlier_auroc(result.model, data[1], spoilt) == pytest.approx(sum(pairs) / len(pairs))

    folder = tmp_path / "images"
    folder.mkdir()
    for i, (image, _) in enumerate(spoilt):
        write_image(folder / f"{i}.png", image)
    against = ["--data", str(folder), "--against", str(folder), "--split", "all", "--device", "cpu"]
    assert main(["eval", str(tmp_path), *against]) == 0
    assert "images told from images (all): AUROC 0.5000" in capsys.readouterr().out
