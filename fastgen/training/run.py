"""A training run between two steps: what a checkpoint holds, and how the next step is taken."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgen._files import atomic_write, second_name
from fastgen.data import LabelledDataset, batch_indices, image_grid, loader, sweep, write_image
from fastgen.data.images import eight_bits
from fastgen.evaluation import HeldOut, evaluate
from fastgen.models import AdversarialModel, Model, TranslationModel
from fastgen.models.serialization import save as save_model
from fastgen.nn import initialize_from_data, synchronize_batch_norm
from fastgen.sampling import sample_distributed
from fastgen.training.adversarial import AdversarialTraining
from fastgen.training.build import build_model, data_facts
from fastgen.training.checkpoint import Checkpoint, capture, restore, write_checkpoint
from fastgen.training.device import environment, to_device
from fastgen.training.distributed import Ranks
from fastgen.training.ema import ExponentialMovingAverage
from fastgen.training.recipes import Recipe
from fastgen.training.sharded import is_sharded, shard
from fastgen.training.turn import Turn
from fastgen.training.watch import FiniteWatch

CHECKPOINT = "checkpoint.safetensors"
CHECKPOINTS = "checkpoints"
MODEL = "model.safetensors"
BEST = "best.safetensors"
RECIPE = "recipe.json"
LOG = "log.jsonl"
SAMPLES = "samples"

_OF_RANK = 1_000_003  # between the seeds of processes
OF_A_PHASE = ("loss", "grad_norm", "skipped")
"""What every phase logs."""


class Run:
    """A run between two steps: what a checkpoint holds, and how the next step is taken."""

    def __init__(
        self, recipe: Recipe, folder: Path, device: torch.device, train_set: LabelledDataset, ranks: Ranks
    ) -> None:
        self.recipe, self.folder, self.device, self.train_set, self.ranks = recipe, folder, device, train_set, ranks
        self.labelled = recipe.conditional
        self._check_shares()
        if self.labelled and train_set.n_classes == 0:
            raise ValueError(f"train: {train_set.name} must have labels; it has none; use --set conditional=false")
        self.step, self.seconds = 0, 0.0
        self.notes: dict[str, Any] = {"data": _fingerprint(train_set), "environment": environment(device)}
        self.watch = FiniteWatch(device, folder / CHECKPOINT, self._batch_names)

        torch.manual_seed(recipe.seed)
        n_classes = train_set.n_classes if self.labelled else 0
        model = build_model(recipe, train_set.shape, n_classes, data_facts(train_set))
        self.model = model.to(device).train()
        if recipe.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.batches_a_step = 1
        if recipe.init_from_data:
            initialize_from_data(self.model, *next(self._stream(Ranks())))  # the whole batch: alike in all processes
        channels = max(model.domain_channels) if isinstance(model, TranslationModel) else model.channels
        if recipe.sample_grid and (len(model.axes) != 2 or channels not in (1, 3)):
            raise ValueError(
                f"recipe {recipe.name}: sample_grid shows pictures of 1 or 3 channels; {recipe.model} draws "
                f"{channels} channels of {', '.join(model.axes)}; set sample_grid=0"
            )
        self.course: Model | AdversarialTraining = self.model
        if isinstance(self.model, AdversarialModel):
            self.course = AdversarialTraining(self.model, recipe.adversarial, recipe.batch_size)
        latest = [p for phase in self.course.phases() if not phase.averaged for p in phase.parameters]
        self.ema = ExponentialMovingAverage(self.model, recipe.ema_decay, latest)
        if ranks.several:
            synchronize_batch_norm(self.model)
            if recipe.sharding == "fsdp":
                shard(self.model, device)
                self.ema.follow_shares(self.model)
        sharded = is_sharded(self.model)
        self.turns = [Turn(phase, recipe, device, ranks, sharded=sharded) for phase in self.course.phases()]
        self.batches_a_step = max(turn.phase.repeats for turn in self.turns)
        if ranks.rank:
            torch.manual_seed(recipe.seed + _OF_RANK * ranks.rank)  # dropout and noise of its own

    @property
    def spent(self) -> float:
        """Fraction of the budget that is spent."""
        if self.recipe.steps is not None:
            return self.step / self.recipe.steps
        assert self.recipe.seconds is not None
        return self.seconds / self.recipe.seconds

    def _laid_out(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if self.recipe.channels_last and x.dim() == 4 else x

    def _check_shares(self) -> None:
        """Every process must get as many images as the others, in every micro-batch."""
        recipe, world_size = self.recipe, self.ranks.world_size
        if len(self.train_set) < world_size:
            raise ValueError(
                f"train: there must be as many images as processes; got {len(self.train_set)} of "
                f"{self.train_set.name} and {world_size} processes; start fewer"
            )
        if recipe.batch_size % (world_size * recipe.accumulate):
            parts = world_size * recipe.accumulate
            raise ValueError(
                f"train: batch_size must be a multiple of the {world_size} processes times accumulate="
                f"{recipe.accumulate}, as all of them together take a batch; got {recipe.batch_size}; set batch_size="
                f"{parts * -(-recipe.batch_size // parts)}"
            )

    def batches(self) -> Iterator[tuple[Tensor, Any]]:
        """The images of this process, and what they are conditioned on, of the next step and all later ones."""
        return self._stream(self.ranks)

    def _stream(self, ranks: Ranks) -> Iterator[tuple[Tensor, Any]]:
        recipe = self.recipe
        stream = loader(
            self.train_set,
            recipe.batch_size,
            seed=recipe.seed,
            start_step=self.step * self.batches_a_step,
            workers=recipe.workers,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )
        images = (
            (self._laid_out(to_device(x, self.device)), to_device(labels, self.device) if self.labelled else None)
            for x, labels in stream
        )
        return ((x, self.model.condition_of(x, labels)) for x, labels in images)

    def _batch_names(self, step: int) -> str:
        """What the batch of a step was made of, for messages: file names or numbers, the first 16."""
        n, size, seed = len(self.train_set), self.recipe.batch_size, self.recipe.seed
        numbers = range(step * self.batches_a_step, (step + 1) * self.batches_a_step)
        names = [self.train_set.origin(index) for k in numbers for index in batch_indices(n, size, k, seed).tolist()]
        return ", ".join(names[:16]) + (f" and {len(names) - 16} more" if len(names) > 16 else "")

    def take_step(self, batches: Sequence[tuple[Tensor, Any]]) -> dict[str, Tensor]:
        """One step of every phase whose turn it is, and of the average; what is logged of it.

        Turn j of each phase sees batch j of `batches`, of which there are `batches_a_step`.
        """
        recipe, progress = self.recipe, self.spent
        rate = recipe.learning_rate(self.step, progress)
        self.course.begin_step(progress)
        logged = {"lr": torch.tensor(rate, dtype=torch.float64)}
        for turn in self.turns:
            phase = turn.phase
            if phase.active(progress):
                for x, cond in batches[: phase.repeats]:
                    terms = self._take_turn(turn, rate * phase.lr_scale, x, cond)
                own = "" if len(self.turns) == 1 else f"{phase.name}_"  # several losses, several norms
                logged |= {f"{own}{key}" if key in OF_A_PHASE else key: term for key, term in terms.items()}
        self.ema.update(self.model, self.step)
        self.step += 1
        return logged

    def _take_turn(self, turn: Turn, rate: float, x: Tensor, cond: Any) -> dict[str, Tensor]:
        """One step of a phase's optimiser; its terms and the norm of its gradient."""
        figures, norm, left_out = turn.take(rate, x, cond)
        overflowed = turn.scaler is not None and left_out  # its norm is no sign of bad weights
        self.watch.see(self.step, rate, figures["loss"], torch.zeros_like(norm) if overflowed else norm)
        if self.recipe.skip_norm is not None or turn.scaler is not None:
            figures["skipped"] = torch.tensor(float(left_out))
        return {**figures, "grad_norm": norm}

    def finish(self) -> None:
        """Let the averaged model fit what is no weight to the training images."""
        model = self.ema.model

        def batches() -> Iterator[tuple[Tensor, Any]]:
            for x, labels in sweep(self.train_set, self.recipe.batch_size):
                images = to_device(x, self.device)
                yield images, model.condition_of(images, to_device(labels, self.device) if self.labelled else None)

        self.ema.gather()
        with torch.no_grad():
            model.finish(batches)
        self.ranks.copy_from_first(model)  # what it drew in other processes was other noise

    def evaluate(self, held_out: LabelledDataset) -> HeldOut:
        """What the averaged weights reach on held-out images, which the processes share."""
        self.ema.gather()
        return evaluate(self.ema.model, held_out, batch_size=self.recipe.batch_size, distributed=self.ranks.several)

    def note_best(self, result: HeldOut) -> None:
        """Keep the averaged model if none of this run was better so far."""
        merit = result.merit
        if "best" not in self.notes or merit < self.notes["best"]["merit"]:
            self.notes["best"] = {"merit": merit, "step": self.step}
            self.ranks.on_first(lambda: save_model(self.ema.model, self.folder / BEST))

    def save(self) -> None:
        """Write the checkpoint and the averaged model, unless the weights are spoilt."""
        self.watch.check()
        self.ema.gather()
        checkpoint = Checkpoint(
            recipe=self.recipe,
            model_config=self.model.config,
            step=self.step,
            seconds=self.seconds,
            tensors=capture(self.model, self.ema, self.turns, self.device, self.course.training_state(), self.ranks),
            notes=self.notes,
        )
        self.ranks.on_first(lambda: self._write(checkpoint))

    def _write(self, checkpoint: Checkpoint) -> None:
        newest, kept = self.folder / CHECKPOINT, self.folder / CHECKPOINTS
        write_checkpoint(newest, checkpoint)
        save_model(self.ema.model, self.folder / MODEL)
        if self.recipe.keep_checkpoints > 1:
            kept.mkdir(exist_ok=True)
            second_name(newest, kept / f"step-{self.step:09}.safetensors")
            for stale in sorted(kept.glob("step-*.safetensors"))[: -self.recipe.keep_checkpoints]:
                stale.unlink()

    def draw_grid(self) -> Tensor | None:
        """Draw what the recipe asks to see of the averaged model, the same noise every time; the picture [C, H, W]."""
        recipe, model = self.recipe, self.ema.model
        if not recipe.sample_grid:
            return None
        columns = model.n_classes or None
        if isinstance(model, TranslationModel):
            first = torch.arange(min(recipe.sample_grid, len(self.train_set)))
            images, columns = model.preview(self.train_set.batch(first)[0].to(self.device)).flatten(0, 1).cpu(), 3
        else:
            cond = torch.arange(recipe.sample_grid) % model.n_classes if model.n_classes else None
            images = sample_distributed(model, recipe.sample_grid, seed=0, cond=cond).cpu()
        scale = max(1, 64 // max(images.shape[2:]))
        grid = image_grid(eight_bits(images, model.levels), columns, scale=scale)
        if self.ranks.first:
            path = self.folder / SAMPLES / f"step-{self.step}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, grid)
        return grid

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
        restore(saved, self.model, self.ema, self.turns, self.device, self.course.training_state(), self.ranks)
        self.step, self.seconds = saved.step, saved.seconds
        then, now = saved.notes["environment"], self.notes["environment"]
        changed = [f"{key} {then.get(key)} -> {now[key]}" for key in now if then.get(key) != now[key]]
        if changed and self.ranks.first:
            print(f"resuming elsewhere ({', '.join(changed)}): the bits may differ", file=sys.stderr)
        self.notes = {**saved.notes, "environment": now}

    def claim_folder(self) -> None:
        """Make the folder, note the recipe, and remove what a kill in the middle of a write left."""
        self.ranks.on_first(self._claim)

    def _claim(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (CHECKPOINT, MODEL, BEST, RECIPE, LOG):
            for stale in self.folder.glob(f".{name}.*.tmp"):
                stale.unlink(missing_ok=True)
        atomic_write(self.folder / RECIPE, json.dumps(self.recipe.to_json(), indent=2) + "\n")


def _fingerprint(data: LabelledDataset) -> str:
    """Number and shape of the data and a checksum of 64: enough to notice another data set or order."""
    few, _ = data.batch(torch.linspace(0, len(data) - 1, min(64, len(data))).long())
    shape = "x".join(map(str, (len(data), *data.shape)))
    return f"{shape}:{zlib.crc32(few.numpy().tobytes()):08x}"
