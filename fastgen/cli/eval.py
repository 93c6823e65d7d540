"""Measure a trained model on images or signals, every one counted once.

Bits per dimension and nats of a model with a density, of others their own figures; on request what its samples are
like, each class alone, the importance-weighted bound, reconstructions, and how it tells other images from these.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgen.cli import _runs

if TYPE_CHECKING:
    from fastgen.data import LabelledDataset
    from fastgen.evaluation import HeldOut
    from fastgen.models import Model
    from fastgen.training.distributed import Ranks

SUMMARY = "bits per dimension on held-out images or signals, quality of samples"
PRINT = Path("-")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    _runs.add_run(parser)
    _runs.add_data(parser)
    parser.add_argument("--limit", type=_runs.positive, help="only so many, the first")
    parser.add_argument("--batch-size", type=_runs.positive, default=64, help="how many at once (default: 64)")
    parser.add_argument("--per-class", action="store_true", help="also the figure of each class alone")
    parser.add_argument(
        "--importance",
        "--samples",
        metavar="K",
        type=_runs.positive,
        help="also the importance-weighted bound of K draws an image, of a model with codes",
    )
    parser.add_argument(
        "--reconstruction", action="store_true", help="also the squared error of reconstructions, of a model with codes"
    )
    parser.add_argument(
        "--against", metavar="DATA", help="also how well energy or likelihood tells these images from the others"
    )
    parser.add_argument(
        "--modes",
        metavar="N",
        type=_runs.positive,
        help="also draw N images and count the classes (of ring: the modes) that they show; trains a small classifier",
    )
    parser.add_argument(
        "--quality",
        metavar="N",
        type=_runs.positive,
        help="also draw N images and compare them: FID, KID, precision, recall, inception score, nearest training "
        "images; on features of a classifier of the run's data, which is trained, unless --inception is given",
    )
    parser.add_argument(
        "--inception",
        metavar="WEIGHTS",
        type=Path,
        help="--quality on InceptionV3 of torch-fidelity, from a local file",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of what is drawn for --quality (default: 0)")
    parser.add_argument(
        "--json",
        metavar="FILE",
        nargs="?",
        type=Path,
        const=PRINT,
        help="write all figures to FILE as JSON (eval.json in RUN is shown by fastgen report); without FILE print them "
        "as one line of it",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    if args.inception is not None and args.quality is None:
        raise ValueError("--inception: it is for --quality; say how many images to draw with --quality N")

    from fastgen.training.distributed import joined

    with joined(args.device) as (ranks, where):
        model = _runs.load_model(args.run_path, str(where))
        data = ranks.in_turn(lambda: _runs.data_for(model, args.run_path, args.data, args.split, args.limit))
        told = _Told(args, model, data, ranks)
        _held_out(told)
        for wanted, tell in (
            (args.per_class, _per_class),
            (args.importance, _importance),
            (args.reconstruction, _reconstruction),
            (args.against, _against),
            (args.modes, _modes),
            (args.quality, _quality),
        ):
            if wanted:
                tell(told)
    if not ranks.first:
        return 0
    if args.json == PRINT:
        print(json.dumps(told.facts))
    elif args.json is not None:
        from fastgen._files import atomic_write

        atomic_write(args.json, json.dumps(told.facts, indent=2) + "\n")
        print(f"figures: {args.json}")
    return 0


class _Told:
    """What is measured of what, and what has been told of it so far: lines for people, facts for programs."""

    def __init__(self, args: argparse.Namespace, model: Model, data: LabelledDataset, ranks: Ranks) -> None:
        self.args, self.model, self.data, self.ranks = args, model, data, ranks
        self.facts: dict[str, Any] = {"model": type(model).__name__, "data": data.name, "split": args.split}

    def say(self, text: str, **facts: Any) -> None:
        """Print a line at once, unless JSON is printed, and note the facts."""
        if self.args.json != PRINT and self.ranks.first:
            print(text, flush=True)
        self.facts |= facts


def _held_out(told: _Told) -> None:
    from fastgen.evaluation import evaluate

    started = time.perf_counter()
    result = evaluate(told.model, told.data, batch_size=told.args.batch_size, distributed=told.ranks.several)
    seconds = time.perf_counter() - started
    items = _runs.items(told.model)
    told.say(
        f"{told.data.name} ({told.args.split}), {result.images} {items}: {result.describe()}, in {seconds:.1f} s",
        **result.to_json(),
    )


def _per_class(told: _Told) -> None:
    """The model's figure of each label that the data has."""
    from fastgen.evaluation import evaluate
    from fastgen.evaluation.classes import evaluate_classes

    size = told.args.batch_size

    def measure(data: LabelledDataset) -> HeldOut:
        return evaluate(told.model, data, batch_size=size, distributed=told.ranks.several)

    found = evaluate_classes(told.data, measure, batch_size=size)
    rows = []
    for label, result in found.items():
        name = told.data.class_names[label]
        told.say(f"  class {name}, {result.images}: {result.describe()}")
        rows.append({"label": label, "name": name, **result.to_json()})
    told.facts["per_class"] = rows


def _importance(told: _Told) -> None:
    """The bound of several draws an image."""
    from fastgen.evaluation import evaluate_bound

    draws = told.args.importance
    result = evaluate_bound(
        told.model, told.data, n_samples=draws, batch_size=told.args.batch_size, distributed=told.ranks.several
    )
    told.say(
        f"bound of {draws} draws an image: {result.describe()}; 95% interval {_interval(result)} bits/dim",
        importance={"n_samples": draws, **result.to_json(), "interval": _interval_json(result)},
    )


def _interval(result: HeldOut) -> str:
    low, high = result.interval()
    return f"{low:.4f} to {high:.4f}"


def _interval_json(result: HeldOut) -> dict[str, Any]:
    bits = result.interval()
    nats = [value * result.dims * math.log(2) for value in bits]
    return {"level": 0.95, "bits_per_dim": list(bits), "nats": nats}


def _reconstruction(told: _Told) -> None:
    """The squared error of what a model with codes gives back."""
    from fastgen.evaluation import reconstruction_error

    try:
        error = reconstruction_error(
            told.model,  # type: ignore[arg-type]
            told.data,
            batch_size=told.args.batch_size,
            distributed=told.ranks.several,
        )
    except TypeError as problem:
        raise ValueError(f"--reconstruction: {problem}") from None
    told.say(f"reconstructions: {error}, signals in [-1, 1]", reconstruction_error=error.to_json())


def _against(told: _Told) -> None:
    """How the model's score tells images of another set from these."""
    from fastgen.evaluation import outlier_auroc
    from fastgen.models import EnergyModel
    from fastgen.training.build import load_for_model

    args = told.args
    others = told.ranks.in_turn(lambda: load_for_model(told.model, args.against, split=args.split, limit=args.limit))
    try:
        area = outlier_auroc(told.model, told.data, others, batch_size=args.batch_size, distributed=told.ranks.several)
    except TypeError as error:
        raise ValueError(f"--against: {error}") from None
    score = "energy" if isinstance(told.model, EnergyModel) else "nats"
    told.say(
        f"{others.name} told from {told.data.name} ({args.split}): AUROC {area:.4f} by {score}",
        against={"data": others.name, "images": len(others), "score": score, "auroc": area},
    )


def _modes(told: _Told) -> None:
    """Modes of the training data among drawn images."""
    from fastgen.training.coverage import mode_coverage

    args = told.args
    training = told.ranks.in_turn(lambda: _runs.data_for(told.model, args.run_path, args.data, "train"))
    found = mode_coverage(told.model, training, n=args.modes, distributed=told.ranks.several)
    told.say(f"{args.modes} drawn: {found}", modes=dataclasses.asdict(found))


def _quality(told: _Told) -> None:
    """What drawn images are like, beside the held-out ones."""
    args, model = told.args, told.model
    if _runs.is_signal_model(model):
        raise ValueError(f"--quality: features are of images; {args.run_path} draws signals; leave --quality out")

    from fastgen.evaluation import inception_features
    from fastgen.training.quality import sample_quality

    network = None
    if args.inception is not None:
        network = inception_features(args.inception, device=next(model.parameters()).device)
    training = told.ranks.in_turn(lambda: _runs.data_for(model, args.run_path, args.data, "train"))
    found = sample_quality(
        model, training, told.data, n=args.quality, network=network, seed=args.seed, distributed=told.ranks.several
    )
    told.say(str(found), quality=found.to_json())
