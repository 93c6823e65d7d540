"""The training loop of every model: its phases with Adam, and averaged weights."""

from __future__ import annotations

import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgen._files import atomic_write
from fastgen.data import LabelledDataset, batch_indices, image_grid, loader, sweep, write_image
from fastgen.data.images import eight_bits
from fastgen.evaluation import HeldOut, evaluate
from fastgen.models import AdversarialModel, Model, Phase
from fastgen.models.serialization import save as save_model
from fastgen.nn import initialize_from_data
from fastgen.training.adversarial import AdversarialTraining
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
SAMPLES = "samples"

OF_A_PHASE = ("loss", "grad_norm", "skipped")
"""What every phase logs."""


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
    data: tuple[LabelledDataset, LabelledDataset] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Minimise what the model says over the training images (or signals) and keep the moving average of the weights.

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
    log = JsonLog(folder / LOG, keep_until=-1 if saved is None else run.step)

    def evaluate_now() -> HeldOut:
        result = evaluate(run.ema.model, held_out, batch_size=recipe.batch_size)
        log.write("eval", run.step, run.seconds, **result.to_json())
        run.draw_grid()
        return result

    if saved is None:
        run.notes["before"] = evaluate_now().to_json()
        run.save()  # so that there is a checkpoint before whatever goes wrong
    bar = ProgressBar(recipe, run.step, run.seconds, shown=progress)
    terms = _Terms()
    clock = time.monotonic() - run.seconds
    stopped = False
    try:
        while run.spent < 1 and not (stopped := should_stop()):
            terms.add(run.take_step([next(batches) for _ in range(run.batches_a_step)]))
            run.seconds = time.monotonic() - clock
            if run.step % recipe.log_interval == 0 or run.spent >= 1:
                run.watch.check()
                means = terms.means()
                log.write("train", run.step, run.seconds, **means)
                bar.show(run.step, run.seconds, _headline(means))
            if recipe.eval_interval and run.step % recipe.eval_interval == 0:
                bar.note(f"step {run.step}: held-out {evaluate_now()}")
            if run.step % recipe.checkpoint_interval == 0:
                run.save()
    finally:
        bar.close()
    if not stopped:
        run.finish()
    run.save()
    after = None if stopped else evaluate_now()
    before = HeldOut.from_json(run.notes["before"])
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
        self.watch = _FiniteWatch(device, folder / CHECKPOINT, self._batch_names)

        torch.manual_seed(recipe.seed)
        n_classes = train_set.n_classes if self.labelled else 0
        model = build_model(recipe, train_set.shape, n_classes, data_facts(train_set))
        self.model = model.to(device).train()
        self.batches_a_step = 1
        if recipe.init_from_data:
            initialize_from_data(self.model, *next(self.batches()))
        if recipe.sample_grid and (len(model.axes) != 2 or model.channels not in (1, 3)):
            raise ValueError(
                f"recipe {recipe.name}: sample_grid shows pictures of 1 or 3 channels; {recipe.model} draws "
                f"{model.channels} channels of {', '.join(model.axes)}; set sample_grid=0"
            )
        self.course: Model | AdversarialTraining = self.model
        if isinstance(self.model, AdversarialModel):
            self.course = AdversarialTraining(self.model, recipe.adversarial, recipe.batch_size)
        phases = self.course.phases()
        latest = [parameter for phase in phases if not phase.averaged for parameter in phase.parameters]
        self.ema = ExponentialMovingAverage(self.model, recipe.ema_decay, latest)
        self.turns = [(phase, self._optimizer(phase)) for phase in phases]
        self.batches_a_step = max(phase.repeats for phase in phases)

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
            self.train_set,
            recipe.batch_size,
            seed=recipe.seed,
            start_step=self.step * self.batches_a_step,
            workers=recipe.workers,
        )
        images = (
            (to_device(x, self.device), to_device(labels, self.device) if self.labelled else None)
            for x, labels in stream
        )
        return ((x, self.model.condition_of(x, labels)) for x, labels in images)

    def _batch_names(self, step: int) -> str:
        """What the batch of a step was made of, for messages: file names or numbers, the first 16."""
        n, size, seed = len(self.train_set), self.recipe.batch_size, self.recipe.seed
        numbers = range(step * self.batches_a_step, (step + 1) * self.batches_a_step)
        names = [self.train_set.origin(index) for k in numbers for index in batch_indices(n, size, k, seed).tolist()]
        return ", ".join(names[:16]) + (f" and {len(names) - 16} more" if len(names) > 16 else "")

    def _optimizer(self, phase: Phase) -> torch.optim.Optimizer:
        recipe = self.recipe
        fused = self.device.type in ("cpu", "cuda")
        return torch.optim.Adam(phase.parameters, lr=recipe.lr, betas=phase.betas or recipe.betas, fused=fused)

    def take_step(self, batches: Sequence[tuple[Tensor, Any]]) -> dict[str, Tensor]:
        """One step of every phase whose turn it is, and of the average; what is logged of it.

        Turn j of each phase sees batch j of `batches`, of which there are `batches_a_step`.
        """
        recipe, progress = self.recipe, self.spent
        rate = recipe.learning_rate(self.step, progress)
        self.course.begin_step(progress)
        logged = {"lr": torch.tensor(rate, dtype=torch.float64)}
        for phase, optimizer in self.turns:
            if phase.active(progress):
                for x, cond in batches[: phase.repeats]:
                    terms = self._take_turn(phase, optimizer, rate * phase.lr_scale, x, cond)
                own = "" if len(self.turns) == 1 else f"{phase.name}_"  # several losses, several norms
                logged |= {f"{own}{key}" if key in OF_A_PHASE else key: term for key, term in terms.items()}
        self.ema.update(self.model, self.step)
        self.step += 1
        return logged

    def _take_turn(
        self, phase: Phase, optimizer: torch.optim.Optimizer, rate: float, x: Tensor, cond: Any
    ) -> dict[str, Tensor]:
        """One step of Adam on the loss of a phase; its terms and the norm of its gradient."""
        recipe = self.recipe
        optimizer.param_groups[0]["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            terms = phase.loss(x, cond)
        loss = terms["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=list(phase.parameters))
        norm = nn.utils.get_total_norm([p.grad for p in phase.parameters if p.grad is not None])
        if recipe.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(phase.parameters, recipe.clip_norm, norm)
        self.watch.see(self.step, rate, loss.detach(), norm)
        figures = {**{key: term.detach() for key, term in terms.items()}, "grad_norm": norm}
        if recipe.skip_norm is not None:
            skipped = bool(norm > recipe.skip_norm)  # looking waits for the device, once a step
            figures["skipped"] = torch.tensor(float(skipped))
            if skipped:
                return figures
        optimizer.step()
        if phase.after is not None:
            phase.after()
        return figures

    def finish(self) -> None:
        """Let the averaged model fit what is no weight to the training images."""
        model = self.ema.model

        def batches() -> Iterator[tuple[Tensor, Any]]:
            for x, labels in sweep(self.train_set, self.recipe.batch_size):
                images = to_device(x, self.device)
                yield images, model.condition_of(images, to_device(labels, self.device) if self.labelled else None)

        with torch.no_grad():
            model.finish(batches)

    def save(self) -> None:
        """Write the checkpoint and the averaged model, unless the weights are spoilt."""
        self.watch.check()
        checkpoint = Checkpoint(
            recipe=self.recipe,
            model_config=self.model.config,
            step=self.step,
            seconds=self.seconds,
            tensors=capture(self.model, self.ema, self._optimizers(), self.device, self.course.training_state()),
            notes=self.notes,
        )
        write_checkpoint(self.folder / CHECKPOINT, checkpoint)
        save_model(self.ema.model, self.folder / MODEL)

    def draw_grid(self) -> None:
        """Draw what the recipe asks to see of the averaged model, the same noise every time, and leave no trace."""
        recipe, model = self.recipe, self.ema.model
        if not recipe.sample_grid:
            return
        cond = torch.arange(recipe.sample_grid) % model.n_classes if model.n_classes else None
        images = model.sample(recipe.sample_grid, seed=0, cond=cond).cpu()
        path = self.folder / SAMPLES / f"step-{self.step}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        scale = max(1, 64 // max(images.shape[2:]))
        write_image(path, image_grid(eight_bits(images, model.levels), model.n_classes or None, scale=scale))

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {phase.name: optimizer for phase, optimizer in self.turns}

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
        restore(saved, self.model, self.ema, self._optimizers(), self.device, self.course.training_state())
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


class _Terms:
    """Means of what steps log since the last line."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def add(self, terms: dict[str, Tensor]) -> None:
        """Note one step; nothing is read from the device yet."""
        self.steps.append(terms)

    def means(self) -> dict[str, float]:
        """The mean of each term over the steps that had it, of learning rate and norms the latest; forgets them."""
        lists: dict[str, list[Tensor]] = {}
        for step in self.steps:
            for key, term in step.items():
                lists.setdefault(key, []).append(term)
        self.steps.clear()
        latest = {key for key in lists if key == "lr" or key.endswith("grad_norm")}
        return {
            key: float(terms[-1]) if key in latest else float(torch.stack(terms).mean()) for key, terms in lists.items()
        }


def _headline(means: dict[str, float]) -> str:
    """What the progress bar shows of a line of the log."""
    if "bits_per_dim" in means:
        return f"{means['bits_per_dim']:.3f} bits/dim"
    return ", ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in means.items() if key.endswith("loss"))


class _FiniteWatch:
    """Remembers the first step whose loss or gradient was not finite, without waiting for the device."""

    def __init__(self, device: torch.device, checkpoint: Path, batch_names: Callable[[int], str]) -> None:
        self.first = torch.full((4,), -1.0, dtype=torch.float64, device=device)  # step, rate, loss, norm
        self.checkpoint, self.batch_names = checkpoint, batch_names
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
            FloatingPointError: with the step, its batch, and the checkpoint that is left.
        """
        step, rate, loss, norm = self.first.tolist()
        if step >= 0:
            kept = f"{self.checkpoint} is whole; " if self.checkpoint.exists() else ""
            raise FloatingPointError(
                f"train: loss and gradient must be finite; got loss {loss} and gradient norm {norm} at step "
                f"{int(step)}, whose batch was {self.batch_names(int(step))}; {kept}lower lr (it was {rate:.3g}) "
                "or set clip_norm"
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
    free |= {"sample_grid"}
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
