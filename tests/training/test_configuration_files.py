"""A file of a recipe's fields: the same run as by flags, and every mistake named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastgen.cli.train import _recipe
from fastgen.training.recipes import get_recipe, read_config

TOML = """
recipe = "mnist5k-demo"
lr = 1
betas = [0.8, 0.95]
steps = 50
size = [32, 48]
clip_norm = 2.5

[config]
n_mix = 5
"""


def write(folder: Path, text: str, name: str = "a.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_fields_are_those_that_flags_would_set(tmp_path: Path) -> None:
    by_file = _recipe(None, write(tmp_path, TOML))
    flags = ["lr=1", "betas=0.8,0.95", "steps=50", "size=32x48", "clip_norm=2.5", "config.n_mix=5"]
    assert by_file == get_recipe("mnist5k-demo").override(flags)
    assert isinstance(by_file.lr, float) and by_file.seconds is None


def test_a_file_needs_no_recipe_and_takes_its_name(tmp_path: Path) -> None:
    path = write(tmp_path, 'data = "digits"\nmodel = "NADE"\nlevels = 2\nseconds = 5\n', "mine.toml")
    recipe = _recipe(None, path)
    assert (recipe.name, recipe.data, recipe.model, recipe.levels) == ("mine", "digits", "NADE", 2)
    assert (recipe.steps, recipe.seconds) == (None, 5.0)


def test_the_recipe_of_a_run_starts_the_same_run(tmp_path: Path) -> None:
    recipe = get_recipe("dcgan").override(["adversarial.r1=2", "config.latent_dim=8"])
    path = write(tmp_path, json.dumps(recipe.to_json()), "recipe.json")
    assert _recipe(None, path) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe = 'mnist5k-demo'\nbatchsize = 3", "unknown recipe key 'batchsize'; did you mean batch_size"),
        ("recipe = 'mnist5k-demo'\nlr = 'fast'", "recipe key lr: expected float; got 'fast'"),
        ("recipe = 'mnist5k-demo'\nlr = true", "recipe key lr: expected float; got True"),
        ("recipe = 'mnist5k-demo'\nbatch_size = 1.5", "recipe key batch_size: expected int; got 1.5"),
        ("recipe = 'mnist5k-demo'\nschedule = 'cosin'", "recipe key schedule: expected constant or exponential"),
        ("recipe = 'mnist5k-demo'\nbetas = [0.1]", r"recipe key betas: expected float,float; got \[0.1\]"),
        ("recipe = 'mnist5k-demo'\nconfig = 3", "recipe key config: expected a table of values; got 3"),
        ("recipe = 'mnist5k-dem'", "unknown recipe 'mnist5k-dem'; did you mean mnist5k-demo"),
        ("lr = 1e-3", "give recipe, or data and model, in"),
        ("lr = ", "must be TOML, or JSON if so named"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _recipe(None, write(tmp_path, text))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config: no file .*missing.toml"):
        read_config(tmp_path / "missing.toml")
    with pytest.raises(ValueError, match="must hold a table of keys and values; got a list"):
        read_config(write(tmp_path, "[1, 2]", "a.json"))
    with pytest.raises(ValueError, match="starts from recipe 'mnist5k-demo', the command from 'dcgan'"):
        _recipe("dcgan", write(tmp_path, TOML))
    assert _recipe("mnist5k-demo", write(tmp_path, TOML)).steps == 50


def test_a_config_key_that_the_model_does_not_know_is_refused_before_training(tmp_path: Path) -> None:
    from fastgen.training.build import build_model

    recipe = _recipe(None, write(tmp_path, TOML + "n_mixes = 3\n"))
    with pytest.raises(ValueError, match="unknown PixelCNNPP config key 'n_mixes'; did you mean n_mix"):
        build_model(recipe, (1, 32, 48), 10)
