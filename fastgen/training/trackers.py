"""Where else a run is watched: TensorBoard and Weights & Biases, each an extra that is imported when asked for."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from fastgen._files import atomic_write
from fastgen._names import unknown_name

TENSORBOARD, WANDB_ID = "tensorboard", "wandb.id"
PROJECT = "fastgen"


class Tracker(Protocol):
    """Somewhere that figures and pictures of a run go."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Note figures of a step, by names like "train/loss"; what is not finite is left out."""

    def image(self, step: int, name: str, image: Tensor) -> None:
        """Note a picture of a step. Shapes: uint8 [C, H, W], C = 1 or 3."""

    def close(self) -> None:
        """Write what has not been written yet."""


class TensorBoard:
    """Event files in `tensorboard` in the run's folder: `tensorboard --logdir RUN`.

    A resumed run adds a file; of steps that it takes again the later values are shown.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard", error) from error
        self.writer: Any = SummaryWriter(str(folder / TENSORBOARD))
        lines = [f"    {key} = {value!r}" for key, value in recipe.items()]  # four spaces: Markdown shows it as it is
        self.writer.add_text("recipe", "\n".join(lines))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """As `Tracker.scalars`."""
        for name, value in _finite(values).items():
            self.writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: Tensor) -> None:
        """As `Tracker.image`."""
        self.writer.add_image(name, image, step)

    def close(self) -> None:
        """As `Tracker.close`."""
        self.writer.close()


class WeightsAndBiases:
    """A run of the project `fastgen`, or of `$WANDB_PROJECT`; a resumed run goes on with the same one.

    Its number is kept in `wandb.id` in the run's folder. Steps are a figure of their own, since a run that was killed
    takes some of them again.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        try:
            import wandb  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise _missing("wandb", error) from error
        self.wandb: Any = wandb
        folder.mkdir(parents=True, exist_ok=True)
        known = folder / WANDB_ID
        if not known.exists():
            atomic_write(known, secrets.token_hex(8) + "\n")
        options: dict[str, Any] = {"name": folder.name, "config": dict(recipe), "dir": str(folder)}
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), id=known.read_text().strip(), resume="allow", **options
        )
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """As `Tracker.scalars`."""
        self.run.log({"step": step, **_finite(values)})

    def image(self, step: int, name: str, image: Tensor) -> None:
        """As `Tracker.image`."""
        pixels = image.permute(1, 2, 0).cpu().numpy()
        self.run.log({"step": step, name: self.wandb.Image(pixels[:, :, 0] if image.shape[0] == 1 else pixels)})

    def close(self) -> None:
        """As `Tracker.close`."""
        self.run.finish()


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


def open_trackers(names: Sequence[str], folder: Path, recipe: Mapping[str, Any]) -> list[Tracker]:
    """Open the trackers of `names` for the run in `folder`, whose recipe they show.

    Raises:
        ValueError: an unknown name, one given twice, or a tracker whose package is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise unknown_name("tracker", name, TRACKERS)
    if len(set(names)) != len(names):
        raise ValueError(f"track: each tracker must be named once; got {', '.join(names)}; leave the second one out")
    opened: list[Tracker] = []
    try:
        for name in names:
            opened.append(TRACKERS[name](folder, recipe))
    except BaseException:
        for tracker in opened:
            tracker.close()
        raise
    return opened


def _missing(name: str, error: ImportError) -> ValueError:
    return ValueError(
        f"track: {name} must be installed; got {type(error).__name__}: {error}; pip install 'fastgen-torch[{name}]', "
        f"or leave {name} out of --track"
    )


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if math.isfinite(value)}
