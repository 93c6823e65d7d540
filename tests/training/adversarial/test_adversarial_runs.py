"""Adversarial runs: batches of every turn, exact resume, averages, divergence, pictures over training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgen.data import TensorImages, batch_indices, read_image
from fastgen.models import DCGAN
from fastgen.models.adversarial import AdversarialModel
from fastgen.models.base import Terms
from fastgen.models.serialization import load
from fastgen.training.build import build_model
from fastgen.training.checkpoint import read_checkpoint
from fastgen.training.log import read_log
from fastgen.training.loop import train
from fastgen.training.recipes import Recipe
from fastgen.training.run import CHECKPOINT, LOG, MODEL

StopAfter = Callable[[int], Callable[[], bool]]
Data = tuple[TensorImages, TensorImages]

EVERYTHING = {
    "loss": "relativistic_average",
    "d_steps": 2,
    "r1": 0.5,
    "r1_interval": 3,
    "path_length": 0.1,
    "path_length_interval": 2,
    "augment": "color,translation,cutout",
    "augment_p": 0.2,
    "ada_target": 0.1,
    "ada_images": 500,
}


@pytest.fixture(scope="module")
def data() -> Data:
    """Class 0 has bright rows, class 1 bright columns."""

    def images(n: int, seed: int) -> TensorImages:
        labels = torch.arange(n) % 2
        stripes = (torch.arange(8) % 2 * 200).to(torch.uint8).expand(8, 8)
        x = torch.where(labels[:, None, None] == 0, stripes.T, stripes)
        noise = torch.randint(0, 9, (n, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
        return TensorImages("stripes", (x + noise)[:, None], labels, ("rows", "columns"))

    return images(30, 0), images(10, 1)


def recipe(model: str = "DCGAN", **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "config": {"latent_dim": 6, "n_filters": [4, 8]},
        "batch_size": 4,
        "steps": 7,
        "lr": 2e-3,
        "ema_decay": 0.8,
        "checkpoint_interval": 100,
        "log_interval": 1,
    }
    return Recipe(name="tiny", data="none", model=model, **{**values, **changes})


def tensors(folder: Path) -> dict[str, Tensor]:
    return read_checkpoint(folder / CHECKPOINT).tensors


@pytest.mark.parametrize(
    ("model", "config", "adversarial", "conditional"),
    [
        ("DCGAN", {}, EVERYTHING, False),
        ("ConditionalGAN", {"discriminator_norm": "spectral"}, {"d_steps": 3}, True),
        ("InfoGAN", {"hidden": 8}, {}, False),
        ("BEGAN", {"hidden": 8}, {"d_steps": 2}, False),
        ("WGANGP", {}, {"gradient_penalty_interval": 2}, False),
    ],
)
def test_a_stopped_run_resumes_bit_for_bit(
    model: str,
    config: dict[str, Any],
    adversarial: dict[str, Any],
    conditional: bool,
    data: Data,
    tmp_path: Path,
    stop_after: StopAfter,
) -> None:
    config = {"latent_dim": 6, "n_filters": [4, 8], **config}
    r = recipe(model, config=config, adversarial=adversarial, conditional=conditional)
    train(r, tmp_path / "whole", data=data, progress=False)
    stopped = train(r, tmp_path / "parts", data=data, progress=False, should_stop=stop_after(3))
    assert stopped.step == 3
    torch.manual_seed(99)
    torch.rand(17)
    train(r, tmp_path / "parts", data=data, progress=False, resume=True)
    mine, theirs = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    d_steps = adversarial.get("d_steps", 5 if model == "WGANGP" else 1)
    assert int(mine["state/adversarial/images_seen"]) == 7 * d_steps * 4
    if adversarial is EVERYTHING:
        assert float(mine["state/adversarial/augment_p"]) != pytest.approx(0.2)
        assert float(mine["state/adversarial/path_length"]) > 0


def test_every_turn_has_a_batch_of_its_own_that_the_step_decides(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: StopAfter
) -> None:
    seen: dict[str, list[Tensor]] = {"tell_apart": [], "deceive": []}
    for name, batches in seen.items():
        original = getattr(AdversarialModel, name)

        def spy(self: Any, rules: Any, x: Tensor, cond: Any, original: Any = original, batches: Any = batches) -> Terms:
            batches.append(x.clone())
            terms: Terms = original(self, rules, x, cond)
            return terms

        monkeypatch.setattr(AdversarialModel, name, spy)
    train(recipe(adversarial={"d_steps": 3}), tmp_path, data=data, progress=False, should_stop=stop_after(2))
    train(recipe(adversarial={"d_steps": 3}, steps=4), tmp_path, data=data, progress=False, resume=True)
    images = data[0].tensors()[0]
    expected = [images[batch_indices(30, 4, k, 0)] for k in range(12)]
    assert all(torch.equal(a, b) for a, b in zip(seen["tell_apart"], expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(seen["deceive"], expected[::3], strict=True))


def test_the_average_smooths_the_generator_and_holds_the_latest_discriminator(data: Data, tmp_path: Path) -> None:
    train(recipe(), tmp_path, data=data, progress=False)
    saved, found = read_checkpoint(tmp_path / CHECKPOINT), load(tmp_path / MODEL).state_dict()
    names = {name for name, _ in DCGAN(1, 6, (4, 8), image_size=(8, 8)).named_parameters()}
    latest = saved.part("model")
    same = {name for name in names if torch.equal(found[name], latest[name])}
    assert same == {name for name in names if name.startswith("discriminator.")}


def test_the_averaged_generator_ends_with_statistics_of_its_own(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: list[Tensor] = []
    original = AdversarialModel.finish

    def spy(self: Any, batches: Any) -> None:
        before.extend(value.clone() for name, value in self.named_buffers() if name.endswith("running_mean"))
        original(self, batches)

    monkeypatch.setattr(AdversarialModel, "finish", spy)
    result = train(recipe(), tmp_path, data=data, progress=False)
    after = [value for name, value in result.model.named_buffers() if name.endswith("running_mean")]
    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed == [True, True, False]  # two of the generator, one of the discriminator
    assert not any(part.training for part in result.model.modules())


@pytest.mark.parametrize("interval", [1, 3])
def test_a_run_that_diverges_stops_and_keeps_the_checkpoint_before(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interval: int
) -> None:
    calls = iter(range(100))
    original = AdversarialModel.tell_apart

    def spoilt(self: Any, rules: Any, x: Tensor, cond: Any = None) -> Terms:
        terms = original(self, rules, x, cond)
        return {**terms, "loss": terms["loss"] * (math.nan if next(calls) == 9 else 1)}

    monkeypatch.setattr(AdversarialModel, "tell_apart", spoilt)
    r = recipe(adversarial={"d_steps": 2}, checkpoint_interval=interval)
    names = [str(i) for k in (8, 9) for i in batch_indices(30, 4, k, 0).tolist()]
    with pytest.raises(FloatingPointError, match=rf"at step 4, whose batch was {', '.join(names)}; .* is whole"):
        train(r, tmp_path, data=data, progress=False)
    saved = read_checkpoint(tmp_path / CHECKPOINT)
    assert saved.step == 4 - 4 % interval
    assert all(torch.isfinite(value.float()).all() for value in saved.tensors.values())
    monkeypatch.undo()
    assert train(r, tmp_path, data=data, progress=False, resume=True).step == 7


def test_a_wasserstein_critic_without_bounds_diverges_for_real(data: Data, tmp_path: Path) -> None:
    wild = recipe(model="WGAN", adversarial={"clip_weights": 0.0}, lr=1e25)
    with pytest.raises(FloatingPointError, match="lower lr"):
        train(wild, tmp_path, data=data, progress=False)


def test_clipped_weights_stay_clipped(data: Data, tmp_path: Path) -> None:
    result = train(recipe(model="WGAN", steps=2), tmp_path, data=data, progress=False)
    assert isinstance(result.model, DCGAN)
    largest = max(float(p.abs().max()) for p in result.model.discriminator.parameters())
    assert largest == pytest.approx(0.01)


def test_bfloat16_trains(data: Data, tmp_path: Path) -> None:
    r = recipe(precision="bfloat16", adversarial={"r1": 0.1, "path_length": 0.1, "augment": "color"})
    result = train(r, tmp_path, data=data, progress=False)
    assert result.after is not None and math.isfinite(result.after.others["sliced_distance"])
    assert all(p.dtype == torch.float32 for p in result.model.parameters())


def test_the_log_names_the_players_and_the_penalties(data: Data, tmp_path: Path) -> None:
    train(recipe(adversarial={"r1": 0.1, "r1_interval": 2}, steps=4), tmp_path, data=data, progress=False)
    lines = [line for line in read_log(tmp_path / LOG) if line["event"] == "train"]
    assert [("r1" in line) for line in lines] == [True, False, True, False]
    assert {"discriminator_loss", "generator_loss", "logit_real", "logit_fake"} < lines[0].keys()


def test_pictures_over_training_show_the_same_codes(data: Data, tmp_path: Path) -> None:
    r = recipe("ConditionalGAN", conditional=True, eval_interval=3, sample_grid=6)
    result = train(r, tmp_path, data=data, progress=False)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        f"step-{step}.png" for step in (0, 3, 6, 7)
    ]
    grid = read_image(tmp_path / "samples" / "step-7.png", channels=1)
    drawn = result.model.sample(6, seed=0, cond=torch.tensor([0, 1, 0, 1, 0, 1]))
    tile = grid[:, 2:66, 2:66]
    assert torch.equal(tile[:, ::8, ::8], drawn[0])
    assert grid.shape[2] == 2 * 66 + 2  # a column a class


def test_pictures_are_refused_where_there_are_none() -> None:
    points = TensorImages("points", torch.zeros(8, 2, 1, 1, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64))
    r = recipe("GAN", config={}, sample_grid=4)
    with pytest.raises(ValueError, match="sample_grid shows pictures of 1 or 3 channels; GAN draws 2 channels"):
        train(r, "unused", data=(points, points), progress=False)


def test_adversarial_options_are_set_one_by_one_and_refused_elsewhere(data: Data, tmp_path: Path) -> None:
    r = recipe().override(["adversarial.loss=hinge", "adversarial.augment=color,cutout", "adversarial.r1=0.5"])
    assert r.adversarial == {"loss": "hinge", "augment": "color,cutout", "r1": 0.5}
    assert Recipe.from_json(json.loads(json.dumps(r.to_json()))) == r
    with pytest.raises(ValueError, match=r"adversarial options are of adversarial models; FVSBN is none; leave adv"):
        build_model(r.replace(model="FVSBN", config={}), (1, 8, 8), 0)
    train(recipe(steps=2), tmp_path, data=data, progress=False)
    with pytest.raises(ValueError, match=r"adversarial was \{\}, is \{'r1': 0.5\}"):
        train(recipe(steps=2, adversarial={"r1": 0.5}), tmp_path, data=data, progress=False, resume=True)
