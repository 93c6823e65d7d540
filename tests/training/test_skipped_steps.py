"""Steps whose gradient is too large are left out whole, and counted; phases of one model come one after another."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fastgen.data import TensorImages
from fastgen.training import train
from fastgen.training.recipes import Recipe

Data = tuple[TensorImages, TensorImages]


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_step_above_skip_norm_moves_nothing(recipe: Recipe, data: Data, tmp_path: Path) -> None:
    """Up to the smallest norm that the first weights have all steps are left out, and that one is taken."""
    recipe = dataclasses.replace(recipe, seed=1, log_interval=1, steps=8, warmup_steps=0, checkpoint_interval=1)
    every = train(recipe, tmp_path / "every", data=data, progress=False)
    assert "skipped" not in lines(tmp_path / "every")[1]
    never = train(dataclasses.replace(recipe, skip_norm=1e6), tmp_path / "never", data=data, progress=False)
    for name, value in every.model.state_dict().items():
        assert torch.equal(value, never.model.state_dict()[name])
    none = train(dataclasses.replace(recipe, skip_norm=1e-6), tmp_path / "none", data=data, progress=False)
    norms = [line["grad_norm"] for line in lines(tmp_path / "none") if line["event"] == "train"]
    assert none.step == 8 and min(norms) < norms[0]
    bound = min(norms)
    train(dataclasses.replace(recipe, skip_norm=bound), tmp_path / "some", data=data, progress=False)
    told = [line for line in lines(tmp_path / "some") if line["event"] == "train"]
    assert [line["skipped"] for line in told] == [float(line["grad_norm"] > bound) for line in told]
    smallest = norms.index(bound)
    assert [line["skipped"] for line in told[: smallest + 1]] == [*[1.0] * smallest, 0.0]
    taken = int(sum(1 - line["skipped"] for line in told))
    tensors = load_file(tmp_path / "some" / "checkpoint.safetensors")
    steps = {int(value) for name, value in tensors.items() if name.startswith("optimizer/") and name.endswith("/step")}
    assert steps == {taken}


def test_nothing_but_skipped_steps_leaves_the_weights(recipe: Recipe, data: Data, tmp_path: Path) -> None:
    recipe = dataclasses.replace(recipe, skip_norm=1e-9, steps=3)
    train(recipe, tmp_path / "a", data=data, progress=False)
    train(dataclasses.replace(recipe, steps=1, skip_norm=1e-9), tmp_path / "b", data=data, progress=False)
    a, b = (load_file(tmp_path / run / "checkpoint.safetensors") for run in "ab")
    weights = [name for name in a if name.startswith("model/")]
    assert weights and all(torch.equal(a[name], b[name]) for name in weights)
    assert [line["skipped"] for line in lines(tmp_path / "a") if line["event"] == "train"] == [1.0, 1.0]


def test_refuses_a_norm_that_is_none() -> None:
    with pytest.raises(ValueError, match="skip_norm must be positive and finite; got 0"):
        Recipe(name="x", data="none", model="VDVAE", steps=1, skip_norm=0.0)


def test_a_prior_learns_when_the_autoencoder_is_done(recipe: Recipe, data: Data, tmp_path: Path) -> None:
    prior = {"n_layers": 1, "n_filters": 4, "kernel_size": 3, "first_kernel_size": 3, "head_filters": 4}
    config = {"n_filters": 6, "n_codes": 4, "code_dim": 2, "n_residual": 0, "residual_filters": 2, "prior": prior}
    recipe = dataclasses.replace(
        recipe, model="VQVAE", config=config, steps=6, log_interval=1, checkpoint_interval=3, levels=256
    )
    stop = iter([False] * 3 + [True])
    train(recipe, tmp_path / "run", data=data, progress=False, should_stop=lambda: next(stop))
    half = load_file(tmp_path / "run" / "checkpoint.safetensors")
    train(recipe, tmp_path / "run", data=data, progress=False, resume=True)
    whole = load_file(tmp_path / "run" / "checkpoint.safetensors")
    moved = {name for name, value in whole.items() if name.startswith("model/") and not torch.equal(value, half[name])}
    late = {name for name in whole if name.startswith("model/priors.")}
    assert moved and moved <= late
    told = [set(line) for line in lines(tmp_path / "run") if line["event"] == "train"]
    assert all("autoencoder_loss" in keys and "prior_loss" not in keys for keys in told[:3])
    assert all("prior_loss" in keys and "autoencoder_loss" not in keys for keys in told[3:])
