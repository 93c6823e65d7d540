"""The curves of a run, from the lines of its log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastgen.report.charts import Series, line_chart

Line = Mapping[str, Any]

OF_EVERY_LINE = ("event", "step", "seconds")
NO_FIGURE = ("images", "dims", "stderr")  # of lines of evaluation


def curves(log: Sequence[Line]) -> list[str]:
    """A chart for each quantity that was logged: training as a line, held-out images as points of the same chart.

    Losses of several phases share a chart, and so do the norms of their gradients. The figure of merit comes first,
    losses next, learning rate and norms last.
    """
    train = [line for line in log if line.get("event") == "train"]
    held_out = [line for line in log if line.get("event") == "eval"]
    charts = []
    for title, names in _groups(train, held_out):
        series = []
        for name in names:
            shown = "training" if len(names) == 1 else name.removesuffix("_loss").removesuffix("_grad_norm")
            shown = shown.removesuffix("_skipped").replace("_", " ")
            steps, values = _values(train, name)
            if values:
                series.append(Series(shown, steps, values))
            steps, values = _values(held_out, name)
            if values and title not in ("learning rate", "gradient norm"):
                errors = _values(held_out, "stderr")[1] if name == _merit(held_out) else []
                label = "held-out" if len(names) == 1 else f"held-out {shown}"
                series.append(Series(label, steps, values, errors if len(errors) == len(values) else (), points=True))
        if series:
            charts.append(line_chart(series, title))
    return charts


def skipped_share(log: Sequence[Line]) -> float:
    """Share of the steps whose gradient was too large to be followed; 0 where none was watched."""
    shares = [float(value) for line in log if line.get("event") == "train" for key, value in line.items()
              if key == "skipped" or key.endswith("_skipped")]  # fmt: skip
    return sum(shares) / len(shares) if shares else 0.0


def _groups(train: Sequence[Line], held_out: Sequence[Line]) -> list[tuple[str, list[str]]]:
    """Titles of charts, and the logged names in each."""
    of_train = [name for name in _names(train) if any(math.isfinite(v) for v in _values(train, name)[1])]
    of_eval = [name for name in _names(held_out) if name not in NO_FIGURE]
    if "bits_per_dim" in of_eval:
        of_eval.remove("nats")  # the same, in another unit
    losses = [name for name in of_train if name == "loss" or name.endswith("_loss")]
    norms = [name for name in of_train if name == "grad_norm" or name.endswith("_grad_norm")]
    skipped = [name for name in of_train if name == "skipped" or name.endswith("_skipped")]
    skipped = [name for name in skipped if any(_values(train, name)[1])]
    merit = [name for name in (_merit(held_out),) if name]
    grouped = {*losses, *norms, *skipped, *merit, "lr", "skipped"}
    rest = [name for name in dict.fromkeys([*of_train, *of_eval]) if name not in grouped]
    groups = [(_title(name), [name]) for name in merit]
    groups += [("loss", losses)] if losses else []
    groups += [(_title(name), [name]) for name in rest if not name.endswith("_skipped")]
    groups += [("gradient norm", norms)] if norms else []
    groups += [("learning rate", ["lr"])] if "lr" in of_train else []
    groups += [("share of steps skipped", skipped)] if skipped else []
    return groups


def _merit(held_out: Sequence[Line]) -> str | None:
    """What held-out images are judged by: bits per dimension, or the first figure of the model's own."""
    if not held_out:
        return None
    if "bits_per_dim" in held_out[-1]:
        return "bits_per_dim"
    return next((name for name in _names(held_out[-1:]) if name not in NO_FIGURE), None)


def _names(lines: Sequence[Line]) -> list[str]:
    """Names of the numbers that lines hold, in the order of their first appearance."""
    found = {name: None for line in lines for name, value in line.items() if isinstance(value, (int, float))}
    return [name for name in found if name not in OF_EVERY_LINE]


def _values(lines: Sequence[Line], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of the lines that have one."""
    found = [(float(line["step"]), float(line[name])) for line in lines if isinstance(line.get(name), (int, float))]
    return [step for step, _ in found], [value for _, value in found]


def _title(name: str) -> str:
    return {"bits_per_dim": "bits per dimension", "mse": "mean squared error"}.get(name, name.replace("_", " "))
