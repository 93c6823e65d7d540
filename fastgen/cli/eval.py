"""Measure a trained model on images or signals, every one counted once.

Bits per dimension and nats of a model with a density, of others their own figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from typing import TYPE_CHECKING

from fastgen.cli import _runs

if TYPE_CHECKING:
    from fastgen.evaluation import ClassCoverage, MixtureCoverage
    from fastgen.models import Model

SUMMARY = "bits per dimension on held-out images or signals"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    _runs.add_run(parser)
    _runs.add_data(parser)
    parser.add_argument("--limit", type=_runs.positive, help="only so many, the first")
    parser.add_argument("--batch-size", type=_runs.positive, default=64, help="how many at once (default: 64)")
    parser.add_argument(
        "--samples", type=_runs.positive, help="importance-weighted bound of so many draws, of a model with codes"
    )
    parser.add_argument(
        "--against", metavar="DATA", help="of an energy: how well it tells these images from the others"
    )
    parser.add_argument(
        "--modes",
        metavar="N",
        type=_runs.positive,
        help="also draw N images and count the classes (of ring: the modes) that they show; trains a small classifier",
    )
    parser.add_argument("--json", action="store_true", help="print the result as a line of JSON")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    model = _runs.load_model(args.run_path, args.device)
    data = _runs.data_for(model, args.run_path, args.data, args.split, args.limit)

    from fastgen.evaluation import evaluate, evaluate_bound, outlier_auroc
    from fastgen.training.build import load_for_model

    if args.against is not None:
        others = load_for_model(model, args.against, split=args.split, limit=args.limit)
        try:
            area = outlier_auroc(model, data, others, batch_size=args.batch_size)  # type: ignore[arg-type]
        except TypeError as error:
            raise ValueError(f"--against: {error}") from None
        facts = {"data": data.name, "split": args.split, "against": others.name, "auroc": area}
        text = f"{others.name} told from {data.name} ({args.split}): AUROC {area:.4f}"
        print(json.dumps(facts) if args.json else text)
        return 0

    started = time.perf_counter()
    if args.samples is None:
        result = evaluate(model, data, batch_size=args.batch_size)
    else:
        result = evaluate_bound(model, data, n_samples=args.samples, batch_size=args.batch_size)
    seconds = time.perf_counter() - started
    modes = _modes(model, args) if args.modes else None
    if args.json:
        told = {} if modes is None else {"modes": dataclasses.asdict(modes)}
        print(json.dumps({"data": data.name, "split": args.split, **result.to_json(), **told}))
    else:
        print(
            f"{data.name} ({args.split}), {result.images} {_runs.items(model)}: {result.describe()}, in {seconds:.1f} s"
        )
        if modes is not None:
            print(f"{args.modes} drawn: {modes}")
    return 0


def _modes(model: Model, args: argparse.Namespace) -> ClassCoverage | MixtureCoverage:
    """Modes of the training data among drawn images."""
    from fastgen.training.coverage import mode_coverage

    return mode_coverage(model, _runs.data_for(model, args.run_path, args.data, "train"), n=args.modes)
