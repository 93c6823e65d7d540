"""Micro-batches, precisions, compilation, layouts, optimisers and kept checkpoints: how a run goes, not where to."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgen.data import TensorImages
from fastgen.models import MODELS
from fastgen.models.serialization import load
from fastgen.training.checkpoint import read_checkpoint
from fastgen.training.distributed import ALONE
from fastgen.training.log import read_log
from fastgen.training.loop import train
from fastgen.training.recipes import Recipe
from fastgen.training.rehearsal import rehearse
from fastgen.training.run import BEST, CHECKPOINT, CHECKPOINTS, LOG, MODEL
from fastgen.training.turn import FUSED, Turn

StopAfter = Callable[[int], Callable[[], bool]]
Data = tuple[TensorImages, TensorImages]
ASSETS = Path(__file__).parent / "assets"


def run(recipe: Recipe, data: Data, out: Path, **changes: Any) -> dict[str, Tensor]:
    """What the checkpoint holds at the end."""
    train(dataclasses.replace(recipe, **changes), out, data=data, progress=False, device="cpu")
    return read_checkpoint(out / CHECKPOINT).tensors


def weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if name.startswith(("model/", "ema/", "optimizer/"))}


@pytest.fixture
def steady(recipe: Recipe) -> Recipe:
    """Without dropout, whose draws follow the batches."""
    return dataclasses.replace(recipe, config={**recipe.config, "dropout": 0.0}, steps=5)


@pytest.mark.parametrize("count", [2, 8])
def test_micro_batches_add_up_to_the_batch(steady: Recipe, data: Data, tmp_path: Path, count: int) -> None:
    whole = weights(run(steady, data, tmp_path / "whole", clip_norm=0.5))
    parts = weights(run(steady, data, tmp_path / "parts", clip_norm=0.5, accumulate=count))
    for name in whole:  # sums in another order, which Adam's first steps divide by their own size
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    logs = [read_log(tmp_path / name / LOG) for name in ("whole", "parts")]
    assert [line["loss"] for line in logs[1] if "loss" in line] == pytest.approx(
        [line["loss"] for line in logs[0] if "loss" in line], rel=1e-4
    )


def test_conditions_of_a_micro_batch_are_those_of_its_images(steady: Recipe, data: Data, tmp_path: Path) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Telling(MODELS["PixelCNNPP"]):  # type: ignore[misc,valid-type]
        def objective(self, x: Tensor, cond: Any = None) -> Any:
            seen.append((x, cond))
            return super().objective(x, cond)

    MODELS["Telling"] = Telling
    try:
        run(steady, data, tmp_path / "run", model="Telling", accumulate=4, steps=1)
    finally:
        del MODELS["Telling"]
    assert [len(x) for x, _ in seen] == [2, 2, 2, 2]
    images, labels = data[0].tensors()
    for x, cond in seen:
        for image, label in zip(x, cond, strict=True):
            (index,) = (images == image).flatten(1).all(1).nonzero().flatten().tolist()
            assert labels[index] == label


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # in the compiler's own imports
def test_compiled_training_has_the_same_losses(steady: Recipe, data: Data, tmp_path: Path) -> None:
    config = {"n_layers": 1, "n_filters": 4}
    few = dataclasses.replace(steady, model="GatedPixelCNN", config=config, steps=3, log_interval=1)
    plain, compiled = (run(few, data, tmp_path / way, compile=way) for way in ("none", "default"))
    logs = [[line for line in read_log(tmp_path / way / LOG) if "loss" in line] for way in ("none", "default")]
    assert [line["loss"] for line in logs[1]] == pytest.approx([line["loss"] for line in logs[0]], rel=1e-4)
    assert [line["grad_norm"] for line in logs[1]] == pytest.approx([line["grad_norm"] for line in logs[0]], rel=1e-3)
    for name, value in weights(plain).items():
        if "exp_avg" not in name:  # weights to a fifth of what a step moves them by: fused sums round otherwise
            torch.testing.assert_close(compiled[name], value, rtol=1e-2, atol=1e-3)


def test_channels_innermost_reach_the_network_and_change_nothing(
    steady: Recipe, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    take = Turn.take

    def told(self: Turn, rate: float, x: Tensor, cond: Any) -> Any:
        seen.append(x.is_contiguous(memory_format=torch.channels_last))
        kernels = [p for p in self.phase.parameters if p.dim() == 4 and min(p.shape[:2]) > 1 and p.shape[2] > 1]
        seen.append(all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels) and bool(kernels))
        return take(self, rate, x, cond)

    plain = run(steady, data, tmp_path / "plain")
    monkeypatch.setattr(Turn, "take", told)
    innermost = run(steady, data, tmp_path / "innermost", channels_last=True)
    assert seen and all(seen)
    for name, value in weights(plain).items():
        torch.testing.assert_close(innermost[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "adamax", "rmsprop", "sgd"])
def test_every_optimiser_learns_and_resumes_bit_for_bit(
    steady: Recipe, data: Data, tmp_path: Path, optimizer: str, stop_after: StopAfter
) -> None:
    rate = {"sgd": 0.1}.get(optimizer, 5e-3)
    changed = dataclasses.replace(steady, optimizer=optimizer, lr=rate, steps=6)
    whole = run(changed, data, tmp_path / "whole")
    train(changed, tmp_path / "parts", data=data, progress=False, device="cpu", should_stop=stop_after(3))
    train(changed, tmp_path / "parts", data=data, progress=False, device="cpu", resume=True)
    parts = read_checkpoint(tmp_path / "parts" / CHECKPOINT).tensors
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    evaluations = [line["bits_per_dim"] for line in read_log(tmp_path / "whole" / LOG) if line["event"] == "eval"]
    assert evaluations[-1] < evaluations[0]


def test_options_reach_the_optimiser() -> None:
    from fastgen.models import Phase

    weight = nn.Parameter(torch.ones(2))
    phase = Phase("all", (weight,), lambda x, cond: {"loss": x.sum()})

    def group(**options: Any) -> dict[str, Any]:
        recipe = Recipe(name="r", data="none", model="none", steps=1, lr=0.2, betas=(0.7, 0.9), **options)
        turn = Turn(phase, recipe, torch.device("cpu"), ALONE, sharded=False)
        assert type(turn.optimizer).__name__.lower() == recipe.optimizer
        return turn.optimizer.param_groups[0]

    assert group(optimizer="adamax")["betas"] == (0.7, 0.9)
    assert group(optimizer="rmsprop")["alpha"] == 0.9
    sgd = group(optimizer="sgd", weight_decay=0.3)
    assert (sgd["momentum"], sgd["weight_decay"], sgd["lr"]) == (0.7, 0.3, 0.2)
    assert group(optimizer="adamw", weight_decay=0.3)["weight_decay"] == 0.3
    assert all(group(optimizer=name)["fused"] for name in FUSED)


def test_float16_leaves_out_overflowing_steps_and_resumes_its_scale(
    steady: Recipe, data: Data, tmp_path: Path, stop_after: StopAfter
) -> None:
    half = dataclasses.replace(steady, precision="float16", steps=8, log_interval=1)
    whole = run(half, data, tmp_path / "whole")
    skipped = [line["skipped"] for line in read_log(tmp_path / "whole" / LOG) if line["event"] == "train"]
    scale, tracker = whole["scaler/all"].tolist()
    assert scale == 2.0 ** (16 - sum(skipped))  # halved by every step that overflowed
    assert tracker == len(skipped) - 1 - max((i for i, s in enumerate(skipped) if s), default=-1)
    assert sum(skipped) < len(skipped)
    train(half, tmp_path / "parts", data=data, progress=False, device="cpu", should_stop=stop_after(5))
    train(half, tmp_path / "parts", data=data, progress=False, device="cpu", resume=True)
    parts = read_checkpoint(tmp_path / "parts" / CHECKPOINT).tensors
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_float16_steps_that_overflow_change_no_weight(steady: Recipe) -> None:
    from fastgen.models import Phase

    weight = nn.Parameter(torch.ones(3))
    factor = [torch.inf, 1.0]
    phase = Phase("all", (weight,), lambda x, cond: {"loss": (weight * x).sum() * factor.pop(0)})
    turn = Turn(phase, dataclasses.replace(steady, precision="float16"), torch.device("cpu"), ALONE, sharded=False)
    x = torch.ones(8, 3)
    assert turn.take(0.1, x, None)[2] is True
    assert torch.equal(weight.detach(), torch.ones(3))
    assert turn.scaler is not None and turn.scaler.get_scale() == 2.0**15
    _, norm, left_out = turn.take(0.1, x, None)
    assert not left_out and not torch.equal(weight.detach(), torch.ones(3))
    assert norm.item() == pytest.approx(8 * 3**0.5)  # of the loss, not of the scaled one


def test_the_last_checkpoints_and_the_best_model_are_kept(recipe: Recipe, data: Data, tmp_path: Path) -> None:
    kept = dataclasses.replace(recipe, steps=20, checkpoint_interval=4, keep_checkpoints=3, eval_interval=4, lr=0.02)
    train(kept, tmp_path, data=data, progress=False, device="cpu")
    names = sorted(path.name for path in (tmp_path / CHECKPOINTS).iterdir())
    assert names == [f"step-{step:09}.safetensors" for step in (12, 16, 20)]
    assert [read_checkpoint(tmp_path / CHECKPOINTS / name).step for name in names] == [12, 16, 20]
    merits = {
        line["step"]: line["nats"] for line in read_log(tmp_path / LOG) if line["event"] == "eval" and line["step"] > 0
    }
    best = read_checkpoint(tmp_path / CHECKPOINT).notes["best"]
    assert best == {"merit": min(merits.values()), "step": min(merits, key=lambda step: merits[step])}
    assert load(tmp_path / BEST).image_size == (8, 8)

    older = tmp_path / "older"
    older.mkdir()
    (tmp_path / CHECKPOINTS / names[0]).rename(older / CHECKPOINT)
    train(kept, older, data=data, progress=False, device="cpu", resume=True)
    ours, whole = (read_checkpoint(folder / CHECKPOINT).tensors for folder in (older, tmp_path))
    assert [name for name in whole if not torch.equal(ours[name], whole[name])] == []


def test_a_worse_model_does_not_replace_the_best(recipe: Recipe, data: Data, tmp_path: Path) -> None:
    class Worsening(MODELS["PixelCNNPP"]):  # type: ignore[misc,valid-type]
        told = 0

        def held_out(self, x: Tensor, cond: Any = None) -> Any:
            Worsening.told += 1
            return {"error": torch.full((len(x),), float(Worsening.told))}

    MODELS["Worsening"] = Worsening
    try:
        changed = dataclasses.replace(recipe, model="Worsening", steps=6, eval_interval=2, ema_decay=0.0, batch_size=10)
        train(changed, tmp_path, data=data, progress=False, device="cpu")
        assert read_checkpoint(tmp_path / CHECKPOINT).notes["best"]["step"] == 2
        best, last = (load(tmp_path / name).state_dict() for name in (BEST, MODEL))
    finally:
        del MODELS["Worsening"]
    assert any(not torch.equal(best[name], last[name]) for name in best)


def test_a_file_system_without_links_keeps_copies(
    recipe: Recipe, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    train(dataclasses.replace(recipe, keep_checkpoints=2), tmp_path, data=data, progress=False, device="cpu")
    kept = sorted((tmp_path / CHECKPOINTS).iterdir())
    assert [read_checkpoint(path).step for path in kept] == [10, 12]


def test_a_checkpoint_of_the_first_format_goes_on(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 2, (12, 1, 3, 3), generator=generator, dtype=torch.uint8)
    bits = TensorImages("bits", images, torch.full((12,), -1))
    bits.levels = 2
    recipe = Recipe(
        name="old", data="none", model="FVSBN", levels=2, batch_size=4, steps=4, ema_decay=0.9,
        checkpoint_interval=2, log_interval=1,
    )  # fmt: skip
    old = (ASSETS / "checkpoint-v1.safetensors").read_bytes()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / CHECKPOINT).write_bytes(old)
    saved = read_checkpoint(tmp_path / "old" / CHECKPOINT)
    header = json.loads(old[8 : 8 + int.from_bytes(old[:8], "little")])
    assert json.loads(header["__metadata__"]["fastgen"])["version"] == 1 and saved.step == 2
    whole = run(recipe, (bits, bits), tmp_path / "whole")
    resumed = train(recipe, tmp_path / "old", data=(bits, bits), progress=False, device="cpu", resume=True)
    assert resumed.step == 4
    now = read_checkpoint(tmp_path / "old" / CHECKPOINT).tensors
    for name, value in weights(whole).items():
        torch.testing.assert_close(now[name], value)  # another version of PyTorch may round otherwise


def test_a_rehearsal_measures_and_leaves_nothing(
    recipe: Recipe, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = rehearse(dataclasses.replace(recipe, accumulate=2), data=data, device="cpu")
    assert list(tmp_path.iterdir()) == []
    n = found.total_parameters
    assert found.parameters == {"all": n} and found.weight_bytes == 4 * n
    step_counters = found.state_bytes - 4 * 4 * n  # gradient, two moments, average
    assert 0 < step_counters < 4 * n
    assert found.total_seconds == pytest.approx(12 * found.seconds_a_step)
    text = str(found)
    for part in (
        f"PixelCNNPP, {n:,} parameters",
        "30 of 1x8x8, 10 held out",
        "8 in 2 micro-batches",
        "MiB",
        "a second",
    ):
        assert part in text
    with pytest.raises(ValueError, match="steps must be at least 2"):
        rehearse(recipe, data=data, steps=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate": 3}, "batch_size must be a multiple of accumulate"),
        ({"weight_decay": 0.1}, "weight_decay is of adamw and sgd; got optimizer=adam"),
        ({"weight_decay": -0.1, "optimizer": "sgd"}, "weight_decay must not be negative"),
        ({"optimizer": "adan"}, "unknown optimizer 'adan'; did you mean adam"),
        ({"compile": "fast"}, "unknown compile 'fast'"),
        ({"sharding": "zero"}, "unknown sharding 'zero'"),
        ({"precision": "float8"}, "unknown precision 'float8'"),
        ({"lr_hold": 1.0}, r"lr_hold is a fraction of the budget in \[0, 1\)"),
        ({"keep_checkpoints": 0}, "keep_checkpoints must be at least 1"),
    ],
)
def test_wrong_options_say_what_is_right(recipe: Recipe, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(recipe, **changes)


def test_the_linear_schedule_holds_and_falls(recipe: Recipe) -> None:
    linear = dataclasses.replace(recipe, schedule="linear", lr=1.0, lr_final=0.1, lr_hold=0.5, warmup_steps=0)
    rates = [linear.learning_rate(100, progress) for progress in (0.0, 0.5, 0.75, 1.0)]
    assert rates == pytest.approx([1.0, 1.0, 0.55, 0.1])
    held = dataclasses.replace(linear, schedule="cosine")
    assert [held.learning_rate(100, p) for p in (0.25, 0.75, 1.0)] == pytest.approx([1.0, 0.55, 0.1])


def test_trackers_hear_what_the_log_holds(
    recipe: Recipe, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fastgen.training.trackers as trackers

    class Stub:
        def __init__(self) -> None:
            self.lines: list[tuple[int, dict[str, float]]] = []
            self.pictures: list[tuple[int, str, tuple[int, ...]]] = []
            self.closed = False

        def scalars(self, step: int, values: dict[str, float]) -> None:
            self.lines.append((step, values))

        def image(self, step: int, name: str, image: Tensor) -> None:
            self.pictures.append((step, name, tuple(image.shape)))

        def close(self) -> None:
            self.closed = True

    stub = Stub()
    asked = []

    def open_stub(names: Any, folder: Path, told: Any) -> list[Stub]:
        asked.append((list(names), folder, told["name"]))
        return [stub]

    monkeypatch.setattr(trackers, "open_trackers", open_stub)
    drawn = dataclasses.replace(recipe, sample_grid=2, steps=4)
    train(drawn, tmp_path, data=data, progress=False, device="cpu", track=["tensorboard"])
    assert asked == [(["tensorboard"], tmp_path, "tiny")] and stub.closed
    log = read_log(tmp_path / LOG)
    assert [step for step, _ in stub.lines] == [line["step"] for line in log]
    for (_, values), line in zip(stub.lines, log, strict=True):
        assert values == {f"{line['event']}/{k}": v for k, v in line.items() if k not in ("event", "step", "seconds")}
    assert [(step, name) for step, name, _ in stub.pictures] == [(0, "samples"), (4, "samples")]
