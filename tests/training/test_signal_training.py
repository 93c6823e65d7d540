"""A model of signals trains, resumes and is evaluated by the loop that images have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fastgen.data import load_audio, write_wav
from fastgen.evaluation import evaluate_bits
from fastgen.models import WaveNet
from fastgen.models.serialization import load
from fastgen.training.build import build_model, load_data, load_for_model
from fastgen.training.checkpoint import read_checkpoint
from fastgen.training.loop import train
from fastgen.training.recipes import Recipe, get_recipe
from fastgen.training.run import CHECKPOINT, MODEL

SMALL = {"n_blocks": 1, "n_filters": 8, "dilations": [1, 2, 4], "skip_filters": 8, "head_filters": 16}


@pytest.fixture
def sounds(recipe: Recipe) -> Recipe:
    """Synthetic notes by timbre, pieces of 48 samples."""
    changes = {"model": "WaveNet", "data": "tones", "size": 48, "config": {**SMALL, "sample_rate": 4000}, "steps": 8}
    return recipe.replace(**changes, conditional=True, checkpoint_interval=3, workers=0)


def test_it_learns_and_the_file_is_the_model(sounds: Recipe, tmp_path: Path) -> None:
    result = train(sounds.replace(steps=60, lr=1e-2), tmp_path, progress=False)
    assert result.after is not None
    assert result.before.bits_per_dim > 7.5  # 256 levels
    assert result.after.bits_per_dim < result.before.bits_per_dim - 0.4
    assert (result.after.images, result.after.dims) == (100, 48)
    loaded = load(tmp_path / MODEL)
    assert isinstance(loaded, WaveNet)
    assert (loaded.size, loaded.n_classes, loaded.sample_rate) == ((48,), 3, 4000)
    held_out = load_for_model(loaded, "tones", split="validation")
    assert evaluate_bits(loaded, held_out, batch_size=8) == result.after
    x, labels = held_out.tensors()
    nats = evaluate_bits(loaded, x, labels).nats
    assert nats == pytest.approx(result.after.nats, rel=1e-6)  # batches of another size


def test_resuming_gives_the_same_bits(sounds: Recipe, tmp_path: Path) -> None:
    train(sounds, tmp_path / "whole", progress=False)
    asked = iter(range(9))
    stopped = train(sounds, tmp_path / "parts", progress=False, should_stop=lambda: next(asked) == 5)
    assert stopped.after is None and stopped.step == 5
    train(sounds, tmp_path / "parts", resume=True, progress=False)
    whole, parts = (read_checkpoint(tmp_path / name / CHECKPOINT) for name in ("whole", "parts"))
    assert whole.step == parts.step == 8
    assert all(torch.equal(whole.tensors[name], parts.tensors[name]) for name in whole.tensors)
    with pytest.raises(ValueError, match=r"size was 48, is 50"):
        train(sounds.replace(size=50), tmp_path / "parts", resume=True, progress=False)


def test_a_series_of_channels_keeps_its_scale(sounds: Recipe, tmp_path: Path) -> None:
    t = np.arange(600.0)
    np.save(tmp_path / "tides.npy", np.stack([3 + 2 * np.sin(t / 5), np.cos(t / 9)], 1))
    config = {
        **SMALL, "encoding": "linear",
        "likelihood": {"name": "DiscretizedLogisticMixture", "channels": 2, "n_mix": 2, "bits": 12},
    }  # fmt: skip
    recipe = sounds.replace(data=str(tmp_path / "tides.npy"), conditional=False, size=30, config=config, steps=4)
    result = train(recipe, tmp_path / "run", progress=False)
    model = load(tmp_path / "run" / MODEL)
    assert isinstance(model, WaveNet)
    assert (model.channels, model.size, model.sample_rate, model.encoding) == (2, (30,), None, "linear")
    assert model.scale is not None and model.scale[0] == pytest.approx((3.0, 2.0), abs=0.01)
    assert load_data(recipe)[0].tensors()[0].dtype == torch.int32
    held_out = load_for_model(model, recipe.data, split="validation")
    assert result.after is not None and evaluate_bits(model, held_out, batch_size=8) == result.after


def test_recordings_in_folders_are_classes(sounds: Recipe, tmp_path: Path) -> None:
    for name, level in (("low", -0.5), ("high", 0.5)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(3):
            write_wav(tmp_path / "set" / name / f"{i}.wav", torch.full((200,), level), 4000)
    recipe = sounds.replace(data=str(tmp_path / "set"), batch_size=4, steps=2)
    result = train(recipe, tmp_path / "run", progress=False)
    assert result.model.n_classes == 2
    expected = load_audio(tmp_path / "set", length=48, sample_rate=4000)
    assert torch.equal(load_data(recipe)[0].tensors()[0], expected.tensors()[0])


def test_what_does_not_fit_is_refused(sounds: Recipe, tmp_path: Path) -> None:
    for changes, message in [
        ({"size": None}, "size is the samples of a signal; got None"),
        ({"size": (3, 4)}, "size is the samples of a signal"),
        ({"config": {"length": 9}}, "config.length comes from the data"),
        ({"config": {"scale": None}}, "config.scale comes from the data"),
        ({"config": {"n_filter": 9}}, "did you mean n_filters"),
        ({"data": "tone"}, "did you mean tones"),
        ({"data": "mnist5k"}, "unknown data set"),
    ]:
        with pytest.raises(ValueError, match=message):
            train(sounds.replace(**changes), tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match=r"WaveNet takes \[C, T\]; got \[1, 8, 8\]"):
        build_model(sounds, (1, 8, 8), 0)
    with pytest.raises(ValueError, match=r"PixelCNNPP takes \[C, H, W\]; got \[1, 48\]"):
        build_model(get_recipe("mnist5k-demo"), (1, 48), 0)
    with pytest.raises(ValueError, match="knows no length"):
        load_for_model(WaveNet(**SMALL), "tones", split="train")
