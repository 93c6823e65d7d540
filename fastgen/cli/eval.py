"""Measure a trained model on images or signals, every one counted once.

Bits per dimension and nats of a model with a density, of others their own figures.
"""

from __future__ import annotations

import argparse
import json
import time

from fastgen.cli import _runs

SUMMARY = "bits per dimension on held-out images or signals"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    _runs.add_run(parser)
    parser.add_argument("--data", help="data set, or folder of images or recordings (default: the run's)")
    parser.add_argument(
        "--split", choices=("train", "validation", "test", "all"), default="validation", help="which part of the data"
    )
    parser.add_argument("--limit", type=_runs.positive, help="only so many, the first")
    parser.add_argument("--batch-size", type=_runs.positive, default=64, help="how many at once (default: 64)")
    parser.add_argument("--json", action="store_true", help="print the result as a line of JSON")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    model = _runs.load_model(args.run_path, args.device)
    recipe = _runs.recipe_of(args.run_path)
    name = args.data or (recipe.data if recipe else None)
    if name is None:
        raise ValueError(f"{args.run_path} lies in no run's folder: say what to evaluate on with --data")

    from fastgen.evaluation import evaluate
    from fastgen.training.build import load_for_model

    data = load_for_model(model, name, split=args.split, limit=args.limit)
    if model.n_classes and data.n_classes != model.n_classes:
        raise ValueError(f"{name} has {data.n_classes} classes; the model was trained with {model.n_classes}")
    started = time.perf_counter()
    result = evaluate(model, data, batch_size=args.batch_size)
    seconds = time.perf_counter() - started
    if args.json:
        print(json.dumps({"data": name, "split": args.split, **result.to_json()}))
    else:
        print(f"{name} ({args.split}), {result.images} {_runs.items(model)}: {result.describe()}, in {seconds:.1f} s")
    return 0
