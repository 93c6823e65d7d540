"""Commands as a shell runs them, whole processes: what starting and loading cost beside the work."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bench.case import Builder, Case, Run, scratch_folder
from bench.record import ROOT

if TYPE_CHECKING:
    from fastgen.models import Model

SHAPE, IMAGES = (1, 28, 28), 16


def cases() -> list[Case]:
    """Collect the cases of this subject."""
    return [
        Case(
            name=f"commands/sample/{IMAGES}x1x28x28",
            variants={
                "in this process": _sampled_here,
                "fastgen sample": _command(_run_folder, "sample", "-n", IMAGES),
            },
            baseline="in this process",
            title=f"PixelCNN++ (1 resnet, 24 filters): {IMAGES} images 28x28x1, planned, drawn and written",
            unit="s",
            devices=("cpu",),
            tags=("commands",),
            in_process=False,
        ),
        Case(
            name="commands/models",
            variants={"python, import torch": _python("import torch"), "fastgen models": _command(None, "models")},
            baseline="python, import torch",
            title="the list of models and recipes, beside what every program with PyTorch pays",
            unit="s",
            devices=("cpu",),
            tags=("commands",),
            in_process=False,
        ),
    ]


def _model() -> Model:
    from fastgen.models import PixelCNNPP

    torch.manual_seed(0)
    return PixelCNNPP(1, n_resnet=1, n_filters=24, dropout=0.0, image_size=SHAPE[1:]).eval()


def _sampled_here(device: str) -> Run:
    from fastgen.data import image_grid, write_image
    from fastgen.sampling import sample

    model, folder = _model(), scratch_folder()

    def run() -> None:
        write_image(folder / "samples.png", image_grid(sample(model, IMAGES)))

    return run


def _run_folder() -> Path:
    """A folder with a model, as a run leaves it."""
    import fastgen

    folder = scratch_folder()
    fastgen.save(_model(), folder / "model.safetensors")
    return folder


def _command(folder: Callable[[], Path] | None, name: str, *options: object) -> Builder:
    """`fastgen NAME [FOLDER] OPTIONS` on the CPU."""

    def build(device: str) -> Run:
        where = [] if folder is None else [os.fspath(folder()), "--device", device, "--quiet"]
        return _process([sys.executable, "-m", "fastgen", name, *where, *map(str, options)])

    return build


def _python(code: str) -> Builder:
    return lambda device: _process([sys.executable, "-c", code])


def _process(command: list[str]) -> Run:
    """Run it to its end.

    Raises:
        RuntimeError: it failed, with what it said.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}

    def run() -> None:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")

    return run
