"""Runs on two domains: exact resume with pools and noise, what the data decides, learning."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgen.data import ImagePairs, TensorImages, TwoDomainImages
from fastgen.models import CycleGAN, ImageToImage
from fastgen.models.serialization import load
from fastgen.training.build import load_data
from fastgen.training.checkpoint import read_checkpoint
from fastgen.training.loop import train
from fastgen.training.recipes import Recipe

StopAfter = Callable[[int], Callable[[], bool]]
Data = tuple[TwoDomainImages, TwoDomainImages]

I2I = {"n_filters": [4, 6], "discriminator_filters": [4]}
CYCLE = {"n_filters": 4, "n_blocks": 1, "discriminator_filters": [4], "pool_size": 6}


def images(n: int, seed: int, channels: int, bright: bool) -> TensorImages:
    """Stripes in noise, bright on dark or dark on bright."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 60, (n, channels, 8, 8), generator=generator, dtype=torch.uint8)
    stripes = (torch.arange(8) % 2 * 150).to(torch.uint8)
    x = noise + stripes
    return TensorImages("stripes", x if bright else 255 - x, torch.full((n,), -1))


@pytest.fixture(scope="module")
def paired() -> Data:
    """The second domain is the first in negative and in three channels."""

    def pairs(n: int, seed: int) -> ImagePairs:
        a = images(n, seed, 1, True)
        b = TensorImages("negative", 255 - a.tensors()[0].expand(-1, 3, -1, -1), a.tensors()[1])
        return ImagePairs("negatives", ("positive", "negative"), a, b, paired=True)

    return pairs(20, 0), pairs(8, 1)


@pytest.fixture(scope="module")
def unpaired() -> Data:
    """Two sets of unequal sizes."""
    train_set = ImagePairs(
        "two", ("bright", "dark"), images(7, 0, 1, True), images(12, 1, 1, False), paired=False, rounds=3
    )
    held_out = ImagePairs("two", ("bright", "dark"), images(6, 2, 1, True), images(5, 3, 1, False), paired=False)
    return train_set, held_out


def recipe(model: str, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "config": I2I if model == "ImageToImage" else CYCLE,
        "batch_size": 4,
        "steps": 7,
        "lr": 2e-3,
        "ema_decay": 0.8,
        "checkpoint_interval": 100,
        "log_interval": 1,
    }
    return Recipe(name="tiny", data="none", model=model, **{**values, **changes})


def tensors(folder: Path) -> dict[str, Tensor]:
    return read_checkpoint(folder / "checkpoint.safetensors").tensors


@pytest.mark.parametrize(
    ("model", "adversarial"),
    [
        ("ImageToImage", {"augment": "translation", "r1": 0.1, "r1_interval": 2}),
        ("CycleGAN", {}),
        ("CycleGAN", {"d_steps": 2, "loss": "relativistic_average", "augment": "color,cutout"}),
    ],
)
def test_a_stopped_run_resumes_bit_for_bit(
    model: str, adversarial: dict[str, Any], paired: Data, unpaired: Data, tmp_path: Path, stop_after: StopAfter
) -> None:
    data = paired if model == "ImageToImage" else unpaired
    r = recipe(model, adversarial=adversarial)
    train(r, tmp_path / "whole", data=data, progress=False)
    assert train(r, tmp_path / "parts", data=data, progress=False, should_stop=stop_after(3)).step == 3
    torch.manual_seed(99)
    torch.rand(17)
    train(r, tmp_path / "parts", data=data, progress=False, resume=True)
    mine, theirs = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    pools = {name for name in mine if name.startswith("state/pool")}
    if model == "CycleGAN":
        assert pools == {f"state/pool_{letter}/{key}" for letter in "ab" for key in ("images", "held")}
        assert int(mine["state/pool_a/held"]) == 6
        assert all(float(image.abs().sum()) > 0 for image in mine["state/pool_b/images"])
    else:
        assert not pools


@pytest.mark.parametrize("model", ["ImageToImage", "CycleGAN"])
def test_channels_and_names_of_the_domains_come_from_the_data(
    model: str, paired: Data, unpaired: Data, tmp_path: Path
) -> None:
    data = paired if model == "ImageToImage" else unpaired
    result = train(recipe(model, steps=2), tmp_path, data=data, progress=False)
    found: Any = result.model
    assert found.domains == data[0].domains and found.domain_channels == data[0].domain_channels
    assert result.after is not None and all(math.isfinite(value) for value in result.after.others.values())
    names = list(result.after.others)
    if model == "CycleGAN":
        distances = [f"sliced_distance{rest}" for rest in ("", "_to_bright", "_to_dark")]
        assert names == [*distances, "untranslated", "cycle_error"]
    else:
        assert names == ["l1", "psnr", "sliced_distance", "logit_real", "logit_fake"]
    with pytest.raises(ValueError, match=r"config.domains comes from the data"):
        load_data(recipe(model, config={"domains": ["x", "y"]}))


def test_data_and_model_must_fit(paired: Data, unpaired: Data, tmp_path: Path) -> None:
    single = images(8, 0, 1, True)
    with pytest.raises(ValueError, match="CycleGAN takes pairs of images of two domains; got images of one; set"):
        train(recipe("CycleGAN"), tmp_path / "a", data=(single, single), progress=False)
    with pytest.raises(ValueError, match="DCGAN takes images of one domain; got pairs of images of two domains"):
        train(recipe("DCGAN", config={"n_filters": [4]}), tmp_path / "b", data=paired, progress=False)
    with pytest.raises(ValueError, match="got 1 of 'positive' and 3 of 'negative'; set identity_weight=0"):
        train(recipe("CycleGAN"), tmp_path / "c", data=paired, progress=False)
    with pytest.raises(ValueError, match="'mnist5k-bold' must have pairs that show the same"):
        load_data(recipe("ImageToImage").replace(data="mnist5k-bold"))
    apart = load_data(recipe("CycleGAN").replace(data="photos-gray", size=16))
    assert all(not each.paired for each in apart if isinstance(each, TwoDomainImages))


@pytest.mark.parametrize("model", ["ImageToImage", "CycleGAN"])
def test_bfloat16_trains(model: str, paired: Data, unpaired: Data, tmp_path: Path) -> None:
    data = paired if model == "ImageToImage" else unpaired
    result = train(recipe(model, steps=3, precision="bfloat16"), tmp_path, data=data, progress=False)
    assert all(p.dtype == torch.float32 for p in result.model.parameters())
    assert all(bool(torch.isfinite(p).all()) for p in result.model.parameters())


def test_negatives_are_learned_from_pairs(paired: Data, tmp_path: Path) -> None:
    r = recipe("ImageToImage", steps=120, lr=5e-3, config={**I2I, "n_filters": [8, 8]}, ema_decay=0.9)
    result = train(r, tmp_path, data=paired, progress=False)
    assert result.after is not None and isinstance(result.model, ImageToImage)
    assert result.after.others["l1"] < 0.35 * result.before.others["l1"]
    assert result.after.others["psnr"] > result.before.others["psnr"] + 6


def test_the_averaged_generator_ends_with_statistics_of_its_own(paired: Data, tmp_path: Path) -> None:
    """Batch norms of the U-Net are those of what runs through the averaged weights over the training images."""
    r = recipe("ImageToImage", config={**I2I, "n_filters": [4, 6, 6], "dropout": 0.0})
    result = train(r, tmp_path, data=paired, progress=False)
    model: Any = result.model
    norm = model.generator.down[1][-1]
    seen: list[Tensor] = []
    norm.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0]))
    with torch.no_grad():
        for start in range(0, 20, 4):
            model.generator(paired[0].tensors()[0][start : start + 4, :1] / 127.5 - 1)
    means = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(norm.running_mean, means, rtol=1e-4, atol=1e-5)


def test_a_cycle_is_learned_without_pairs(unpaired: Data, tmp_path: Path) -> None:
    result = train(recipe("CycleGAN", steps=40, lr=3e-3, ema_decay=0.9), tmp_path, data=unpaired, progress=False)
    assert result.after is not None and isinstance(result.model, CycleGAN)
    before, after = result.before.others, result.after.others
    assert after["cycle_error"] < 0.6 * before["cycle_error"]


def test_pictures_over_training_show_source_translation_and_target(paired: Data, tmp_path: Path) -> None:
    train(recipe("ImageToImage", sample_grid=3, steps=2), tmp_path, data=paired, device="cpu", progress=False)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["step-0.png", "step-2.png"]
    model = load(tmp_path / "model.safetensors").eval()
    assert isinstance(model, ImageToImage)
    pairs, _ = paired[0].batch(torch.arange(3))
    rows = model.preview(pairs)
    assert rows.shape == (3, 3, 3, 8, 8)
    assert torch.equal(rows[:, 0], pairs[:, :1].expand(-1, 3, -1, -1))
    assert torch.equal(rows[:, 1], model.translate(pairs[:, :1]))
    assert torch.equal(rows[:, 2], pairs[:, 1:])
