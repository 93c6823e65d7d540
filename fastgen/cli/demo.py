"""Train a small PixelCNN++ on MNIST digits, sample from it, and prove that cached sampling is exact.

Needs no download and ends in time on two CPU cores; with a GPU the same command uses it. The folder gets
samples.png, training.png (with matplotlib), report.md, report.html and the run itself, which `fastgen sample`,
`complete` and `eval` take.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastgen.cli import _runs
from fastgen.training.recipes import get_recipe

if TYPE_CHECKING:
    import torch

    from fastgen.models import Model

SUMMARY = "train on digits, sample, and check cached against naive sampling"
RECIPE = "mnist5k-demo"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of the results (default: demo)")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--seconds", type=float, help="seconds of training (default: the recipe's)")
    budget.add_argument("--steps", type=_runs.positive, help="train for so many steps instead (reproducible)")
    parser.add_argument("-n", type=_runs.positive, default=64, help="digits to draw (default: 64)")
    parser.add_argument(
        "--naive", type=_runs.positive, default=2, help="digits that are also drawn naively (default: 2)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    _runs.add_device(parser)


@dataclass(frozen=True)
class Comparison:
    """Cached against naive sampling of the same noise.

    Attributes:
        method: the method that `auto` took.
        n: images in the batch, the same for both.
        naive: seconds of naive sampling in float32.
        first: seconds of cached sampling in float32, the derivation of its plan included.
        again: seconds of the next call, the plan made.
        differing: levels in which the float32 images differ; rounding may flip one.
        equal: True if all levels agree in float64.
    """

    method: str
    n: int
    naive: float
    first: float
    again: float
    differing: int
    equal: bool


def run(args: argparse.Namespace) -> int:
    """Train, sample, compare, report; exit code 1 if cached and naive images differ."""
    started = time.perf_counter()
    recipe = get_recipe(RECIPE)
    if args.steps is not None:
        recipe = recipe.replace(steps=args.steps)
    elif args.seconds is not None:
        recipe = recipe.replace(seconds=args.seconds)
    _forget_previous(args.out)

    from fastgen.cli import _report
    from fastgen.report.page import read_run, write_page
    from fastgen.training.device import environment, pick_device
    from fastgen.training.loop import train

    device = pick_device(args.device)
    budget = f"{recipe.steps} steps" if recipe.steps is not None else f"{recipe.seconds:.0f} s"
    print(f"training {recipe.model} on {recipe.data} for {budget} on {device.type}", flush=True)
    trained = train(recipe, args.out, device=args.device, progress=not args.quiet)
    assert trained.after is not None  # nothing stops the demo early
    print(
        f"held-out bits/dim {trained.before.bits_per_dim:.4f} before, {trained.after.bits_per_dim:.4f} after "
        f"{trained.step} steps ({trained.after.images} images)",
        flush=True,
    )
    model = trained.model

    clock = time.perf_counter()
    cond = _runs.labels(model, None, args.n)
    images = model.sample(args.n, seed=0, cond=cond, progress=not args.quiet).cpu()
    sampling = time.perf_counter() - clock
    _report.write_samples(args.out / "samples.png", images, model.n_classes)
    print(f"{args.n} digits in {sampling:.2f} s: {args.out / 'samples.png'}", flush=True)

    print(
        f"drawing {args.naive} of them naively, in float32 for the time and in float64 for the proof",
        flush=True,
    )
    compared = compare(model, args.naive, device, progress=not args.quiet)
    print(
        f"batch of {compared.n}: naive {compared.naive:.2f} s, {compared.method} {compared.again:.2f} s "
        f"({compared.first:.2f} s with its plan): {compared.naive / compared.again:.1f} times faster"
    )
    curve = _report.write_curve(args.out / "training.png", args.out / "log.jsonl", trained.after.bits_per_dim)
    if not curve:
        print("training.png is left out: matplotlib is not installed (pip install 'fastgen-torch[plot]')")
    _report.write_report(
        args.out / "report.md",
        recipe=recipe,
        trained=trained,
        compared=compared,
        n=args.n,
        sampling=sampling,
        total=time.perf_counter() - started,
        environment=environment(device),
        curve=curve,
    )
    write_page(args.out / "report.html", read_run(args.out), model, [])
    print(
        f"report: {args.out / 'report.md'}, {args.out / 'report.html'} ({time.perf_counter() - started:.0f} s in all)"
    )
    if not compared.equal:
        print(
            f"fastgen: {compared.method} and naive images of the same noise differ in float64",
            file=sys.stderr,
        )
        return 1
    print(f"{compared.method} and naive images of the same noise are equal, level by level (float64)")
    return 0


def compare(model: Model, n: int, device: torch.device, *, progress: bool = False) -> Comparison:
    """Draw the first n images of seed 0 naively and by the fastest method.

    The images are compared in float64, where rounding cannot flip a level; times are taken in float32, in
    which people sample, one after the other at the same batch size.
    """
    import torch

    from fastgen.sampling import available_methods, prepare

    method = available_methods(device)[0]
    cond = _runs.labels(model, None, n)

    def draw(net: Model, how: str) -> tuple[torch.Tensor, float]:
        started = time.perf_counter()
        images = net.sample(n, seed=0, cond=cond, method=how, progress=progress and how == "naive").cpu()
        return images, time.perf_counter() - started

    _, first = draw(model, method)
    prepared = prepare(model, n, cond=cond, method=method)
    model.sample(n, seed=0, prepared=prepared)  # binds the calls of every pixel
    started = time.perf_counter()
    fast = model.sample(n, seed=0, prepared=prepared).cpu()
    again = time.perf_counter() - started
    slow, naive = draw(model, "naive")
    precise = copy.deepcopy(model).double()
    equal = torch.equal(draw(precise, method)[0], draw(precise, "naive")[0])
    return Comparison(method, n, naive, first, again, int((fast != slow).sum()), equal)


def _forget_previous(out: Path) -> None:
    """Remove the run of an earlier demo; other files stay, and `train` refuses a folder of another run."""
    from fastgen.training.run import CHECKPOINT, LOG, MODEL
    from fastgen.training.run import RECIPE as RECIPE_FILE

    try:
        name = json.loads((out / RECIPE_FILE).read_text()).get("name")
    except (FileNotFoundError, json.JSONDecodeError):
        return
    if name == RECIPE:
        for file in (CHECKPOINT, MODEL, LOG, RECIPE_FILE, "samples.png", "training.png", "report.md", "report.html"):
            (out / file).unlink(missing_ok=True)
