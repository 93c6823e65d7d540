"""Recipes in the settings of papers: one for every model, of the paper's size, with the literature's figures."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench.recipes import PUBLISHED
from fastgen.cli import models as listing
from fastgen.data import names
from fastgen.models import MODELS, AdversarialModel, Model
from fastgen.training import RECIPES, Recipe, train
from fastgen.training.adversarial import AdversarialTraining
from fastgen.training.build import build_model, load_data
from fastgen.training.recipes import published
from fastgen.training.turn import make_optimizer

PAPERS = {recipe.name: recipe for recipe in published.RECIPES}


def build(recipe: Recipe) -> Model:
    (channels, *size), n_classes = listing.SHAPES[recipe.data]
    if isinstance(recipe.size, int):
        size = [recipe.size] * max(1, len(size))
    facts = {"domain_channels": listing.DOMAINS[recipe.data]} if recipe.data in listing.DOMAINS else None
    with torch.device("meta"):
        return build_model(recipe, (channels, *size), n_classes if recipe.conditional else 0, facts)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def optimizers(recipe: Recipe) -> dict[str, torch.optim.Optimizer]:
    """That of each phase."""
    model = build(recipe)
    of_players = isinstance(model, AdversarialModel)
    course = AdversarialTraining(model, recipe.adversarial, recipe.batch_size) if of_players else model
    return {phase.name: make_optimizer(phase, recipe, torch.device("meta")) for phase in course.phases()}


def test_every_model_has_a_recipe_of_its_paper_and_a_small_one() -> None:
    small = {recipe.model for recipe in RECIPES.values() if not recipe.source}
    assert {recipe.model for recipe in PAPERS.values()} == set(MODELS) == small


def test_names_are_a_small_recipe_and_the_data() -> None:
    assert len(PAPERS) == len(published.RECIPES)
    for name, recipe in PAPERS.items():
        base, data = name.split("-")
        assert RECIPES[base].model == recipe.model and not RECIPES[base].source, name
        folder = recipe.data.removeprefix("./").replace("-", "")
        assert data in folder or folder in data, (name, recipe.data)
        assert recipe.data.startswith("./") or recipe.data in names()


@pytest.mark.parametrize("name", PAPERS)
def test_the_model_of_the_papers_size_can_be_built(name: str) -> None:
    recipe = PAPERS[name]
    model = build(recipe)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert sum(buffer.nbytes for buffer in model.buffers() if not buffer.is_meta) < 2**20
    assert isinstance(model, AdversarialModel) or not recipe.adversarial
    assert optimizers(recipe)
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@pytest.mark.parametrize(
    ("name", "parts", "millions"),
    [
        ("pixelcnnpp-cifar10", "", 53.0),  # Child 2021, its table of results
        ("vdvae-cifar10", "", 39.0),  # Child 2021
        ("image_gpt-imagenet32", "", 76.0),  # Chen et al. 2020, section 3.2
        ("progressive_gan-celebahq", "generator", 23.1),  # Karras et al. 2018, table 2
        ("progressive_gan-celebahq", "discriminator", 23.1),
        ("stylegan-ffhq", "generator", 26.2),  # Karras et al. 2019, section 2
        ("stylegan2-ffhq", "generator", 30.4),  # printed by the authors' code
        ("stylegan2-ffhq", "discriminator", 29.0),
        ("image_to_image-facades", "generator", 54.4),  # printed by the authors' code
        ("image_to_image-facades", "discriminator", 2.77),
    ],
)
def test_networks_have_as_many_weights_as_the_papers_say(name: str, parts: str, millions: float) -> None:
    assert count(build(PAPERS[name]).get_submodule(parts)) == pytest.approx(millions * 1e6, rel=0.02)


def test_dense_networks_have_the_papers_layers() -> None:
    def dense(*widths: int) -> int:
        return sum(a * b + b for a, b in pairwise(widths))

    assert count(build(PAPERS["nade-mnist"])) == 2 * 784 * 500 + 500 + 784
    assert count(build(PAPERS["made-mnist"])) == dense(784, 8000, 8000, 784)
    assert count(build(PAPERS["autoencoder-mnist"])) == dense(784, 1000, 500, 250, 30) + dense(30, 250, 500, 1000, 784)
    assert count(build(PAPERS["gan-mnist"])) == dense(100, 1200, 1200, 784) + dense(784, 1200, 1200, 1)


@pytest.mark.parametrize("name", [name for name, published_ in PUBLISHED.items() if published_.figure])
def test_figures_agree_with_those_beside_the_small_recipes(name: str) -> None:
    papers = [recipe for recipe in PAPERS.values() if recipe.name.split("-")[0] == name.split("-")[0]]
    (address,) = re.findall(r"\((https://[^)]+)\)", PUBLISHED[name].source)
    assert any(recipe.expected == PUBLISHED[name].figure and address in recipe.source for recipe in papers)


@pytest.mark.parametrize("name", PAPERS)
def test_a_figure_has_a_source_with_an_address(name: str) -> None:
    recipe = PAPERS[name]
    assert re.search(r"\b(19|20)\d\d\b.*https://", recipe.source)
    assert not recipe.expected or re.search(r"\d", recipe.expected)
    assert "\n" not in recipe.summary + recipe.source + recipe.expected


def test_no_small_recipe_claims_a_figure() -> None:
    assert not any(recipe.expected for name, recipe in RECIPES.items() if name not in PAPERS)


def test_a_run_goes_on_with_another_word_about_its_paper(tmp_path: Path) -> None:
    recipe = RECIPES["pixelcnnpp-digits"].override(["config.n_filters=4,4,4", "workers=0"])
    train(recipe.replace(steps=1), tmp_path, device="cpu", progress=False)
    told = recipe.replace(steps=2, expected="1 bit/dim", source="another paper")
    assert train(told, tmp_path, resume=True, device="cpu", progress=False).step == 2


def test_a_recipe_written_before_there_were_figures_is_read() -> None:
    values = PAPERS["pixelcnnpp-cifar10"].to_json()
    del values["expected"], values["source"]
    assert Recipe.from_json(values).expected == ""


def test_data_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("stylegan2-ffhq", "cyclegan-horse2zebra", "wavenet-vctk"):
        with pytest.raises(FileNotFoundError, match=PAPERS[name].data.removeprefix("./")):
            load_data(PAPERS[name])


def test_rates_end_where_the_papers_do() -> None:
    iwae = PAPERS["iwae-mnist"]
    assert iwae.steps is not None
    assert iwae.learning_rate(iwae.steps, 1.0) == pytest.approx(1e-4)
    assert PAPERS["super_resolution-celeba"].learning_rate(500_000, 0.25) == pytest.approx(2e-4)
    assert PAPERS["gan-mnist"].learning_rate(540, 0.0) == pytest.approx(0.1 * 1.000004**-540)
    assert PAPERS["stylegan2-ffhq"].ema_decay == pytest.approx(1 - 32 * math.log(2) / 10_000, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "phase", "kind", "settings"),
    [
        ("pixelcnnpp-cifar10", "", "Adam", {"lr": 1e-3, "betas": (0.95, 0.9995)}),
        ("vdvae-cifar10", "", "AdamW", {"lr": 2e-4, "betas": (0.9, 0.9), "weight_decay": 0.01}),
        ("gan-mnist", "generator", "SGD", {"lr": 0.1, "momentum": 0.5}),
        ("dcgan-lsun", "discriminator", "Adam", {"lr": 2e-4, "betas": (0.5, 0.999)}),
        ("wgan-lsun", "discriminator", "RMSprop", {"lr": 5e-5, "alpha": 0.99}),
        ("wgangp-cifar10", "generator", "Adam", {"lr": 1e-4, "betas": (0.5, 0.9)}),
        ("stylegan-ffhq", "generator_1024x1024", "Adam", {"lr": 3e-3, "betas": (0.0, 0.99)}),
        ("energy-cifar10", "", "Adam", {"lr": 1e-4, "betas": (0.0, 0.999)}),
    ],
)
def test_optimisers_are_those_of_the_papers(name: str, phase: str, kind: str, settings: dict[str, Any]) -> None:
    found = optimizers(PAPERS[name])
    optimizer = found[phase] if phase else next(iter(found.values()))
    assert type(optimizer).__name__ == kind
    assert {key: optimizer.defaults[key] for key in settings} == settings


def test_the_list_has_small_recipes_first_and_then_papers() -> None:
    (_, small), (title, papers) = listing.by_kind().items()
    assert "papers" in title and papers == PAPERS
    assert [*small, *papers] == list(RECIPES)
