"""The commands on a model of signals: sounds come out as WAV, series as levels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import fastgen as package
from fastgen.cli import main
from fastgen.data import mu_law_decode, mu_law_encode, read_wav
from fastgen.evaluation import evaluate_bits
from fastgen.training.build import load_for_model

Fastgen = Callable[..., tuple[int, str, str]]
SMALL = [
    f"config.{option}"
    for option in ("n_blocks=1", "n_filters=6", "dilations=1,2,4", "skip_filters=6", "head_filters=12")
]


def train(out: Path, *options: str) -> Path:
    sets = [part for option in (*SMALL, "workers=0", *options) for part in ("--set", option)]
    assert main(["train", "wavenet", "--out", str(out), "--steps", "3", "--quiet", "--device", "cpu", *sets]) == 0
    return out


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on pieces of 40 samples of synthetic notes."""
    return train(tmp_path_factory.mktemp("runs") / "notes", "size=40")


def test_sample_writes_the_sounds_one_after_another(fastgen: Fastgen, notes: Path) -> None:
    code, out, err = fastgen("sample", notes, "-n", 3, "--seed", 5, "--quiet")
    assert (code, err) == (0, "") and "3 signals of 1x40" in out
    sound, rate = read_wav(notes / "samples.wav")
    model = package.load(notes / "model.safetensors")
    levels = model.sample(3, seed=5, cond=[0, 1, 2])
    pause = 2000
    assert rate == 8000 and sound.shape == (1, 3 * 40 + 2 * pause)
    for i in range(3):
        heard = sound[:, i * (40 + pause) : i * (40 + pause) + 40]
        torch.testing.assert_close(heard, mu_law_decode(levels[i]), rtol=0, atol=2 / 65535)
        assert torch.equal(mu_law_encode(heard), levels[i])
    assert sound[:, 40 : 40 + pause].abs().max() < 1e-4


def test_sample_options_reach_the_sampler(fastgen: Fastgen, notes: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.npy"
    code, out, _ = fastgen("sample", notes, "--out", path, "--size", 25, "--class", "2", "--quiet")
    assert code == 0 and "4 signals of 1x25" in out
    model = package.load(notes / "model.safetensors")
    assert np.array_equal(np.load(path), model.sample(4, length=25, cond=2).numpy())
    for options, message in [
        (("--out", "a.png"), "sounds are written as .wav, levels as .npy"),
        (("--size", "3x4"), "signals have a length; got 3x4"),
        (("--class", "3"), "labels are 0 to 2"),
    ]:
        code, _, err = fastgen("sample", notes, *options, "--quiet")
        assert code == 2 and message in err


def test_eval_is_the_evaluation_of_the_held_out_signals(fastgen: Fastgen, notes: Path) -> None:
    model = package.load(notes / "model.safetensors")
    expected = evaluate_bits(model, load_for_model(model, "tones", split="validation"))
    code, out, _ = fastgen("eval", notes, "--json")
    assert code == 0
    assert json.loads(out)["bits_per_dim"] == pytest.approx(expected.bits_per_dim, abs=1e-6)
    assert "100 signals: " in fastgen("eval", notes).out


def test_a_series_is_no_sound(fastgen: Fastgen, tmp_path: Path) -> None:
    np.savetxt(tmp_path / "a.csv", np.sin(np.arange(400.0)))
    run = train(tmp_path / "run", f"data={tmp_path / 'a.csv'}", "size=20", "conditional=false")
    code, out, _ = fastgen("sample", run, "-n", 2, "--quiet")
    assert code == 0 and "samples.npy" in out
    assert np.load(run / "samples.npy").shape == (2, 1, 20)
    code, _, err = fastgen("sample", run, "--out", "a.wav", "--quiet")
    assert code == 2 and "levels as .npy" in err


def test_complete_wants_images(fastgen: Fastgen, notes: Path, tmp_path: Path) -> None:
    code, _, err = fastgen("complete", notes, tmp_path / "x.png")
    assert code == 2 and "must be a model of images" in err
