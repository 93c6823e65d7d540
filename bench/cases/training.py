"""Whole training steps: forward, loss, backward, optimiser and average of the weights; and what their input costs.

Ours is a `Run` of `fastgen train`. Plain PyTorch is the same network, weights and batch as code without this package
has it (`bench.plain`), checked to have the same losses and gradients before anything is timed.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from bench.case import Builder, Case, Run, scratch_folder

if TYPE_CHECKING:
    from fastgen.data import LabelledDataset
    from fastgen.training import Recipe
    from fastgen.training.run import Run as TrainingRun

TAG = "training"
PLAIN, COMPILED, OURS = "plain PyTorch", "plain PyTorch, compiled", "fastgen"
AT_HAND = "batch at hand"
NO_SECOND = "no compiled variant: torch.compile has no second derivative, which the penalties take"


@dataclass(frozen=True)
class Setting:
    """A model, its images and how it is trained.

    Attributes:
        model: a name in `fastgen.models.MODELS`.
        config: its arguments.
        batch: images a step.
        size: side of the images, in colour.
        steps: steps of one call: a whole cycle where penalties come every few steps.
        precision: of the recipe.
        compiled: how `torch.compile` takes the plain network: "blocks", a mode, or None where it cannot.
        ours_compiled: modes of `torch.compile` that ours is measured with too.
        fixed: other fields of the recipe.
    """

    model: str
    config: Mapping[str, Any]
    batch: int
    size: int
    steps: int = 1
    precision: str = "float32"
    compiled: str | None = "default"
    ours_compiled: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def recipe(self, **changes: Any) -> Recipe:
        """The recipe; its data are drawn, not loaded."""
        from fastgen.training import Recipe

        common: dict[str, Any] = {"lr": 1e-4, "ema_decay": 0.9995, "steps": 10**9, "workers": 0, **self.fixed}
        return Recipe(
            "bench",
            data="noise",
            model=self.model,
            config=self.config,
            batch_size=self.batch,
            precision=cast("Any", self.precision),
            **{**common, **changes},
        )

    def images(self, n: int) -> Tensor:
        """Smooth noise, always the same: uint8 [n, 3, size, size]."""
        coarse = torch.rand(n, 3, max(1, self.size // 4), max(1, self.size // 4), generator=_seeded())
        fine = torch.nn.functional.interpolate(coarse, size=(self.size, self.size), mode="bilinear")
        return (fine * 255).to(torch.uint8)


PIXELCNN = {"n_mix": 10, "dropout": 0.5}
SMALL_VDVAE = {
    "n_filters": 32,
    "latent_channels": 8,
    "scales": [1, 2, 4, 16],
    "encoder_blocks": [2, 2, 2, 1],
    "decoder_blocks": [3, 2, 2, 1],
}
WIDE_STYLES = (128, 256, 512, 512, 512, 512, 512)
LAZY = {"adversarial": {"r1_interval": 16, "path_length_interval": 8}}
GRAPHED = "reduce-overhead"

CPU = {
    "pixelcnnpp-2": Setting("PixelCNNPP", {**PIXELCNN, "n_resnet": 2, "n_filters": 16}, 16, 16, compiled="blocks"),
    "pixelcnnpp-5": Setting("PixelCNNPP", {**PIXELCNN, "n_resnet": 5, "n_filters": 16}, 16, 16, compiled="blocks"),
    "vdvae": Setting("VDVAE", SMALL_VDVAE, 16, 16),
    "dcgan": Setting("DCGAN", {"latent_dim": 64, "n_filters": [32, 64, 128]}, 32, 16),
    "stylegan2": Setting("StyleGAN2", {"n_filters": [16, 32, 64, 64]}, 8, 32, steps=16, compiled=None, fixed=LAZY),
}
"""The structure of the papers' networks with few filters: a minute each on two cores, compilation aside."""

CUDA = {
    "pixelcnnpp-2": Setting(
        "PixelCNNPP", {**PIXELCNN, "n_resnet": 2, "n_filters": 160}, 64, 32, 1, "bfloat16", GRAPHED, (GRAPHED,)
    ),
    "pixelcnnpp-5": Setting(
        "PixelCNNPP", {**PIXELCNN, "n_resnet": 5, "n_filters": 160}, 32, 32, 1, "bfloat16", GRAPHED, (GRAPHED,)
    ),
    "vdvae": Setting("VDVAE", {}, 32, 32, 1, "bfloat16", GRAPHED, (GRAPHED,)),
    "dcgan": Setting(
        "DCGAN", {"latent_dim": 100, "n_filters": [128, 256, 512, 1024]}, 128, 64, 1, "bfloat16", GRAPHED, (GRAPHED,)
    ),
    "stylegan2": Setting("StyleGAN2", {"n_filters": WIDE_STYLES}, 16, 256, 16, "bfloat16", None, fixed=LAZY),
}
"""The papers' sizes: CIFAR-10 for PixelCNN++ and VDVAE, 64x64 for DCGAN, the wide 256x256 network of StyleGAN2."""


def cases() -> list[Case]:
    """Collect the cases of this subject."""
    found = [
        case(name, setting, device)
        for device, settings in (("cpu", CPU), ("cuda", CUDA))
        for name, setting in settings.items()
    ]
    return [*found, pipeline("pixelcnnpp-2", CPU["pixelcnnpp-2"], "cpu"), pipeline("dcgan", CUDA["dcgan"], "cuda")]


def case(name: str, setting: Setting, device: str) -> Case:
    """Steps of one model on one kind of device."""

    def ours(compiled: str) -> Builder:
        return lambda device: _calls(_our_step(setting, device, compiled), setting.steps)

    def plain(compiled: str | None) -> Builder:
        return lambda device: _calls(_plain_step(setting, device, compiled), setting.steps)

    variants = {PLAIN: plain(None)}
    if setting.compiled is not None:
        variants[COMPILED] = plain(setting.compiled)
    variants[OURS] = ours("none")
    for mode in setting.ours_compiled:
        variants[f"{OURS}, compiled"] = ours(mode)
    # the compiler has random numbers of its own; what is compared closely is in check_same
    draws_alike = setting.compiled is None and setting.precision == "float32"
    tolerance = 1e-3 if draws_alike else 5e-2
    shape = f"{setting.batch}x3x{setting.size}x{setting.size}"
    notes = [NO_SECOND] if setting.compiled is None else []
    if setting.compiled == "blocks":
        notes.append("compiled is each gated resnet: of the whole network it takes minutes, for the same speed")
    return Case(
        name=f"{TAG}/{name}/{shape}{'' if setting.precision == 'float32' else f'-{setting.precision}'}",
        variants=variants,
        baseline=PLAIN,
        title=f"{_title(setting)}, batch of {setting.batch} at {setting.size}x{setting.size}, {setting.precision}",
        devices=(device,),
        tags=(TAG,),
        check=lambda results: agree(results, tolerance),
        items=setting.batch * setting.steps,
        notes="; ".join(notes),
    )


def pipeline(name: str, setting: Setting, device: str) -> Case:
    """The same steps with the batch at hand, and with batches that are read: what is slower is time spent waiting."""

    def at_hand(device: str) -> Run:
        return _calls(_our_step(setting, device, "none"), 8)

    def read(source: Callable[[Setting], LabelledDataset], workers: int) -> Builder:
        def build(device: str) -> Run:
            run = _run(setting, device, "none", source(setting), workers=workers)
            batches = run.batches()

            def step() -> list[Tensor]:
                return _losses(run.take_step([next(batches) for _ in range(run.batches_a_step)]))

            return _calls(step, 8)

        return build

    return Case(
        name=f"{TAG}/input/{name}-{setting.batch}x3x{setting.size}x{setting.size}",
        variants={
            AT_HAND: at_hand,
            "images in memory": read(_in_memory, 0),
            "folder of PNGs, two workers": read(_folder, 2),
            "folder of PNGs, read in between": read(_folder, 0),
        },
        baseline=AT_HAND,
        title=f"steps with their input: {_title(setting)}, batch of {setting.batch} at {setting.size}x{setting.size}",
        devices=(device,),
        tags=(TAG,),
        items=setting.batch * 8,
        notes="1 - speed-up is the share of the time that is spent waiting for a batch",
    )


def agree(results: Mapping[str, object], part: float) -> None:
    """The losses of the first step; masks and latents are drawn by each for itself."""
    first, *others = (cast("list[Tensor]", value) for value in results.values())
    for other in others:
        for a, b in zip(first, other, strict=True):
            torch.testing.assert_close(b.double().cpu(), a.double().cpu(), rtol=part, atol=part)


def plain_operations(setting: Setting) -> AbstractContextManager[object]:
    """Where ops are replaced while the network runs, and not in it."""
    if setting.model != "StyleGAN2":
        return contextlib.nullcontext()
    from bench.cases.stylegan2 import plain_operations as operations

    return operations()


def _our_step(setting: Setting, device: str, compiled: str) -> Callable[[], list[Tensor]]:
    run = _run(setting, device, compiled)
    batch = next(run.batches())
    batches = [batch] * run.batches_a_step
    return lambda: _losses(run.take_step(batches))


def _plain_step(setting: Setting, device: str, compiled: str | None) -> Callable[[], list[Tensor]]:
    from bench.plain import PlainTraining, check_same, plain

    run = _run(setting, device, "none")
    x, _ = next(run.batches())
    if compiled is None:
        check_same(run.model, run.recipe, x, lambda: plain_operations(setting))
    training = PlainTraining(plain(run.model), run.recipe, device, compiled)

    def step() -> list[Tensor]:
        with plain_operations(setting):
            return training.step(x)

    return step


def _run(
    setting: Setting, device: str, compiled: str, data: LabelledDataset | None = None, workers: int = 0
) -> TrainingRun:
    from fastgen.training.distributed import Ranks
    from fastgen.training.run import Run as TrainingRun

    recipe = setting.recipe(compile=compiled, channels_last=device == "cuda", workers=workers)
    return TrainingRun(recipe, Path("bench"), torch.device(device), data or _in_memory(setting), Ranks())


def _calls(step: Callable[[], list[Tensor]], steps: int) -> Run:
    """A function that takes some steps and returns the losses of the first one."""

    def run() -> list[Tensor]:
        torch.manual_seed(1)
        losses = step()
        for _ in range(steps - 1):
            step()
        return losses

    return run


def _losses(logged: Mapping[str, Tensor]) -> list[Tensor]:
    return [value for key, value in logged.items() if key == "loss" or key.endswith("_loss")]


def _in_memory(setting: Setting) -> LabelledDataset:
    from fastgen.data import TensorImages

    images = setting.images(4 * setting.batch)
    return TensorImages("noise", images, torch.zeros(len(images), dtype=torch.int64))


def _folder(setting: Setting) -> LabelledDataset:
    from fastgen.data import load, write_image

    folder = scratch_folder()
    for index, image in enumerate(setting.images(8 * setting.batch)):
        write_image(folder / f"{index:05}.png", image)
    return load(str(folder), split="all")


def _title(setting: Setting) -> str:
    shown = itertools.chain(setting.config.items(), [("steps", setting.steps)] if setting.steps > 1 else [])
    words = (f"{key.removeprefix('n_').replace('_', ' ')} {_value(value)}" for key, value in shown if key != "n_mix")
    return f"{setting.model} ({', '.join(words) or 'as published'})"


def _value(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
