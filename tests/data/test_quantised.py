"""Fewer levels than 256: what a level becomes, and who trains on it."""

from __future__ import annotations

import types

import pytest
import torch

from fastgen.data import load, loader
from fastgen.training.build import build_model, load_data, load_for_model
from fastgen.training.recipes import RECIPES


def test_those_in_memory_are_read_without_workers() -> None:
    data = load("mnist5k", split="train", levels=2)
    assert data.in_memory and isinstance(loader(data, 4, workers=2), types.GeneratorType)


@pytest.mark.parametrize("levels", [2, 3, 32, 255])
def test_levels_are_equal_parts_of_256(levels: int) -> None:
    plain, few = load("mnist5k", limit=50), load("mnist5k", limit=50, levels=levels)
    (images, labels), (quantised, same) = plain.tensors(), few.tensors()
    assert quantised.dtype == torch.uint8
    assert few.levels == levels
    assert torch.equal(quantised, torch.floor(images.double() * levels / 256).to(torch.uint8))
    assert quantised.min() == 0
    assert quantised.max() == levels - 1
    assert torch.equal(labels, same)
    assert (few.name, few.image_shape, few.class_names, len(few)) == ("mnist5k", (1, 28, 28), plain.class_names, 50)
    assert torch.equal(few[3][0], quantised[3])
    assert few[-1][1] == labels[-1]
    assert torch.equal(few.batch(torch.tensor([7, 0]))[0], quantised[[7, 0]])


def test_two_levels_are_a_threshold_at_128() -> None:
    images, binary = load("mnist5k", limit=50).tensors()[0], load("mnist5k", limit=50, levels=2).tensors()[0]
    assert torch.equal(binary, (images >= 128).to(torch.uint8))
    first, _ = next(loader(load("mnist5k", levels=2), 8, seed=0))
    assert first.unique().tolist() == [0, 1]


def test_all_levels_are_the_images_themselves() -> None:
    assert type(load("mnist5k", limit=2, levels=256)) is type(load("mnist5k", limit=2))


@pytest.mark.parametrize("levels", [1, 257, 2.0, True])
def test_other_levels_are_refused(levels: object) -> None:
    with pytest.raises(ValueError, match=r"load: levels must be an int in 2\.\.256"):
        load("mnist5k", levels=levels)


@pytest.mark.parametrize("name", ["fvsbn", "nade", "made"])
def test_recipes_of_binary_images_fit_their_data(name: str) -> None:
    recipe = RECIPES[name].override(["size=8", *(["config.n_hidden=5"] if name == "nade" else [])])
    train, held_out = load_data(recipe)
    model = build_model(recipe, train.image_shape, 0)
    assert model.log_prob(train.batch(torch.arange(3))[0]).shape == (3,)
    again = load_for_model(model, recipe.data, split="validation")
    assert torch.equal(again.tensors()[0], held_out.tensors()[0])
    with pytest.raises(ValueError, match=r"levels must be in 2\.\.256; got 1"):
        recipe.override(["levels=1"])
