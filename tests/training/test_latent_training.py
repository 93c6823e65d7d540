"""Models with codes in the training loop: noise and warm-up resume, densities are fitted, wrong levels are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastgen.data import TensorImages, load
from fastgen.models import VAE, Autoencoder
from fastgen.models.serialization import load as load_model
from fastgen.training.build import build_model
from fastgen.training.checkpoint import read_checkpoint
from fastgen.training.log import read_log
from fastgen.training.loop import train
from fastgen.training.recipes import Recipe
from fastgen.training.run import CHECKPOINT, LOG, MODEL

Data = tuple[TensorImages, TensorImages]


@pytest.fixture
def latent(recipe: Recipe) -> Callable[..., Recipe]:
    """`latent(model, **config)`: the small recipe, of a dense model with two latents."""

    def make(model: str, **config: Any) -> Recipe:
        likelihood = {"name": "Gaussian", "channels": 1, "std": 0.5}
        changed = {"hidden": [6], "latent_dim": 2, "likelihood": likelihood, **config}
        return recipe.replace(model=model, config=changed, conditional=False)

    return make


def test_a_stopped_run_goes_on_with_the_noise_and_the_warm_up_it_would_have_had(
    latent: Callable[..., Recipe], data: Data, tmp_path: Path
) -> None:
    recipe = latent("VAE", kl_warmup=0.9)
    train(recipe, tmp_path / "whole", data=data, progress=False)
    asked = iter(range(8))
    train(recipe, tmp_path / "parts", data=data, progress=False, should_stop=lambda: next(asked) == 7)
    train(recipe, tmp_path / "parts", data=data, progress=False, resume=True)
    whole, parts = (read_checkpoint(tmp_path / name / CHECKPOINT).tensors for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[key], parts[key]) for key in whole)
    lines = [line for line in read_log(tmp_path / "whole" / LOG) if line["event"] == "train"]
    assert {"bits_per_dim", "reconstruction", "kl", "loss"} <= set(lines[-1])


def test_the_bound_improves(latent: Callable[..., Recipe], data: Data, tmp_path: Path) -> None:
    result = train(latent("VAE").replace(steps=60), tmp_path, data=data, progress=False)
    assert result.after is not None
    assert result.after.bits_per_dim < result.before.bits_per_dim - 0.1
    assert result.after.nats == pytest.approx(sum(result.after.others.values()))  # reconstruction and divergence


def test_the_density_of_codes_is_fitted_to_the_averaged_model_at_the_end(
    latent: Callable[..., Recipe], data: Data, tmp_path: Path
) -> None:
    recipe = latent("Autoencoder")
    asked = iter(range(5))
    stopped = train(recipe, tmp_path, data=data, progress=False, should_stop=lambda: next(asked) == 4)
    with pytest.raises(ValueError, match="must be fitted before"):
        stopped.model.sample(2)
    result = train(recipe, tmp_path, data=data, progress=False, resume=True)
    assert result.after is not None and str(result.after).startswith("mse ")
    model = load_model(tmp_path / MODEL)
    assert isinstance(model, Autoencoder)
    codes = model.features(data[0].tensors()[0])
    mean, std = model.code_moments()
    torch.testing.assert_close(mean, codes.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(std, codes.std(0, correction=0), rtol=1e-4, atol=1e-5)
    assert model.sample(3).shape == (3, 1, 8, 8)


def test_a_likelihood_of_other_levels_than_the_images_is_refused(latent: Callable[..., Recipe]) -> None:
    recipe = latent("VAE", likelihood={"name": "Bernoulli", "channels": 1})
    with pytest.raises(ValueError, match="must be of the levels of the images; got 2 and 256; set levels=2"):
        build_model(recipe, (1, 8, 8), 0)
    assert build_model(recipe.replace(levels=2), (1, 8, 8), 0).levels == 2


def test_a_loss_that_is_not_finite_names_the_files_of_its_batch(
    latent: Callable[..., Recipe], image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = VAE.objective
    calls = iter(range(100))

    def spoilt(model: VAE, x: torch.Tensor, cond: object = None) -> Any:
        terms = objective(model, x, cond)
        return {**terms, "loss": terms["loss"] * (float("nan") if next(calls) == 1 else 1.0)}

    monkeypatch.setattr(VAE, "objective", spoilt)
    images = load(image_folder)
    recipe = latent("VAE").replace(batch_size=3, workers=0)
    with pytest.raises(FloatingPointError, match=r"at step 1, whose batch was [^,]*\.png, [^,]*\.png, [^,]*\.png; "):
        train(recipe, tmp_path / "run", data=(images, images), progress=False)  # type: ignore[arg-type]
