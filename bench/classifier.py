"""What the encoder of a trained model helps a classifier that has few labels.

`python -m bench.classifier` trains the recipe below, then classifiers on its encoder, frozen and fine-tuned, and on a
fresh one, and prints a table; `--record` appends to bench/results/recipes, from which `python -m bench render` writes
the README's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.record import RESULTS, Record, append, environment, read

ACCURACIES = RESULTS / "recipes" / "classifier.jsonl"
RECIPE = "vae"


def run(name: str = RECIPE, *, counts: tuple[int | None, ...] = (50, 100, 500, None)) -> Record:
    """Train a recipe, then classifiers with some labels, and say how many held-out images each gets right."""
    from fastgen.training import get_recipe, train
    from fastgen.training.build import load_data
    from fastgen.training.classifier import train_classifier

    recipe = get_recipe(name)
    data = load_data(recipe)
    with tempfile.TemporaryDirectory() as folder:
        model = train(recipe, Path(folder) / "run", device="cpu", progress=sys.stderr.isatty(), data=data).model
        options: dict[str, Any] = {"counts": counts, "device": "cpu"}
        frozen = train_classifier(model, *data, Path(folder) / "frozen", frozen=True, **options)
        tuned = train_classifier(model, *data, Path(folder) / "tuned", **options)
    rows = [
        {"labels": a.labels, "frozen": a.pretrained, "tuned": b.pretrained, "scratch": b.scratch}
        for a, b in zip(frozen, tuned, strict=True)
    ]
    return {"recipe": name, "data": recipe.data, "held_out": len(data[1]), "rows": rows, **environment("cpu")}


def table(records: list[Record]) -> str:
    """Render the newest record."""
    if not records:
        return "No recorded run yet."
    record = records[-1]
    lines = [
        f"| labels, of `{record['data']}` | encoder of `{record['recipe']}`, frozen | fine-tuned | from scratch |",
        "|--:|--:|--:|--:|",
    ]
    for row in record["rows"]:
        means = (f"{statistics.mean(row[key]):.1%}" for key in ("frozen", "tuned", "scratch"))
        lines.append(f"| {row['labels']:,} | " + " | ".join(means) + " |")
    return "\n".join(lines)


def recorded() -> list[Record]:
    """Read all records; none if there is no file yet."""
    return read([ACCURACIES]) if ACCURACIES.exists() else []


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.classifier", description=__doc__)
    parser.add_argument("--record", action="store_true", help="append the result to bench/results/recipes")
    options = parser.parse_args(arguments)
    record = run()
    print(table([record]))
    if options.record:
        append(ACCURACIES, [record])
    return 0


if __name__ == "__main__":
    sys.exit(main())
