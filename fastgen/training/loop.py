"""The training loop of every model: its phases one after another, and averaged weights."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastgen.data import LabelledDataset
from fastgen.evaluation import HeldOut
from fastgen.models import Model
from fastgen.training.build import load_data
from fastgen.training.checkpoint import Checkpoint, read_checkpoint
from fastgen.training.distributed import joined
from fastgen.training.recipes import Recipe
from fastgen.training.reporter import Reporter
from fastgen.training.run import CHECKPOINT, LOG, Run

FREE = (
    "steps",
    "seconds",
    "eval_interval",
    "checkpoint_interval",
    "keep_checkpoints",
    "log_interval",
    "workers",
    "summary",
    "expected",
    "source",
    "sample_grid",
    "accumulate",
    "compile",
    "channels_last",
    "sharding",
)
"""What a resumed run may have otherwise."""


@dataclass(frozen=True)
class TrainingResult:
    """Where a run ended.

    Attributes:
        out: the run's folder.
        model: the averaged model, in eval mode.
        step: optimiser steps taken.
        seconds: seconds of training, evaluation during it included.
        before: what the untrained weights reach on held-out images.
        after: what the averaged weights reach on them; None when `should_stop` ended the run early.
    """

    out: Path
    model: Model
    step: int
    seconds: float
    before: HeldOut
    after: HeldOut | None


def train(
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "auto",
    progress: bool = True,
    track: Sequence[str] = (),
    data: tuple[LabelledDataset, LabelledDataset] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Minimise what the model says over the training images (or signals) and keep the moving average of the weights.

    The folder `out` gets `checkpoint.safetensors` (the whole run), `model.safetensors` (averaged weights, for
    `fastgen.load`), `best.safetensors` (those that reached most on held-out images, if the recipe evaluates on the
    way), `recipe.json` and `log.jsonl` (a JSON object a line). With a budget of steps, a run that was killed and
    resumed ends with the same bits as one that was not, on the same machine, CPU and thread count. The global random
    generators are seeded with `recipe.seed`.

    Processes that `torchrun` started train together: each takes its share of every batch, so that the run is the one
    of a single process up to rounding and to what is drawn at random on the way (dropout, noise), which each process
    draws for itself. The first one alone reads and writes `out`.

    Args:
        recipe: what to train. On resume it must agree with the checkpoint in all but budget, intervals and how the
            work is laid out (`FREE`).
        out: the run's folder.
        resume: go on from the checkpoint in `out`, or start there if none has been written yet.
        device: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", ...; of several processes each has its own GPU.
        progress: show a progress bar on stderr.
        track: where else to log: "tensorboard", "wandb".
        data: training and held-out images or signals; by default those that the recipe names.
        should_stop: asked before every step; True, in any process, writes a checkpoint and returns.

    Raises:
        ValueError: the recipe, the data or the checkpoint cannot be used, or a batch that cannot be shared equally.
        FileExistsError: `out` holds a run and `resume` is False.
        FloatingPointError: the loss or the gradient stopped being finite; the last checkpoint is kept.
        OSError: a checkpoint could not be written; the last one is kept.
    """
    folder = Path(out)
    with joined(device) as (ranks, where):
        saved = ranks.on_first(lambda: _previous(recipe, folder, resume))
        train_set, held_out = data if data is not None else ranks.in_turn(lambda: load_data(recipe))
        run = Run(recipe, folder, where, train_set, ranks)
        if saved is not None:
            run.restore(saved)
        batches = run.batches()
        run.claim_folder()
        keep_until = -1 if saved is None else run.step
        reporter = Reporter(run, folder / LOG, keep_until, progress=progress, track=track)

        def evaluate_now() -> HeldOut:
            result = run.evaluate(held_out)
            reporter.evaluated(result)
            reporter.drew(run.draw_grid())
            return result

        try:
            if saved is None:
                run.notes["before"] = evaluate_now().to_json()
                run.save()  # so that there is a checkpoint before whatever goes wrong
            clock = time.monotonic() - run.seconds
            stopped, run.seconds = ranks.agree(should_stop(), run.seconds)
            while run.spent < 1 and not stopped:
                reporter.took(run.take_step([next(batches) for _ in range(run.batches_a_step)]))
                stopped, run.seconds = ranks.agree(should_stop(), time.monotonic() - clock)
                if run.step % recipe.log_interval == 0 or run.spent >= 1:
                    run.watch.check()
                    reporter.trained()
                if recipe.eval_interval and run.step % recipe.eval_interval == 0:
                    result = evaluate_now()
                    run.note_best(result)
                    reporter.note(f"step {run.step}: held-out {result}")
                if run.step % recipe.checkpoint_interval == 0:
                    run.save()
            done = run.spent >= 1
            if done:
                run.finish()
            run.save()
            after = evaluate_now() if done else None
        finally:
            reporter.close()
        before = HeldOut.from_json(run.notes["before"])
        return TrainingResult(folder, run.ema.model, run.step, run.seconds, before, after)


def _previous(recipe: Recipe, folder: Path, resume: bool) -> Checkpoint | None:
    """Read the checkpoint to resume from; None to start."""
    if not (folder / CHECKPOINT).exists():
        return None
    if not resume:
        raise FileExistsError(
            f"train: {folder} must not hold a run yet; it has a checkpoint; go on with --resume or choose another --out"
        )
    saved = read_checkpoint(folder / CHECKPOINT)
    old, new = saved.recipe.to_json(), recipe.to_json()
    changes = [f"{key} was {old[key]}, is {new[key]}" for key in old if key not in FREE and old[key] != new[key]]
    if changes:
        raise ValueError(
            f"train: the recipe must be that of the run in {folder}; {'; '.join(changes)}; "
            f"resume with the same --set, or choose another --out"
        )
    return saved
