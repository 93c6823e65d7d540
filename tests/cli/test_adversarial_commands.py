"""The commands serve adversarial models: drawing, codes between codes, groups of codes, neighbours, modes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fastgen as package
from fastgen.cli import main
from fastgen.data import image_grid, load, read_image
from fastgen.evaluation import nearest_neighbours
from fastgen.models import GAN, ConditionalGAN, InfoGAN, StyleGAN2

Fastgen = Callable[..., Any]


def train(out: Path, folder: Path | str, recipe: str, *options: str) -> Path:
    arguments = [
        "train",
        recipe,
        "--data",
        str(folder),
        "--out",
        str(out),
        "--steps",
        "3",
        "--quiet",
        "--device",
        "cpu",
    ]
    for option in ("batch_size=4", "workers=0", "sample_grid=0", *options):
        arguments += ["--set", option]
    assert main(arguments) == 0
    return out


@pytest.fixture(scope="session")
def gan(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """A dense GAN of 8x6 images."""
    return train(tmp_path_factory.mktemp("runs") / "gan", image_folder, "gan", "config.hidden=[6]")


@pytest.fixture(scope="session")
def conditional(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """A conditional GAN of 8x6 images of three classes."""
    options = ("config.n_filters=[4]", "config.latent_dim=3", "adversarial.augment=cutout", "adversarial.d_steps=2")
    return train(tmp_path_factory.mktemp("runs") / "conditional_gan", image_folder, "conditional_gan", *options)


def picture(rows: torch.Tensor) -> torch.Tensor:
    return image_grid(rows.flatten(0, 1), columns=rows.shape[1], scale=64 // 8)


def test_sample(fastgen: Fastgen, gan: Path, conditional: Path, tmp_path: Path) -> None:
    done = fastgen("sample", gan, "-n", 5, "--temperature", 0.5, "--batch-size", 2, "--out", tmp_path / "a.png")
    assert done.code == 0, done.err
    model = package.load(gan / "model.safetensors").eval()
    drawn = model.sample(5, seed=0, temperature=0.5)
    assert torch.equal(read_image(tmp_path / "a.png", channels=1), image_grid(drawn, scale=8))
    assert fastgen("sample", conditional, "-n", 6, "--class", "2,0", "--out", tmp_path / "b.png").code == 0
    refused = fastgen("sample", gan, "--method", "naive")
    assert refused.code == 2 and "--method: GAN has no such option" in refused.err
    refused = fastgen("sample", gan, "--class", 1)
    assert refused.code == 2 and "trained without labels" in refused.err


def test_interpolate(fastgen: Fastgen, conditional: Path, tmp_path: Path) -> None:
    options = ("-n", 2, "--steps", 4, "--seed", 5, "--class", "2,1", "--spherical", "--out", tmp_path / "rows.png")
    done = fastgen("interpolate", conditional, *options)
    assert done.code == 0 and "2 pairs of codes, 4 steps on great circles" in done.out, done.err
    model = package.load(conditional / "model.safetensors").eval()
    assert isinstance(model, ConditionalGAN)
    codes = model.draw_latent(4, seed=5)
    rows = model.interpolate(codes[::2], codes[1::2], 4, spherical=True, cond=torch.tensor([2, 1]))
    assert torch.equal(read_image(tmp_path / "rows.png", channels=1), picture(rows))


def test_arithmetic(fastgen: Fastgen, gan: Path, conditional: Path, image_folder: Path, tmp_path: Path) -> None:
    model = package.load(gan / "model.safetensors").eval()
    assert isinstance(model, GAN)
    codes = model.draw_latent(1024, seed=1)
    data = load(image_folder, split="train", size=(8, 6))
    _, nearest = nearest_neighbours(model.images_of(codes), data, 1)
    labels = data.batch(nearest[:, 0])[1]
    present, counts = labels.unique(return_counts=True)
    label = int(present[counts.argmax()])  # an untrained generator shows few classes
    done = fastgen("arithmetic", gan, label, label, label, "-n", 3, "--seed", 1, "--out", tmp_path / "a.png")
    assert done.code == 0, done.err
    group = codes[labels == label]
    mean = model.images_of(group.mean(0, keepdim=True))[0]
    white = torch.full_like(mean, 255)
    images = model.images_of(group[:3])
    rows = torch.stack([torch.stack([mean] * 4), *[torch.cat([images, white[None]])] * 2])
    found, wanted = read_image(tmp_path / "a.png", channels=1).int(), picture(rows).int()
    assert int((found - wanted).abs().max()) <= 1  # a - b + c rounds
    refused = fastgen("arithmetic", conditional, 0, 1, 2)
    assert refused.code == 2 and "the model is given the label" in refused.err
    refused = fastgen("arithmetic", gan, 0, 1, 3)
    assert refused.code == 2 and "are 0 to 2; got 3" in refused.err


def test_traverse(fastgen: Fastgen, gan: Path, image_folder: Path, tmp_path: Path) -> None:
    options = ("config.n_filters=[4]", "config.categorical=[3]", "config.n_continuous=1", "config.hidden=5")
    run = train(tmp_path / "infogan", image_folder, "infogan", *options)
    done = fastgen("traverse", run, "--steps", 5, "--out", tmp_path / "rows.png")
    assert done.code == 0 and "latents 0, 1, four rows each" in done.out, done.err
    model = package.load(run / "model.safetensors").eval()
    assert isinstance(model, InfoGAN)
    values, path = model.traverse(0, n=4), model.traverse(1, steps=5, n=4)
    white = torch.full_like(path[:, :2], 255)
    rows = torch.cat([torch.cat([values, white], 1), path])
    assert torch.equal(read_image(tmp_path / "rows.png", channels=1), picture(rows))
    refused = fastgen("traverse", gan)
    assert refused.code == 2 and "GAN has codes without latents of their own" in refused.err


def test_neighbours(fastgen: Fastgen, gan: Path, tmp_path: Path) -> None:
    done = fastgen("neighbours", gan, "-n", 2, "-k", 3, "--out", tmp_path / "near.png")
    assert done.code == 0 and "2 samples, each before its 3 nearest" in done.out, done.err


def test_eval_counts_classes(fastgen: Fastgen, conditional: Path, gan: Path) -> None:
    done = fastgen("eval", conditional, "--modes", 30, "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert {"sliced_distance", "logit_real", "logit_fake", "modes"} < said.keys()
    assert sum(said["modes"]["counts"]) == 30 and len(said["modes"]["counts"]) == 3
    done = fastgen("eval", gan, "--modes", 20)
    assert done.code == 0 and "20 drawn: " in done.out and " of 3 classes, KL " in done.out, done.err


def test_eval_counts_modes_of_the_ring(fastgen: Fastgen, tmp_path: Path) -> None:
    run = train(tmp_path / "ring", "ring", "gan_ring", "config.hidden=[4]")
    done = fastgen("eval", run, "--modes", 50)
    assert done.code == 0 and " of 8 modes, " in done.out and "of high quality" in done.out, done.err


def test_a_model_with_an_encoder_is_needed_where_images_are_encoded(fastgen: Fastgen, gan: Path) -> None:
    refused = fastgen("reconstruct", gan)
    assert refused.code == 2 and "GAN, which has no codes" in refused.err


def test_options_are_set_and_refused_on_the_command_line(fastgen: Fastgen, image_folder: Path, tmp_path: Path) -> None:
    common = ("--data", image_folder, "--out", tmp_path / "run", "--steps", 1, "--quiet", "--device", "cpu")
    refused = fastgen("train", "gan", *common, "--set", "adversarial.loss=wassertein")
    assert refused.code == 2 and "did you mean wasserstein?" in refused.err
    refused = fastgen("train", "gan", *common, "--set", "adversarial.dsteps=1")
    assert refused.code == 2 and "unknown adversarial option 'dsteps'; did you mean d_steps?" in refused.err
    refused = fastgen("train", "vae", *common, "--set", "adversarial.r1=1")
    assert refused.code == 2 and "adversarial options are of adversarial models; VAE is none" in refused.err
    assert not (tmp_path / "run").exists()


def test_truncation_noise_and_lines_between_styles(
    fastgen: Fastgen, gan: Path, image_folder: Path, tmp_path: Path
) -> None:
    options = ("config.n_filters=[4,5]", "config.latent_dim=3", "config.w_dim=5", "config.mapping_layers=2", "size=8x6")
    run = train(tmp_path / "stylegan2", image_folder, "stylegan2", *options)
    model = package.load(run / "model.safetensors").eval()
    assert isinstance(model, StyleGAN2)
    done = fastgen("sample", run, "-n", 3, "--truncation", 0.4, "--noise", "constant", "--out", tmp_path / "a.png")
    assert done.code == 0, done.err
    drawn = model.sample(3, seed=0, truncation=0.4, noise="constant")
    assert torch.equal(read_image(tmp_path / "a.png", channels=1), image_grid(drawn, scale=8))
    done = fastgen("interpolate", run, "-n", 2, "--steps", 3, "--space", "w", "--out", tmp_path / "rows.png")
    assert done.code == 0 and "2 pairs of styles, 3 steps on straight lines" in done.out, done.err
    codes = model.draw_latent(4, seed=0)
    rows = model.interpolate(codes[::2], codes[1::2], 3, space="w")
    assert torch.equal(read_image(tmp_path / "rows.png", channels=1), picture(rows))
    data = load(image_folder, split="train", size=(8, 6))
    _, nearest = nearest_neighbours(model.images_of(model.draw_latent(1024)), data, 1)
    labels = data.batch(nearest[:, 0])[1]
    label = int(labels.mode().values)
    done = fastgen("arithmetic", run, label, label, label, "-n", 2, "--space", "w", "--out", tmp_path / "b.png")
    assert done.code == 0 and done.out.startswith("drawn styles of labels"), done.err
    w = model.map(model.draw_latent(1024)[labels == label]).detach()
    mean = model.images_of(w.mean(0, keepdim=True), space="w")[0]
    found = read_image(tmp_path / "b.png", channels=1).int()
    assert int((found - picture(torch.stack([torch.stack([mean] * 4)] * 3)).int())[:, : 64 + 2].abs().max()) <= 1
    for command, flags in (
        ("sample", ("--truncation", 0.5)),
        ("sample", ("--noise", "none")),
        ("interpolate", ("--space", "w")),
        ("arithmetic", (0, 1, 2, "--space", "w")),
    ):
        refused = fastgen(command, gan, *flags)
        name = next(str(flag) for flag in flags if str(flag).startswith("--"))
        assert refused.code == 2 and f"{name}: GAN has no " in refused.err, refused.err
