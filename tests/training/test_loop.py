"""Training learns, stops where it should, and goes on after any interruption with the bits it would have had."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fastgen.training.loop as loop_module
import fastgen.training.run as run_module
import fastgen.training.watch as watch_module
from fastgen.data import TensorImages, batch_indices, read_image
from fastgen.evaluation import evaluate_bits
from fastgen.models import AutoregressiveModel
from fastgen.models.base import Terms
from fastgen.models.serialization import load
from fastgen.training.build import build_model, load_data
from fastgen.training.checkpoint import read_checkpoint, write_checkpoint
from fastgen.training.log import read_log
from fastgen.training.loop import train
from fastgen.training.recipes import Recipe
from fastgen.training.run import CHECKPOINT, LOG, MODEL, RECIPE

StopAfter = Callable[[int], Callable[[], bool]]
Data = tuple[TensorImages, TensorImages]


def tensors(folder: Path) -> dict[str, Tensor]:
    return read_checkpoint(folder / CHECKPOINT).tensors


def assert_same_run(a: Path, b: Path) -> None:
    mine, theirs = tensors(a), tensors(b)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def test_held_out_likelihood_improves_by_what_the_log_says(recipe: Recipe, data: Data, tmp_path: Path) -> None:
    result = train(recipe.replace(steps=60), tmp_path, data=data, progress=False)
    assert result.after is not None
    assert result.after.bits_per_dim < result.before.bits_per_dim - 1
    assert (result.before.images, result.before.dims) == (10, 64)
    assert not result.model.training

    lines = read_log(tmp_path / LOG)
    assert [line["step"] for line in lines if line["event"] == "train"] == list(range(2, 61, 2))
    evaluations = {line["step"]: line["bits_per_dim"] for line in lines if line["event"] == "eval"}
    assert evaluations == {0: result.before.bits_per_dim, 60: result.after.bits_per_dim}
    assert json.loads((tmp_path / RECIPE).read_text())["steps"] == 60


def test_the_model_file_is_the_averaged_model(recipe: Recipe, data: Data, tmp_path: Path) -> None:
    result = train(recipe, tmp_path, data=data, progress=False)
    loaded = load(tmp_path / MODEL).eval()
    assert result.after is not None
    assert evaluate_bits(loaded, data[1], batch_size=8) == result.after
    saved = read_checkpoint(tmp_path / CHECKPOINT)
    weights = loaded.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in saved.part("ema").items())
    assert any(not torch.equal(weights[name], value) for name, value in saved.part("model").items())
    assert loaded.image_size == (8, 8) and loaded.n_classes == 2


def test_the_loss_is_in_nats_per_dimension(recipe: Recipe, data: Data) -> None:
    model = build_model(recipe, (1, 8, 8), 2).eval()
    x, labels = data[1].tensors()
    bits = evaluate_bits(model, x, labels).bits_per_dim
    assert model.objective(x, labels)["loss"].item() / math.log(2) == pytest.approx(bits, rel=1e-6)


@pytest.mark.parametrize("stop", [1, 5, 7])
def test_a_stopped_run_resumes_bit_for_bit(
    recipe: Recipe, data: Data, tmp_path: Path, stop: int, stop_after: StopAfter
) -> None:
    train(recipe, tmp_path / "whole", data=data, progress=False)
    stopped = train(recipe, tmp_path / "parts", data=data, progress=False, should_stop=stop_after(stop))
    assert (stopped.step, stopped.after) == (stop, None)
    torch.manual_seed(99)  # another process would have another state
    torch.rand(17)
    resumed = train(recipe, tmp_path / "parts", data=data, progress=False, resume=True)
    assert resumed.step == 12
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    whole, parts = read_log(tmp_path / "whole" / LOG), read_log(tmp_path / "parts" / LOG)
    assert [line["step"] for line in whole] == [line["step"] for line in parts]
    assert whole[-1]["bits_per_dim"] == parts[-1]["bits_per_dim"]


def test_a_run_killed_with_9_resumes_bit_for_bit(recipe: Recipe, image_folder: Path, tmp_path: Path) -> None:
    """The real command line in processes of its own; the kills fall where they fall."""
    settings = [f"config.{key}={json.dumps(value)}" for key, value in recipe.config.items()]
    settings += ["batch_size=8", "checkpoint_interval=7", "log_interval=1", "lr=5e-3", "warmup_steps=2"]
    command = [sys.executable, "-m", "fastgen", "train", "pixelcnnpp-digits", "--quiet", "--steps", "120"]
    command += ["--data", str(image_folder), "--device", "cpu"]
    for setting in settings:
        command += ["--set", setting]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def start(out: str, *more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, "--out", str(tmp_path / out), *more], env=environment)

    assert start("whole").wait(timeout=120) == 0
    checkpoint = tmp_path / "killed" / CHECKPOINT
    for step in (7, 40):
        process = start("killed", "--resume")
        deadline = time.monotonic() + 120
        while not (checkpoint.exists() and read_checkpoint(checkpoint).step >= step):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert read_checkpoint(checkpoint).step < 120
    assert start("killed", "--resume").wait(timeout=120) == 0
    assert read_checkpoint(checkpoint).step == 120
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def spoil(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]) -> None:
    """Have `change` applied to the training loss."""
    objective = AutoregressiveModel.objective

    def spoilt(model: AutoregressiveModel, x: Tensor, cond: object = None) -> Terms:
        terms = objective(model, x, cond)
        return {**terms, "loss": change(terms["loss"])}

    monkeypatch.setattr(AutoregressiveModel, "objective", spoilt)


def test_a_nan_stops_with_the_step_and_leaves_the_last_checkpoint(
    recipe: Recipe, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(1000))

    spoil(monkeypatch, lambda loss: loss * math.nan if next(calls) == 8 else loss)
    batch = ", ".join(map(str, batch_indices(30, 8, 8, recipe.seed).tolist()))
    said = rf"got loss nan .* at step 8, whose batch was {batch}; .*checkpoint.safetensors is whole"
    with pytest.raises(FloatingPointError, match=said):
        train(recipe, tmp_path, data=data, progress=False)
    saved = read_checkpoint(tmp_path / CHECKPOINT)
    assert saved.step == 5
    assert all(torch.isfinite(value.float()).all() for value in saved.tensors.values())
    monkeypatch.undo()
    assert train(recipe, tmp_path, data=data, progress=False, resume=True).step == 12


def test_a_nan_that_is_noticed_late_spoils_no_checkpoint(
    recipe: Recipe, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the loop looks at the loss only now and then; here a CPU does so."""

    class Late(watch_module.FiniteWatch):
        def __init__(self, device: torch.device, checkpoint: Path, batch_names: Callable[[int], str]) -> None:
            super().__init__(device, checkpoint, batch_names)
            self.at_once = False

    calls = iter(range(1000))

    monkeypatch.setattr(run_module, "FiniteWatch", Late)
    spoil(monkeypatch, lambda loss: loss * math.nan if next(calls) == 7 else loss)
    with pytest.raises(FloatingPointError, match=r"at step 7, whose batch"):
        train(dataclasses.replace(recipe, log_interval=1000), tmp_path, data=data, progress=False)
    assert next(calls) == 10  # two more steps were taken, and no checkpoint at step 10
    assert read_checkpoint(tmp_path / CHECKPOINT).step == 5


def test_an_infinite_gradient_with_a_finite_loss_stops_too(
    recipe: Recipe, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, loss: Tensor) -> Tensor:
            return loss.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            return gradient * math.inf

    spoil(monkeypatch, Overflow.apply)
    with pytest.raises(FloatingPointError, match=r"gradient norm (nan|inf) at step 0, .* is whole"):
        train(recipe, tmp_path, data=data, progress=False)
    assert read_checkpoint(tmp_path / CHECKPOINT).step == 0


def test_a_nan_names_the_files_of_its_batch(
    recipe: Recipe, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(1000))
    spoil(monkeypatch, lambda loss: loss * math.nan if next(calls) == 2 else loss)
    with pytest.raises(FloatingPointError, match=r"at step 2, whose batch was ") as error:
        train(dataclasses.replace(recipe, data=str(image_folder), workers=0), tmp_path / "run", progress=False)
    train_set, _ = load_data(dataclasses.replace(recipe, data=str(image_folder)))
    chosen = batch_indices(len(train_set), recipe.batch_size, 2, recipe.seed)
    names = [train_set.origin(index) for index in chosen.tolist()]
    assert all(Path(name).is_file() for name in names) and ", ".join(names) in str(error.value)
    images = torch.stack([read_image(Path(name)) for name in names])
    assert torch.equal(images, train_set.batch(chosen)[0])


def test_too_large_a_learning_rate_is_caught_for_real(recipe: Recipe, data: Data, tmp_path: Path) -> None:
    wild = dataclasses.replace(recipe, lr=1e30, warmup_steps=0, clip_norm=None)
    with pytest.raises(FloatingPointError, match="lower lr"):
        train(wild, tmp_path, data=data, progress=False)


def test_a_failing_disk_leaves_the_last_checkpoint(
    recipe: Recipe, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe, tmp_path / "whole", data=data, progress=False)
    real = os.fsync

    def full(descriptor: int) -> None:
        if (tmp_path / "full" / MODEL).exists():  # the first checkpoint and its model are written
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        train(recipe, tmp_path / "full", data=data, progress=False)
    monkeypatch.undo()
    assert read_checkpoint(tmp_path / "full" / CHECKPOINT).step == 0
    assert read_log(tmp_path / "full" / LOG)[-1]["step"] == 4
    train(recipe, tmp_path / "full", data=data, progress=False, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "full")
    whole, full = (read_log(tmp_path / name / LOG) for name in ("whole", "full"))
    assert [line["step"] for line in full] == [line["step"] for line in whole]


def test_a_budget_in_seconds_ends_in_time_and_anneals_by_the_clock(
    recipe: Recipe, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()  # a look at the clock takes a tenth of a second, however busy the machine is
    monkeypatch.setattr(loop_module, "time", types.SimpleNamespace(monotonic=lambda: 0.1 * next(ticks)))
    result = train(recipe.replace(seconds=1.0), tmp_path, data=data, progress=False)
    assert result.step == 10 and result.seconds == pytest.approx(1.0)
    rates = [line["lr"] for line in read_log(tmp_path / LOG) if line["event"] == "train"]
    assert rates[-1] < 0.2 * max(rates)


def test_seconds_go_on_counting_after_a_resume(
    recipe: Recipe, data: Data, tmp_path: Path, stop_after: StopAfter
) -> None:
    by_clock = recipe.replace(seconds=100.3)
    train(by_clock, tmp_path, data=data, progress=False, should_stop=stop_after(3))
    saved = read_checkpoint(tmp_path / CHECKPOINT)
    assert 0 < saved.seconds < 50
    write_checkpoint(tmp_path / CHECKPOINT, dataclasses.replace(saved, seconds=100.0))
    deadline = time.monotonic() + 10
    result = train(
        by_clock, tmp_path, data=data, progress=False, resume=True, should_stop=lambda: time.monotonic() > deadline
    )
    assert result.after is not None, "the 100 seconds of before were forgotten"
    assert result.step > 3 and 100.3 <= result.seconds < 102


def test_a_second_run_does_not_overwrite_the_first(recipe: Recipe, data: Data, tmp_path: Path) -> None:
    train(recipe, tmp_path, data=data, progress=False)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(FileExistsError, match="go on with --resume or choose another --out"):
        train(recipe, tmp_path, data=data, progress=False)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_resume_refuses_another_recipe_or_other_images_but_takes_a_longer_budget(
    recipe: Recipe, data: Data, tmp_path: Path
) -> None:
    train(recipe, tmp_path, data=data, progress=False)
    with pytest.raises(
        ValueError, match=r"lr was 0.005, is 0.1; batch_size was 8, is 4|batch_size was 8, is 4; lr was"
    ):
        train(dataclasses.replace(recipe, lr=0.1, batch_size=4), tmp_path, data=data, progress=False, resume=True)
    images, labels = data[0].tensors()
    other = TensorImages("other", images.flip(3), labels, ("rows", "columns"))
    with pytest.raises(ValueError, match="training images must be those of the checkpoint"):
        train(recipe, tmp_path, data=(other, data[1]), progress=False, resume=True)
    assert train(recipe.replace(steps=14), tmp_path, data=data, progress=False, resume=True).step == 14


def test_resume_before_the_first_checkpoint_starts(recipe: Recipe, data: Data, tmp_path: Path) -> None:
    train(recipe, tmp_path / "a", data=data, progress=False)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / LOG).write_text('{"event": "train", "step": 3, "seconds": 1}\n{"event": "tr')
    train(recipe, tmp_path / "b", data=data, progress=False, resume=True)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert read_log(tmp_path / "b" / LOG)[0]["event"] == "eval"


def test_the_seed_decides_the_run(recipe: Recipe, data: Data, tmp_path: Path) -> None:
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        torch.rand(3)
        train(dataclasses.replace(recipe, seed=seed), tmp_path / name, data=data, progress=False)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "a", tmp_path / "c")


def test_held_out_images_do_not_change_the_run(recipe: Recipe, data: Data, tmp_path: Path) -> None:
    train(recipe, tmp_path / "a", data=data, progress=False)
    often = dataclasses.replace(recipe, eval_interval=1, log_interval=1, checkpoint_interval=1)
    train(often, tmp_path / "b", data=data, progress=False)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert len([line for line in read_log(tmp_path / "b" / LOG) if line["event"] == "eval"]) == 14


def test_data_dependent_initialisation_is_resumable(
    recipe: Recipe, data: Data, tmp_path: Path, stop_after: StopAfter
) -> None:
    recipe = dataclasses.replace(recipe, init_from_data=True)
    train(recipe, tmp_path / "a", data=data, progress=False)
    train(recipe, tmp_path / "b", data=data, progress=False, should_stop=stop_after(5))
    train(recipe, tmp_path / "b", data=data, progress=False, resume=True)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    plain = train(dataclasses.replace(recipe, init_from_data=False), tmp_path / "c", data=data, progress=False)
    assert read_log(tmp_path / "a" / LOG)[0]["bits_per_dim"] != plain.before.bits_per_dim


def test_litter_of_a_kill_is_removed_and_nothing_else(recipe: Recipe, data: Data, tmp_path: Path) -> None:
    (tmp_path / f".{CHECKPOINT}.x1.tmp").write_bytes(b"half")
    (tmp_path / ".mine.tmp").write_bytes(b"keep")
    train(recipe, tmp_path, data=data, progress=False)
    assert sorted(os.listdir(tmp_path)) == [".mine.tmp", CHECKPOINT, LOG, MODEL, RECIPE]


def test_bfloat16_autocast_trains(recipe: Recipe, data: Data, tmp_path: Path) -> None:
    result = train(
        dataclasses.replace(recipe.replace(steps=40), precision="bfloat16"), tmp_path, data=data, progress=False
    )
    assert result.after is not None and result.after.bits_per_dim < result.before.bits_per_dim - 0.5
    assert all(parameter.dtype == torch.float32 for parameter in result.model.parameters())


def test_gradients_are_clipped_to_the_norm(
    recipe: Recipe, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    step = torch.optim.Adam.step

    def watch(self: torch.optim.Adam) -> None:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients]))))
        step(self)

    monkeypatch.setattr(torch.optim.Adam, "step", watch)
    train(dataclasses.replace(recipe, clip_norm=1e-3), tmp_path / "a", data=data, progress=False)
    assert max(norms) == pytest.approx(1e-3, rel=1e-3)
    norms.clear()
    train(dataclasses.replace(recipe, clip_norm=None), tmp_path / "b", data=data, progress=False)
    assert max(norms) > 1e-2


def test_a_model_without_classes_and_wrong_names_are_refused(recipe: Recipe, data: Data, tmp_path: Path) -> None:
    cases = [
        ({"model": "PixelCN"}, "unknown model 'PixelCN'; did you mean PixelCNN"),
        ({"config": {"n_filter": 3}}, "unknown PixelCNNPP config key 'n_filter'; did you mean n_filters"),
        ({"config": {"image_size": 3}}, "config.image_size comes from the data"),
        ({"model": "PixelCNN", "config": {}}, "PixelCNN takes no labels; set conditional=false"),
        ({"batch_size": 31}, "batch_size must be in 1..30"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            train(dataclasses.replace(recipe, **changes), tmp_path / "run", data=data, progress=False)
    unlabelled = TensorImages("plain", *data[0].tensors())
    with pytest.raises(ValueError, match="plain must have labels"):
        train(recipe, tmp_path / "run", data=(unlabelled, unlabelled), progress=False)
    with pytest.raises(ValueError, match="device: 'gpu9' cannot be used here"):
        train(recipe, tmp_path / "run", data=data, progress=False, device="gpu9")
    assert not (tmp_path / "run").exists() or not os.listdir(tmp_path / "run")
