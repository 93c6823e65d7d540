"""The training loop of the explicit-density models: maximum likelihood with Adam and averaged weights."""

from __future__ import annotations

import json
import math
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgen._files import atomic_write
from fastgen.data import LabelledDataset, loader
from fastgen.evaluation import HeldOut, evaluate_bits
from fastgen.models import AutoregressiveModel
from fastgen.models.serialization import save as save_model
from fastgen.nn import initialize_from_data
from fastgen.training.build import build_model, data_facts, load_data
from fastgen.training.checkpoint import Checkpoint, capture, read_checkpoint, restore, write_checkpoint
from fastgen.training.device import environment, pick_device, to_device
from fastgen.training.ema import ExponentialMovingAverage
from fastgen.training.log import JsonLog, ProgressBar
from fastgen.training.recipes import Recipe

CHECKPOINT = "checkpoint.safetensors"
MODEL = "model.safetensors"
RECIPE = "recipe.json"
LOG = "log.jsonl"


@dataclass(frozen=True)
class TrainingResult:
    """Where a run ended.

    Attributes:
        out: the run's folder.
        model: the averaged model, in eval mode.
        step: optimiser steps taken.
        seconds: seconds of training, evaluation during it included.
        before: held-out likelihood of the untrained weights.
        after: held-out likelihood of the averaged weights; None when `should_stop` ended the run early.
    """

    out: Path
    model: AutoregressiveModel
    step: int
    seconds: float
    before: HeldOut
    after: HeldOut | None


def nats_per_dim(model: AutoregressiveModel, x: Tensor, cond: Any) -> Tensor:
    """Training loss: -1 / (N D) * sum_n log p(x_n) in nats per dimension; divide by log 2 for bits."""
    return -model.log_prob(x, cond).mean() / x[0].numel()


def train(
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "auto",
    progress: bool = True,
    data: tuple[LabelledDataset, LabelledDataset] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Minimise -log p(x) over the training images (or signals) and keep the moving average of the weights.

    The folder `out` gets `checkpoint.safetensors` (the whole run), `model.safetensors` (averaged weights, for
    `fastgen.load`), `recipe.json` and `log.jsonl` (a JSON object a line). With a budget of steps, a run that
    was killed and resumed ends with the same bits as one that was not, on the same machine, CPU and thread
    count. The global random generators are seeded with `recipe.seed`.

    Args:
        recipe: what to train. On resume it must agree with the checkpoint in all but budget and intervals.
        out: the run's folder.
        resume: go on from the checkpoint in `out`, or start there if none has been written yet.
        device: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", ...
        progress: show a progress bar on stderr.
        data: training and held-out images or signals; by default those that the recipe names.
        should_stop: asked before every step; True writes a checkpoint and returns.

    Raises:
        ValueError: the recipe, the data or the checkpoint cannot be used.
        FileExistsError: `out` holds a run and `resume` is False.
        FloatingPointError: the loss or the gradient stopped being finite; the last checkpoint is kept.
        OSError: a checkpoint could not be written; the last one is kept.
    """
    folder = Path(out)
    saved = _previous(recipe, folder, resume)
    train_set, held_out = data if data is not None else load_data(recipe)
    run = _Run(recipe, folder, pick_device(device), train_set)
    if saved is not None:
        run.restore(saved)
    batches = run.batches()
    run.claim_folder()
    log = JsonLog(folder / LOG, keep_until=run.step)

    def evaluate() -> HeldOut:
        result = evaluate_bits(run.ema.model, held_out, batch_size=recipe.batch_size)
        log.write("eval", run.step, run.seconds, **result.to_json())
        return result

    if saved is None:
        run.notes["before"] = evaluate().to_json()
    bar = ProgressBar(recipe, run.step, run.seconds, shown=progress)
    losses: list[Tensor] = []
    clock = time.monotonic() - run.seconds
    stopped = False
    try:
        while run.spent < 1 and not (stopped := should_stop()):
            loss, norm, rate = run.take_step(*next(batches))
            losses.append(loss)
            run.seconds = time.monotonic() - clock
            if run.step % recipe.log_interval == 0 or run.spent >= 1:
                run.watch.check()
                bits = float(torch.stack(losses).mean()) / math.log(2)
                log.write("train", run.step, run.seconds, bits_per_dim=bits, lr=rate, grad_norm=float(norm))
                bar.show(run.step, run.seconds, bits)
                losses.clear()
            if recipe.eval_interval and run.step % recipe.eval_interval == 0:
                bar.note(f"step {run.step}: held-out {evaluate().bits_per_dim:.4f} bits/dim")
            if run.step % recipe.checkpoint_interval == 0:
                run.save()
    finally:
        bar.close()
    run.save()
    after = None if stopped else evaluate()
    before = HeldOut(**run.notes["before"])
    return TrainingResult(folder, run.ema.model, run.step, run.seconds, before, after)


class _Run:
    """A run between two steps: what a checkpoint holds, and how the next step is taken."""

    def __init__(self, recipe: Recipe, folder: Path, device: torch.device, train_set: LabelledDataset) -> None:
        self.recipe, self.folder, self.device, self.train_set = recipe, folder, device, train_set
        self.labelled = recipe.conditional
        if self.labelled and train_set.n_classes == 0:
            raise ValueError(f"train: {train_set.name} must have labels; it has none; use --set conditional=false")
        self.step, self.seconds = 0, 0.0
        self.notes: dict[str, Any] = {"data": _fingerprint(train_set), "environment": environment(device)}
        self.watch = _FiniteWatch(device, folder / CHECKPOINT)

        torch.manual_seed(recipe.seed)
        n_classes = train_set.n_classes if self.labelled else 0
        model = build_model(recipe, train_set.shape, n_classes, data_facts(train_set))
        self.model = model.to(device).train()
        if recipe.init_from_data:
            initialize_from_data(self.model, *next(self.batches()))
        self.ema = ExponentialMovingAverage(self.model, recipe.ema_decay)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=recipe.lr, betas=recipe.betas, fused=device.type in ("cpu", "cuda")
        )

    @property
    def spent(self) -> float:
        """Fraction of the budget that is spent."""
        if self.recipe.steps is not None:
            return self.step / self.recipe.steps
        assert self.recipe.seconds is not None
        return self.seconds / self.recipe.seconds

    def batches(self) -> Iterator[tuple[Tensor, Any]]:
        """Images and what they are conditioned on, of the next step and all later ones, on the device."""
        recipe = self.recipe
        stream = loader(
            self.train_set, recipe.batch_size, seed=recipe.seed, start_step=self.step, workers=recipe.workers
        )
        images = (
            (to_device(x, self.device), to_device(labels, self.device) if self.labelled else None)
            for x, labels in stream
        )
        return ((x, self.model.condition_of(x, labels)) for x, labels in images)

    def take_step(self, x: Tensor, cond: Any) -> tuple[Tensor, Tensor, float]:
        """One step of Adam and of the average; returns loss, norm of the gradient and learning rate."""
        recipe = self.recipe
        rate = recipe.learning_rate(self.step, self.spent)
        self.optimizer.param_groups[0]["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            loss = nats_per_dim(self.model, x, cond)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        if recipe.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), recipe.clip_norm, norm)
        self.watch.see(self.step, rate, loss.detach(), norm)
        self.optimizer.step()
        self.ema.update(self.model, self.step)
        self.step += 1
        return loss.detach(), norm, rate

    def save(self) -> None:
        """Write the checkpoint and the averaged model, unless the weights are spoilt."""
        self.watch.check()
        checkpoint = Checkpoint(
            recipe=self.recipe,
            model_config=self.model.config,
            step=self.step,
            seconds=self.seconds,
            tensors=capture(self.model, self.ema, self.optimizer, self.device),
            notes=self.notes,
        )
        write_checkpoint(self.folder / CHECKPOINT, checkpoint)
        save_model(self.ema.model, self.folder / MODEL)

    def restore(self, saved: Checkpoint) -> None:
        """Go back to where `saved` was written.

        Raises:
            ValueError: it has other training images or another model.
        """
        if saved.notes["data"] != self.notes["data"]:
            raise ValueError(
                f"train: the training images must be those of the checkpoint in {self.folder}; got "
                f"{self.notes['data']} instead of {saved.notes['data']}; resume with the same --data and --size"
            )
        restore(saved, self.model, self.ema, self.optimizer, self.device)
        self.step, self.seconds = saved.step, saved.seconds
        then, now = saved.notes["environment"], self.notes["environment"]
        changed = [f"{key} {then.get(key)} -> {now[key]}" for key in now if then.get(key) != now[key]]
        if changed:
            print(f"resuming elsewhere ({', '.join(changed)}): the bits may differ", file=sys.stderr)
        self.notes = {**saved.notes, "environment": now}

    def claim_folder(self) -> None:
        """Make the folder, note the recipe, and remove what a kill in the middle of a write left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (CHECKPOINT, MODEL, RECIPE, LOG):
            for stale in self.folder.glob(f".{name}.*.tmp"):
                stale.unlink(missing_ok=True)
        atomic_write(self.folder / RECIPE, json.dumps(self.recipe.to_json(), indent=2) + "\n")


class _FiniteWatch:
    """Remembers the first step whose loss or gradient was not finite, without waiting for the device."""

    def __init__(self, device: torch.device, checkpoint: Path) -> None:
        self.first = torch.full((4,), -1.0, dtype=torch.float64, device=device)  # step, rate, loss, norm
        self.checkpoint = checkpoint
        self.at_once = device.type == "cpu"  # elsewhere looking would make every step wait for the device

    def see(self, step: int, rate: float, loss: Tensor, norm: Tensor) -> None:
        """Note one step; on a CPU raise at once if it is not finite."""
        facts = [torch.full_like(loss, value, dtype=torch.float64) for value in (step, rate)]
        now = torch.stack([*facts, loss.double(), norm.double()])
        self.first = torch.where((self.first[0] < 0) & ~torch.isfinite(loss + norm), now, self.first)
        if self.at_once:
            self.check()

    def check(self) -> None:
        """Raise if a step so far was not finite.

        Raises:
            FloatingPointError: with the step, and the checkpoint that is left.
        """
        step, rate, loss, norm = self.first.tolist()
        if step >= 0:
            kept = f"{self.checkpoint} is whole; " if self.checkpoint.exists() else ""
            raise FloatingPointError(
                f"train: loss and gradient must be finite; got loss {loss} and gradient norm {norm} at step "
                f"{int(step)}; {kept}lower lr (it was {rate:.3g}) or set clip_norm"
            )


def _previous(recipe: Recipe, folder: Path, resume: bool) -> Checkpoint | None:
    """Read the checkpoint to resume from; None to start."""
    if not (folder / CHECKPOINT).exists():
        return None
    if not resume:
        raise FileExistsError(
            f"train: {folder} must not hold a run yet; it has a checkpoint; go on with --resume or choose another --out"
        )
    saved = read_checkpoint(folder / CHECKPOINT)
    free = {"steps", "seconds", "eval_interval", "checkpoint_interval", "log_interval", "workers", "summary"}
    old, new = saved.recipe.to_json(), recipe.to_json()
    changes = [f"{key} was {old[key]}, is {new[key]}" for key in old if key not in free and old[key] != new[key]]
    if changes:
        raise ValueError(
            f"train: the recipe must be that of the run in {folder}; {'; '.join(changes)}; "
            f"resume with the same --set, or choose another --out"
        )
    return saved


def _fingerprint(data: LabelledDataset) -> str:
    """Number and shape of the data and a checksum of 64: enough to notice another data set or order."""
    few, _ = data.batch(torch.linspace(0, len(data) - 1, min(64, len(data))).long())
    shape = "x".join(map(str, (len(data), *data.shape)))
    return f"{shape}:{zlib.crc32(few.numpy().tobytes()):08x}"
