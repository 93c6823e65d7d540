"""The commands do what the functions below them do, on the same run, and write it where they say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import fastgen as package
from fastgen.data import load, read_image, write_image
from fastgen.evaluation import evaluate_bits
from fastgen.models import MODELS
from fastgen.training.checkpoint import read_checkpoint
from fastgen.training.recipes import RECIPES

Fastgen = Callable[..., tuple[int, str, str]]


def levels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.load(path))


def test_train_says_what_it_did_and_resumes(fastgen: Fastgen, trained: Path, image_folder: Path) -> None:
    names = {"checkpoint.safetensors", "model.safetensors", "recipe.json", "log.jsonl"}
    assert names <= set(os.listdir(trained))
    saved = read_checkpoint(trained / "checkpoint.safetensors")
    assert saved.step == 8
    assert saved.recipe.config["n_filters"] == [4, 4]
    assert saved.model_config["image_size"] == [8, 6]
    assert saved.model_config["n_classes"] == 3


def test_train_goes_on_only_when_asked(fastgen: Fastgen, image_folder: Path, tmp_path: Path) -> None:
    command = ["train", "pixelcnnpp-digits", "--data", image_folder, "--out", tmp_path / "run", "--quiet"]
    command += ["--set", "config.n_filters=4", "--set", "batch_size=4", "--set", "workers=0"]
    code, out, err = fastgen(*command, "--steps", 2, "--resume")
    assert code == 0 and "starting from step 0" in err
    assert (
        out.startswith("2 steps in ")
        and "held out " in out
        and " bits/dim after" in out
        and f"run: {tmp_path / 'run'}" in out
    )
    code, _, err = fastgen(*command, "--steps", 3)
    assert code == 2 and "--resume" in err
    code, out, _ = fastgen(*command, "--steps", 3, "--resume")
    assert code == 0 and out.startswith("3 steps in ")


def test_ctrl_c_finishes_the_step_and_saves(image_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastgen", "train", "pixelcnnpp-digits", "--data", str(image_folder)]
    command += ["--out", str(tmp_path), "--set", "config.n_filters=4", "--set", "batch_size=4", "--quiet"]
    command += ["--set", "log_interval=1", "--set", "checkpoint_interval=1000000", "--steps", "1000000"]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE)
    log = tmp_path / "log.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and '"train"' in log.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    step = read_checkpoint(tmp_path / "checkpoint.safetensors").step
    assert output.decode().startswith(f"stopped at step {step}; go on with --resume")
    assert json.loads(log.read_text().splitlines()[-1])["step"] == step


def test_sample_writes_what_the_model_draws(fastgen: Fastgen, trained: Path, tmp_path: Path) -> None:
    code, out, _ = fastgen("sample", trained, "-n", 7, "--seed", 5, "--out", tmp_path / "s.npy", "--quiet")
    assert code == 0 and "7 images of 1x8x6" in out
    model = package.load(trained / "model.safetensors").eval()
    expected = model.sample(7, seed=5, cond=torch.tensor([0, 1, 2, 0, 1, 2, 0]))
    assert torch.equal(levels(tmp_path / "s.npy"), expected)


def test_sample_options_reach_the_sampler(fastgen: Fastgen, trained: Path, tmp_path: Path) -> None:
    def draw(*options: object) -> torch.Tensor:
        path = tmp_path / "s.npy"
        code, _, err = fastgen("sample", trained, "-n", 4, "--out", path, "--quiet", *options)
        assert (code, err) == (0, "")
        return levels(path)

    plain = draw()
    assert not torch.equal(plain, draw("--seed", 1))
    assert torch.equal(plain, draw("--method", "naive"))
    assert torch.equal(plain, draw("--batch-size", 3))
    model = package.load(trained / "model.safetensors").eval()
    assert torch.equal(draw("--class", "2,1"), model.sample(4, cond=torch.tensor([2, 1, 2, 1])))
    assert torch.equal(
        draw("--class", "2", "--temperature", "0.5", "--size", "5x7"),
        model.sample(4, cond=2, temperature=0.5, shape=(1, 5, 7)),
    )


def test_sample_of_a_folder_lands_in_it_and_of_a_file_beside_it(fastgen: Fastgen, trained: Path) -> None:
    (trained / "samples.png").unlink(missing_ok=True)
    assert fastgen("sample", trained / "model.safetensors", "-n", 6, "--quiet").code == 0
    grid = read_image(trained / "samples.png")
    scale = 64 // 8
    assert grid.shape == (1, 2 * (8 * scale + 2) + 2, 3 * (6 * scale + 2) + 2)  # a column a class


def test_a_model_without_classes_samples_and_refuses_labels(fastgen: Fastgen, unlabelled: Path) -> None:
    assert fastgen("sample", unlabelled, "-n", 2, "--quiet").code == 0
    code, _, err = fastgen("sample", unlabelled, "-n", 2, "--class", 1, "--quiet")
    assert code == 2 and "trained without labels" in err


@pytest.mark.parametrize("keep", ["top", "left", "bottom", "right"])
def test_complete_keeps_the_side_and_draws_the_rest(fastgen: Fastgen, trained: Path, tmp_path: Path, keep: str) -> None:
    image = (torch.arange(48, dtype=torch.uint8) * 5).view(1, 8, 6)
    write_image(tmp_path / "in.png", image)
    out = tmp_path / "out.npy"
    code, text, _ = fastgen("complete", trained, tmp_path / "in.png", "--keep", keep, "-n", 3, "--out", out, "--quiet")
    assert code == 0 and "50% kept" in text
    kept = {
        "top": (slice(0, 4), slice(None)),
        "bottom": (slice(4, 8), slice(None)),
        "left": (slice(None), slice(0, 3)),
        "right": (slice(None), slice(3, 6)),
    }[keep]
    images = levels(out)
    assert images.shape == (3, 1, 8, 6)
    mask = torch.zeros(8, 6, dtype=torch.bool)
    mask[kept] = True
    assert torch.equal(images[:, 0, mask], image[:, mask].expand(3, -1))
    assert (images[:, 0, ~mask] != image[:, ~mask]).float().mean() > 0.5
    model = package.load(trained / "model.safetensors").eval()
    given, mask = image.expand(3, -1, -1, -1), mask.expand(3, 1, -1, -1)
    assert torch.equal(images, model.sample(3, given=given, mask=mask, cond=torch.tensor([0, 1, 2])))


def test_complete_keeps_the_white_of_a_mask(fastgen: Fastgen, trained: Path, tmp_path: Path) -> None:
    image = torch.full((1, 8, 6), 255, dtype=torch.uint8)
    mask = torch.zeros(1, 8, 6, dtype=torch.uint8)
    mask[:, 2:4] = 255
    write_image(tmp_path / "in.png", image)
    write_image(tmp_path / "mask.png", mask)
    out = tmp_path / "out.npy"
    assert fastgen("complete", trained, tmp_path / "in.png", "--mask", tmp_path / "mask.png", "--out", out).code == 0
    images = levels(out)
    assert (images[:, :, 2:4] == 255).all()
    assert (images[:, :, :2] != 255).any() and (images[:, :, 4:] != 255).any()
    picture = tmp_path / "out.png"
    fastgen("complete", trained, tmp_path / "in.png", "-n", 2, "--out", picture, "--quiet")
    assert read_image(picture).shape == (1, 2 * 66 + 2, 2 * 50 + 2)  # the image, what is kept, two completions


def test_eval_is_the_evaluation_of_the_held_out_images(fastgen: Fastgen, trained: Path, image_folder: Path) -> None:
    model = package.load(trained / "model.safetensors")
    for split in ("validation", "train"):
        expected = evaluate_bits(model, load(image_folder, split=split, size=(8, 6)))
        code, out, _ = fastgen("eval", trained, "--split", split, "--json")
        result = json.loads(out)
        assert code == 0
        assert (result["split"], result["images"]) == (split, expected.images)
        assert result["bits_per_dim"] == pytest.approx(expected.bits_per_dim, abs=1e-6)
        assert f"{expected.bits_per_dim:.4f}" in fastgen("eval", trained, "--split", split).out


def test_eval_of_a_lone_model_file_asks_for_data(
    fastgen: Fastgen, trained: Path, image_folder: Path, tmp_path: Path
) -> None:
    lone = tmp_path / "lone.safetensors"
    lone.write_bytes((trained / "model.safetensors").read_bytes())
    code, _, err = fastgen("eval", lone)
    assert code == 2 and "--data" in err
    assert fastgen("eval", lone, "--data", image_folder).code == 0


def test_eval_refuses_other_classes(fastgen: Fastgen, trained: Path) -> None:
    code, _, err = fastgen("eval", trained, "--data", "mnist5k", "--limit", 10)
    assert code == 2 and "mnist5k has 10 classes; the model was trained with 3" in err


def test_models_lists_every_model_and_recipe(fastgen: Fastgen) -> None:
    code, out, _ = fastgen("models")
    assert code == 0
    for name in (*MODELS, *RECIPES):
        assert f"  {name} " in out
    assert "53,659,080 parameters" in out  # the paper's model: 54 million
    assert "561,820 parameters" in out


def test_doctor_reports_and_fails_on_a_wrong_op(fastgen: Fastgen, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = fastgen("doctor", "--device", "cpu")
    assert code == 0
    for word in (torch.__version__, "triton:", "GPU:", "C compiler:", "method='auto' takes", "dmol_log_prob"):
        assert word in out
    assert out.rstrip().endswith("ok")

    import fastgen.functional as functional

    real = functional.dmol_log_prob

    def wrong(x: torch.Tensor, params: torch.Tensor, *, impl: str) -> torch.Tensor:
        return real(x, params, impl=impl) * (1.01 if impl == "auto" else 1.0)

    monkeypatch.setattr(functional, "dmol_log_prob", wrong)
    code, out, _ = fastgen("doctor", "--device", "cpu")
    assert code == 1 and out.rstrip().endswith("WRONG")
