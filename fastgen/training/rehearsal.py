"""What a run would take, found by a few steps that leave nothing behind."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from fastgen.data import LabelledDataset
from fastgen.training.build import load_data
from fastgen.training.distributed import joined
from fastgen.training.recipes import Recipe
from fastgen.training.run import Run

MIB = 2**20


@dataclass(frozen=True)
class Rehearsal:
    """Sizes and times of a run that has not begun.

    Attributes:
        model: name of its class.
        parameters: weights by phase; one that several phases move counts in each.
        total_parameters: weights in all.
        items: training images (or signals), their shape, and how many of them are held out.
        batch: images a step, processes that share it, and micro-batches that each takes its share in.
        weight_bytes: of weights and buffers, of a process.
        state_bytes: of gradients, the optimiser's state and the moving average.
        peak_bytes: the most that a step took, on a GPU of its memory, else of the process's with all of the program.
        seconds_a_step: the median over the steps tried, without the first one.
        device: in words.
        total_seconds: of the whole budget; None where nothing could be timed.
    """

    model: str
    parameters: dict[str, int]
    total_parameters: int
    items: tuple[int, tuple[int, ...], int]
    batch: tuple[int, int, int]
    weight_bytes: int
    state_bytes: int
    peak_bytes: int | None
    seconds_a_step: float
    device: str
    total_seconds: float

    def __str__(self) -> str:
        """A few lines for people."""
        n, shape, held_out = self.items
        batch, world_size, accumulate = self.batch
        phases = ", ".join(f"{name} {count:,}" for name, count in self.parameters.items())
        weights = f"{self.total_parameters:,}" + (f" ({phases})" if len(self.parameters) > 1 else "")
        how = f" on {world_size} processes" if world_size > 1 else ""
        how += f" in {accumulate} micro-batches" if accumulate > 1 else ""
        memory = f"weights {self.weight_bytes / MIB:.1f} MiB, gradients, optimiser and average "
        memory += f"{self.state_bytes / MIB:.1f} MiB"
        if self.peak_bytes is not None:
            memory += f", peak of a step {self.peak_bytes / MIB:.0f} MiB"
        return "\n".join(
            (
                f"model       {self.model}, {weights} parameters",
                f"data        {n:,} of {'x'.join(map(str, shape))}, {held_out:,} held out",
                f"batch       {batch}{how}",
                f"device      {self.device}",
                f"memory      {memory}",
                f"step        {self.seconds_a_step * 1e3:.1f} ms, {batch / self.seconds_a_step:,.1f} a second",
                f"budget      {_duration(self.total_seconds)}, evaluation and checkpoints not counted",
            )
        )


def rehearse(
    recipe: Recipe,
    *,
    steps: int = 4,
    device: str = "auto",
    data: tuple[LabelledDataset, LabelledDataset] | None = None,
) -> Rehearsal:
    """Build the run of `recipe`, take a few of its steps, and say what it would need; no file is written.

    The global random generators are seeded as by `train`.

    Raises:
        ValueError: as `train`, before a run would begin, and fewer than two steps.
    """
    if steps < 2:
        raise ValueError(f"rehearse: steps must be at least 2, of which the first is not timed; got {steps}")
    with joined(device) as (ranks, where):
        train_set, held_out = data if data is not None else ranks.in_turn(lambda: load_data(recipe))
        run = Run(recipe, Path(recipe.name), where, train_set, ranks)
        if where.type == "cuda":
            torch.cuda.reset_peak_memory_stats(where)
        batches = run.batches()
        times = []
        for _ in range(steps):
            started = time.perf_counter()
            run.take_step([next(batches) for _ in range(run.batches_a_step)])
            if where.type == "cuda":
                torch.cuda.synchronize(where)
            times.append(time.perf_counter() - started)
        seconds = statistics.median(times[1:])
        weights = [*run.model.parameters(), *run.model.buffers()]
        state = [value for turn in run.turns for entry in turn.optimizer.state.values() for value in entry.values()]
        gradients = [p.grad for p in run.model.parameters() if p.grad is not None]
        averages = [*run.ema.model.parameters(), *run.ema.model.buffers()]
        return Rehearsal(
            model=type(run.ema.model).__name__,
            parameters={turn.phase.name: sum(p.numel() for p in turn.phase.parameters) for turn in run.turns},
            total_parameters=sum(p.numel() for p in run.ema.model.parameters()),
            items=(len(train_set), tuple(train_set.shape), len(held_out)),
            batch=(recipe.batch_size, ranks.world_size, recipe.accumulate),
            weight_bytes=_bytes(weights),
            state_bytes=_bytes([*gradients, *state, *averages]),
            peak_bytes=_peak(where),
            seconds_a_step=seconds,
            device=run.notes["environment"]["device"],
            total_seconds=recipe.seconds if recipe.seconds is not None else seconds * (recipe.steps or 0),
        )


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, torch.Tensor))


def _peak(device: torch.device) -> int | None:
    """The most memory there was in use: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # not on every system
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    shown = [f"{count} {unit}" for count, unit in parts if count][:2]
    return " ".join(shown) or f"{seconds:.1f} s"
