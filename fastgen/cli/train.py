"""Train a model by a recipe into a folder: checkpoint, model, log.

A run that was killed goes on with the same command and --resume. With a budget of steps it then ends with the
same bits as one that was never killed; with a budget of seconds its learning rate follows the clock.

`fastgen train classifier --encoder RUN` trains classifiers on a trained encoder instead, and the same network from
scratch, with few labels and with all, and prints a table of their accuracies.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from fastgen.cli import _runs
from fastgen.cli.models import by_kind
from fastgen.training.recipes import RECIPES, Recipe, get_recipe, read_config

SUMMARY = "train a model by a named recipe"
CLASSIFIER = "classifier"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    width = max(map(len, RECIPES))
    parser.epilog = "\n\n".join(
        "\n".join((f"{title}:", *(f"  {name:{width}}  {recipe.summary}" for name, recipe in recipes.items())))
        for title, recipes in by_kind().items()
    )
    parser.epilog += f"\n\n  {CLASSIFIER:{width}}  what the encoder of a run helps a classifier: needs --encoder"
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="one of the recipes below")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/RECIPE)")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="TOML file of fields of the recipe, [config] of arguments of the model, [adversarial] of how players "
        "play; `recipe` names the recipe that it starts from. A run's recipe.json will do. --set and the other flags "
        "come after it",
    )
    parser.add_argument(
        "--set",
        dest="assignments",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change a field of the recipe, or an argument of the model by config.KEY; repeatable",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint if there is one")
    parser.add_argument("--dry-run", action="store_true", help="say what size, memory and time it takes; write nothing")
    parser.add_argument(
        "--track",
        type=lambda text: text.split(","),
        default=[],
        metavar="NAME,...",
        help="also log to tensorboard or wandb",
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=_runs.positive, help="train for so many steps (reproducible)")
    budget.add_argument("--seconds", type=float, help="train for so many seconds")
    parser.add_argument("--data", help="data set, or folder of images or recordings, instead of the recipe's")
    parser.add_argument("--size", type=_runs.size, help="size the images are brought to, N or HxW; samples of a signal")
    parser.add_argument("--seed", type=int, help="seed of weights, batches and dropout")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--encoder", type=Path, metavar="RUN", help="classifier: folder of a run, or a model file")
    parser.add_argument("--freeze", action="store_true", help="classifier: keep the encoder's weights")
    parser.add_argument(
        "--labels",
        type=label_counts,
        metavar="N,N,...",
        help="classifier: numbers of labels (default: 50,100,500,all)",
    )
    _runs.add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Train, and say where the results are and how good the model is."""
    if args.recipe == CLASSIFIER:
        return _train_classifier(args)
    if args.encoder is not None or args.freeze or args.labels is not None:
        raise ValueError(f"--encoder, --freeze and --labels: they are for `fastgen train {CLASSIFIER}` alone")
    recipe = _recipe(args.recipe, args.config).override(args.assignments)
    chosen = {key: getattr(args, key) for key in ("steps", "seconds", "data", "size", "seed")}
    recipe = recipe.replace(**{key: value for key, value in chosen.items() if value is not None})
    out = args.out or Path("runs") / recipe.name

    if args.dry_run:
        from fastgen.training.rehearsal import rehearse

        rehearsal = rehearse(recipe, device=args.device)
        if _runs.is_first_process():
            print(rehearsal)
        return 0

    from fastgen.training.loop import train
    from fastgen.training.run import CHECKPOINT

    resume = args.resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0  # torchrun begins again
    if resume and not (out / CHECKPOINT).exists() and _runs.is_first_process():
        print(f"no checkpoint in {out} yet: starting from step 0", file=sys.stderr)
    with _StopOnSignal() as signals:
        result = train(
            recipe,
            out,
            resume=resume,
            device=args.device,
            progress=not args.quiet,
            track=args.track,
            should_stop=lambda: signals.asked,
        )
    if not _runs.is_first_process():
        return 0 if result.after is not None else 130
    if result.after is None:
        print(f"stopped at step {result.step}; go on with --resume")
        return 130
    print(
        f"{result.step} steps in {result.seconds:.1f} s; "
        f"held out {result.before} before, {result.after} after ({result.after.images} {_runs.items(result.model)})"
    )
    print(f"run: {out}")
    return 0


def _recipe(name: str | None, config: Path | None) -> Recipe:
    """The recipe of that name, changed by a file, or what the file says alone.

    Raises:
        ValueError: neither, two recipes, or a file that is none.
    """
    values = {} if config is None else read_config(config)
    base = values.pop("recipe", None)
    if name is not None and base is not None and name != base:
        raise ValueError(f"--config: {config} starts from recipe {base!r}, the command from {name!r}; name it once")
    name = name or base
    if name is None:
        missing = [key for key in ("data", "model") if key not in values]
        if config is None or missing:
            what = "RECIPE or --config" if config is None else f"recipe, or {' and '.join(missing)}, in {config}"
            raise ValueError(f"train: a recipe must be named; got none; give {what}")
        blank = Recipe(name=config.stem, data=str(values["data"]), model=str(values["model"]), steps=1000)
    else:
        blank = get_recipe(name)
    try:
        return blank.update(values)
    except ValueError as error:
        raise ValueError(f"--config {config}: {error}") from None


def label_counts(text: str) -> list[int | None]:
    """Read `50,100,all`; None is all."""
    try:
        return [None if part == "all" else _runs.positive(part) for part in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"numbers of labels are like 50,100,all; got {text!r}") from None


def _train_classifier(args: argparse.Namespace) -> int:
    """Train classifiers on an encoder and from scratch, and print the table as it grows."""
    if args.encoder is None:
        raise ValueError(f"--encoder: `fastgen train {CLASSIFIER}` starts from a trained model; name its run")
    if args.assignments or args.resume or args.seconds is not None or args.size is not None:
        raise ValueError("--set, --resume, --seconds and --size: the classifier takes --data, --steps and --seed alone")
    out = args.out or Path("runs") / CLASSIFIER
    model = _runs.load_model(args.encoder, args.device)
    if _runs.is_signal_model(model):
        raise ValueError(f"--encoder: it must be a model of images; {args.encoder} draws signals")

    from fastgen.training.classifier import TABLE_MD, Row, table, train_classifier

    def note(row: Row) -> None:
        if not args.quiet:
            print(f"{row.labels} labels: done", file=sys.stderr)

    given = {"steps": args.steps, "counts": args.labels, "seed": args.seed}
    rows = train_classifier(
        model,
        _runs.data_for(model, args.encoder, args.data, "train"),
        _runs.data_for(model, args.encoder, args.data, "validation"),
        out,
        frozen=args.freeze,
        device=args.device,
        report=note,
        **{key: value for key, value in given.items() if value is not None},
    )
    print(table(rows, {"frozen": args.freeze, "model": type(model).__name__}))
    print(f"table: {out / TABLE_MD}")
    return 0


class _StopOnSignal:
    """The first Ctrl-C or SIGTERM lets the step finish and saves the run; a second one interrupts at once."""

    def __enter__(self) -> _StopOnSignal:
        self.asked = False
        self.previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
