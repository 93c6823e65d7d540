"""The table of what the recipes reach: newest records, beside the literature."""

from __future__ import annotations

from typing import Any

import pytest

from bench import recipes
from fastgen.training import RECIPES
from fastgen.training.recipes import adversarial, autoencoders, autoregressive, translation


def record(name: str, nats: float, **changes: Any) -> dict[str, Any]:
    held_out = {"images": 500, "dims": 784, "nats": nats, "bits_per_dim": nats / 543.4, "stderr": 0.01}
    settings = {"parameters": 12_345, "steps": 2_000, "batch_size": 50, "train_items": 4_500}
    data = {"data": "mnist5k", "shape": [1, 28, 28], "levels": 2}
    return {"recipe": name, **settings, **data, "held_out": held_out, **changes}


def test_the_table_has_the_newest_record_of_each_recipe_in_the_order_of_the_list() -> None:
    table = recipes.table([record("nade", 99.0), record("nade", 92.0), record("fvsbn", 101.0)])
    rows = table.splitlines()[2:]
    assert [line.split("|")[1].strip() for line in rows] == ["`fvsbn`", "`nade`"]
    assert "92.0 nats (0.17 ± 0.01 bits/dim)" in rows[1] and "88.33 nats" in rows[1] and "99.0" not in table
    assert "12 thousand weights, 2,000 steps of 50; 4,500 of `mnist5k` at 28x28 in 2 levels" in rows[1]


def test_nats_are_shown_for_binary_images_only() -> None:
    gray = recipes.table([record("pixelcnnpp", 600.0, levels=256)])
    assert "1.10 ± 0.01 bits/dim |" in gray and "600.0 nats" not in gray


def test_a_model_without_density_shows_its_own_figure() -> None:
    held_out = {"images": 500, "dims": 784, "stderr": 0.0012, "denoised_mse": 0.0321, "mse": 0.01}
    table = recipes.table([{**record("denoising_autoencoder", 0.0), "held_out": held_out}])
    assert "| denoised mse 0.0321 ± 0.0012 | none |" in table


def test_an_adversarial_model_shows_its_distance_and_the_modes_it_found() -> None:
    held_out = {"images": 500, "dims": 784, "stderr": 0.0, "sliced_distance": 0.0812, "logit_real": 1.0}
    modes = {"counts": [90, 8, 2], "found": 2, "divergence": 0.3, "confidence": 0.9}
    table = recipes.table([{**record("dcgan", 0.0), "held_out": held_out, "modes": modes}])
    assert "| sliced distance 0.0812; 2 of 3 modes | none |" in table


def test_every_recipe_has_a_row_or_needs_other_data() -> None:
    families = (*autoregressive.RECIPES, *autoencoders.RECIPES, *adversarial.RECIPES, *translation.RECIPES)
    small = {recipe.name for recipe in families if recipe.steps and recipe.steps <= 3_000}
    assert small - {"pixelcnnpp-digits"} <= set(recipes.PUBLISHED) <= set(RECIPES)


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        recipes.main(["nad"])
    assert "unknown recipe 'nad'" in capsys.readouterr().err


def test_a_run_records_what_the_table_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    short = RECIPES["pixelcnnpp-digits"].replace(steps=2)
    monkeypatch.setitem(RECIPES, "pixelcnnpp", short)
    found = recipes.run("pixelcnnpp")
    assert (found["data"], found["shape"], found["steps"]) == ("digits", [1, 8, 8], 2)
    assert "`digits` at 8x8 in 256 levels" in recipes.table([found])
