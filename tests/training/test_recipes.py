"""Recipes: overriding is typed, mistakes name the nearest right key, JSON returns the same recipe."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from fastgen.training.recipes import RECIPES, Recipe, get_recipe

DEMO = get_recipe("mnist5k-demo")


@pytest.mark.parametrize("name", RECIPES)
def test_json_round_trip_is_equal(name: str) -> None:
    recipe = RECIPES[name]
    text = json.dumps(recipe.to_json())
    assert Recipe.from_json(json.loads(text)) == recipe


@pytest.mark.parametrize(
    ("assignment", "field", "value"),
    [
        ("lr=1e-3", "lr", 1e-3),
        ("batch_size=32", "batch_size", 32),
        ("conditional=false", "conditional", False),
        ("clip_norm=none", "clip_norm", None),
        ("clip_norm=2", "clip_norm", 2.0),
        ("betas=0.8,0.95", "betas", (0.8, 0.95)),
        ("size=32", "size", 32),
        ("size=32x48", "size", (32, 48)),
        ("schedule=constant", "schedule", "constant"),
        ("data=/some/folder=1", "data", "/some/folder=1"),
    ],
)
def test_override_parses_the_type_of_the_field(assignment: str, field: str, value: object) -> None:
    got = getattr(DEMO.override([assignment]), field)
    assert got == value
    assert type(got) is type(value)


def test_override_reaches_the_model_and_keeps_the_rest() -> None:
    changed = DEMO.override(["config.n_filters=8,12,16", "config.dropout=0.5", "config.n_mix=5"])
    assert changed.config == {**DEMO.config, "n_filters": [8, 12, 16], "dropout": 0.5, "n_mix": 5}
    assert DEMO.config["n_mix"] == 10


def test_size_survives_json() -> None:
    changed = DEMO.override(["size=32x48"])
    assert Recipe.from_json(changed.to_json()) == changed
    assert changed.image_size == (32, 48)
    assert DEMO.override(["size=32"]).image_size == (32, 32)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("batchsize=3", r"unknown recipe key 'batchsize'; did you mean batch_size"),
        ("config=3", "unknown recipe key 'config'"),
        ("name=x", "unknown recipe key 'name'"),
        ("lr", "an assignment is key=value"),
        ("batch_size=many", "batch_size: expected int; got 'many'"),
        ("betas=0.9", "betas: expected float,float"),
        ("conditional=maybe", "conditional: expected bool"),
        ("schedule=cosin", "schedule: expected constant or exponential or cosine or linear; got 'cosin'"),
        ("steps=1.5", "steps: expected int or none"),
        ("lr=-1", "lr must be positive and finite; got -1"),
        ("lr=nan", "lr must be positive and finite"),
        ("ema_decay=1", r"ema_decay must be in \[0, 1\)"),
        ("batch_size=0", "batch_size must be at least 1"),
        ("lr_final=2", "lr_final is a fraction"),
        ("seconds=none", "exactly one of steps and seconds"),
    ],
)
def test_a_wrong_assignment_says_what_is_right(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DEMO.override([assignment])


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"did you mean .*mnist5k-demo"):
        get_recipe("mnist-demo")


def test_one_budget_replaces_the_other() -> None:
    by_steps = DEMO.replace(steps=7)
    assert (by_steps.steps, by_steps.seconds) == (7, None)
    assert by_steps.override(["seconds=9"]).steps is None
    with pytest.raises(ValueError, match="exactly one of steps and seconds"):
        DEMO.replace(steps=3, seconds=4.0)


def test_cosine_falls_from_lr_to_its_last_fraction() -> None:
    rates = [DEMO.learning_rate(step=1000, progress=progress) for progress in (0.0, 0.5, 1.0, 1.5)]
    assert rates == pytest.approx([6e-3, 6e-3 * 0.51, 6e-3 * 0.02, 6e-3 * 0.02])


def test_warmup_rises_linearly_and_exponential_decays_every_step() -> None:
    constant = DEMO.override(["schedule=constant", "warmup_steps=4", "lr=1"])
    assert [constant.learning_rate(t, 0.0) for t in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    cifar = get_recipe("pixelcnnpp-cifar10")
    assert cifar.learning_rate(100_000, 0.25) == pytest.approx(1e-3 * math.exp(100_000 * math.log(0.999995)))


def test_listing_recipes_imports_no_torch() -> None:
    code = "import sys, fastgen.training.recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
