"""The commands of models with codes write what the methods of the model give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastgen as package
from fastgen.cli import main
from fastgen.data import image_grid, load, read_image
from fastgen.evaluation import evaluate, evaluate_bound, nearest_neighbours
from fastgen.models import ConditionalVAE, DenoisingAutoencoder

Fastgen = Callable[..., Any]


def train(out: Path, folder: Path, recipe: str, *options: str) -> Path:
    common = ["--data", str(folder), "--out", str(out), "--steps", "2", "--quiet", "--device", "cpu"]
    small = ["--set", "config.hidden=[6]", "--set", "batch_size=4", "--set", "workers=0", "--set", "levels=256"]
    arguments = ["train", recipe, *common, *small]
    for option in options:
        arguments += ["--set", option]
    assert main(arguments) == 0
    return out


@pytest.fixture(scope="session")
def vae(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """The folder of a class-conditional run with two latents."""
    out = tmp_path_factory.mktemp("runs") / "vae"
    likelihood = 'config.likelihood={"name": "Gaussian", "channels": 1, "std": 0.5}'
    return train(out, image_folder, "conditional_vae", "config.latent_dim=2", likelihood)


@pytest.fixture(scope="session")
def denoising(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """The folder of a run of a denoising autoencoder with five latents."""
    out = tmp_path_factory.mktemp("runs") / "denoising"
    return train(out, image_folder, "denoising_autoencoder", "config.latent_dim=5", "config.density=gaussian")


def picture(rows: torch.Tensor) -> torch.Tensor:
    """The grid that images [R, K, C, H, W] make."""
    return image_grid(rows.flatten(0, 1), columns=rows.shape[1], scale=64 // 8)


def conditional(run: Path) -> ConditionalVAE:
    model = package.load(run / "model.safetensors")
    assert isinstance(model, ConditionalVAE)
    return model


def test_reconstruct(fastgen: Fastgen, vae: Path, image_folder: Path, tmp_path: Path) -> None:
    data, model = load(image_folder, split="train", size=(8, 6)), conditional(vae)
    done = fastgen("reconstruct", vae, "-n", 3, "--first", 2, "--split", "train")
    assert done.code == 0 and "3 images" in done.out
    x, labels = data.batch(torch.arange(2, 5))
    want = torch.stack([x, model.reconstruct(x, labels, expected=True)])
    assert torch.equal(read_image(vae / "reconstructions.png"), picture(want))


def test_reconstruct_shows_what_a_denoising_model_is_given(
    fastgen: Fastgen, denoising: Path, image_folder: Path
) -> None:
    assert fastgen("reconstruct", denoising, "-n", 2, "--seed", 4).code == 0
    got = read_image(denoising / "reconstructions.png")
    model = package.load(denoising / "model.safetensors")
    assert isinstance(model, DenoisingAutoencoder)
    x = load(image_folder, split="validation", size=(8, 6)).batch(torch.arange(2))[0]
    torch.manual_seed(4)
    noisy = model.corrupt(x)
    shown = ((noisy.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(got, picture(torch.stack([x, shown, model.reconstruct(noisy, expected=True)])))


@pytest.mark.parametrize("spherical", [False, True])
def test_interpolate(fastgen: Fastgen, vae: Path, image_folder: Path, tmp_path: Path, spherical: bool) -> None:
    out = tmp_path / "i.png"
    options = ["--spherical"] if spherical else []
    assert fastgen("interpolate", vae, "-n", 1, "--steps", 4, "--out", out, *options).code == 0
    x, labels = load(image_folder, split="validation", size=(8, 6)).batch(torch.arange(2))
    rows = conditional(vae).interpolate(x[:1], x[1:], 4, spherical=spherical, cond=labels[:1], expected=True)
    assert torch.equal(read_image(out), picture(rows))


def test_traverse_of_two_latents_is_the_grid(fastgen: Fastgen, vae: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.png"
    assert fastgen("traverse", vae, "--grid", 3, "--class", 2, "--out", out).code == 0
    grid = conditional(vae).manifold(3, cond=[2] * 9, expected=True)
    assert torch.equal(read_image(out), picture(grid.unflatten(0, (3, 3))))


def test_traverse_shows_the_latents_that_are_used_most(
    fastgen: Fastgen, denoising: Path, image_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "t.png"
    done = fastgen("traverse", denoising, "-n", 2, "--steps", 3, "--out", out)
    model = package.load(denoising / "model.safetensors")
    assert isinstance(model, DenoisingAutoencoder)
    x = load(image_folder, split="validation", size=(8, 6)).tensors()[0]
    spread = model.features(x).std(0, correction=0) / model.code_moments()[1]
    dims = spread.argsort(descending=True)[:2].tolist()
    assert done.code == 0 and f"latents {dims[0]}, {dims[1]} of 5" in done.out
    rows = [model.traverse(dim, steps=3, x=x[:1], expected=True)[0] for dim in dims]
    assert torch.equal(read_image(out), picture(torch.stack(rows)))
    assert fastgen("traverse", denoising, "--dim", "4,0", "--steps", 3, "--prior", "--span", 1, "--out", out).code == 0
    rows = [model.traverse(dim, steps=3, span=1.0, expected=True)[0] for dim in (4, 0)]
    assert torch.equal(read_image(out), picture(torch.stack(rows)))


def test_arithmetic(fastgen: Fastgen, vae: Path, image_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    done = fastgen("arithmetic", vae, 0, 1, 2, "-n", 4, "--out", out)
    assert done.code == 0 and "0 - 1 + 2" in done.out
    model, (x, labels) = conditional(vae), load(image_folder, split="train", size=(8, 6)).tensors()
    means = [model.mean_code(x[labels == label], labels[labels == label]) for label in range(3)]
    moved = means[0] - means[1]
    top = model.images_of(torch.stack([*means, means[2] + moved]), [0, 1, 2, 2], expected=True)
    of_2 = x[labels == 2][:4]
    below = model.images_of(model.code(of_2, [2] * 4) + moved, [2] * 4, expected=True)
    # the means are summed in another order
    got, want = read_image(out).int(), picture(torch.stack([top, of_2, below])).int()
    assert got.shape == want.shape and (got - want).abs().max() <= 1


def test_neighbours(fastgen: Fastgen, denoising: Path, trained: Path, image_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "n.png"
    assert fastgen("neighbours", denoising, "-n", 2, "-k", 3, "--seed", 5, "--out", out).code == 0
    data = load(image_folder, split="train", size=(8, 6))
    drawn = package.load(denoising / "model.safetensors").sample(2, seed=5)
    _, indices = nearest_neighbours(drawn, data, 3)
    near = data.batch(indices.flatten())[0].unflatten(0, (2, 3))
    assert torch.equal(read_image(out), picture(torch.cat([drawn[:, None], near], 1)))
    assert fastgen("neighbours", trained, "-n", 2, "--out", out).code == 0  # an autoregressive model


def test_sample_and_eval_know_models_with_codes(
    fastgen: Fastgen, vae: Path, denoising: Path, image_folder: Path, tmp_path: Path
) -> None:
    model, out = conditional(vae), tmp_path / "s.npy"
    options = ("--temperature", 0.5, "--pixel-temperature", 0, "--batch-size", 2, "--seed", 3)
    assert fastgen("sample", vae, "-n", 3, *options, "--out", out).code == 0
    want = model.sample(3, seed=3, temperature=0.5, pixel_temperature=0.0, cond=[0, 1, 2])
    assert torch.equal(torch.from_numpy(np.load(out)), want)
    data = load(image_folder, split="validation", size=(8, 6))
    assert f"{evaluate(model, data).nats:.2f} nats" in fastgen("eval", vae).out
    assert f"{evaluate_bound(model, data, n_samples=9).nats:.2f} nats" in fastgen("eval", vae, "--samples", 9).out
    assert "denoised mse" in fastgen("eval", denoising).out


def test_what_a_model_does_not_know_is_refused(
    fastgen: Fastgen, vae: Path, denoising: Path, trained: Path, tmp_path: Path
) -> None:
    for arguments, message in [
        (("sample", vae, "--method", "cached"), "--method: ConditionalVAE has no such option"),
        (("sample", vae, "--size", 4), "--size: ConditionalVAE has no such option"),
        (("sample", trained, "--pixel-temperature", 0), "--pixel-temperature: PixelCNNPP has no such option"),
        (("eval", denoising, "--samples", 3), "DenoisingAutoencoder has none"),
        (("reconstruct", trained), "holds a PixelCNNPP, which has no codes"),
        (("reconstruct", vae, "--first", 99), "--first 99 and 8 images from there go beyond"),
        (("reconstruct", vae, "--out", tmp_path / "a.npy"), "--out: a grid is written as .png"),
        (("traverse", vae, "--dim", 2), "dim must be a latent in 0..1; got 2"),
        (("traverse", denoising, "--grid", 3), "grid over two latents"),
        (("arithmetic", vae, 0, 1, 3), "are 0 to 2; got 3"),
        (("arithmetic", vae, 0, 1, 2, "-n", 50), "ask for fewer with -n"),
    ]:
        done = fastgen(*arguments)
        assert done.code == 2 and message in done.err, done
