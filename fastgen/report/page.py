"""The page of a run: what was trained, what came out, how it went, with what, and what to be wary of."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgen._files import atomic_write
from fastgen._version import __version__
from fastgen.evaluation import HeldOut
from fastgen.report import html, media
from fastgen.report.charts import Bar, bar_chart, number
from fastgen.report.curves import curves, skipped_share

if TYPE_CHECKING:
    from torch import nn

    from fastgen.training.recipes import Recipe

EVALUATIONS = "eval*.json"
MOST_BYTES = 4 << 20  # of a picture that is taken into the page
OVER_TRAINING = 8  # pictures of samples over training


@dataclass(frozen=True)
class RunFiles:
    """What a run's folder holds.

    Attributes:
        folder: the run's folder.
        recipe: what was trained.
        log: lines of the log.
        environment: versions and device, of the checkpoint; empty where it cannot be read.
        evaluations: what `fastgen eval --json` wrote here, by file name.
        pictures: paths of what other commands wrote here.
        over_training: paths of samples over training, by step.
        problems: files that could not be read, in words.
    """

    folder: Path
    recipe: Recipe
    log: Sequence[Mapping[str, Any]]
    environment: Mapping[str, Any]
    evaluations: Mapping[str, Mapping[str, Any]]
    pictures: Sequence[Path]
    over_training: Mapping[int, Path]
    problems: Sequence[str] = field(default=())


def read_run(folder: str | os.PathLike[str]) -> RunFiles:
    """Read what a run's folder holds.

    Raises:
        FileNotFoundError: it holds no recipe.
        ValueError: a recipe that cannot be read.
    """
    from fastgen.training.log import read_log
    from fastgen.training.recipes import Recipe
    from fastgen.training.run import LOG, RECIPE, SAMPLES

    folder = Path(folder)
    if not (folder / RECIPE).is_file():
        raise FileNotFoundError(f"report: {folder} must be the folder of a run; it has no {RECIPE}; name one")
    try:
        recipe = Recipe.from_json(json.loads((folder / RECIPE).read_text()))
    except json.JSONDecodeError as error:
        raise ValueError(f"report: {folder / RECIPE} is damaged ({error}); take another copy of it") from error
    problems: list[str] = []
    evaluations = {}
    for path in sorted(folder.glob(EVALUATIONS)):
        try:
            found = json.loads(path.read_text())
            if not isinstance(found, dict):
                raise ValueError("it holds no object")
            evaluations[path.name] = found
        except ValueError as error:
            problems.append(f"{path.name} is left out: it is no JSON of fastgen eval ({error})")
    steps = {}
    for path in (folder / SAMPLES).glob("step-*.png"):
        if match := re.fullmatch(r"step-(\d+)\.png", path.name):
            steps[int(match[1])] = path
    return RunFiles(
        folder,
        recipe,
        [line for line in read_log(folder / LOG) if isinstance(line, dict) and "step" in line],
        _environment(folder, problems),
        evaluations,
        sorted(folder.glob("*.png")),
        dict(sorted(steps.items())),
        problems,
    )


def _environment(folder: Path, problems: list[str]) -> Mapping[str, Any]:
    from fastgen.training.checkpoint import read_checkpoint
    from fastgen.training.run import CHECKPOINT

    try:
        found = read_checkpoint(folder / CHECKPOINT).notes.get("environment", {})
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError) as error:
        problems.append(f"versions and device of the training are not known: {error}")
        return {}


def write_page(out: str | os.PathLike[str], files: RunFiles, model: nn.Module, drawn: Sequence[str]) -> None:
    """Write the page, whole or not at all; `drawn` are its newest samples as HTML."""
    atomic_write(out, render_page(files, model, drawn))


def render_page(files: RunFiles, model: nn.Module, drawn: Sequence[str]) -> str:
    """The page as text; every file in it is one of its own data URIs."""
    recipe, evaluated = files.recipe, _evaluated(files.log)
    title = f"{recipe.name}: {recipe.model} on {recipe.data}"
    head = [f"<header>{html.element('h1', title)}"]
    if recipe.summary:
        head.append(html.element("p", recipe.summary, "muted"))
    head.append(html.tiles(_key_figures(files, model, evaluated)) + "</header>")
    warnings = [html.element("div", text, "warning") for text in warnings_of(files, evaluated)]
    charts = "".join(f"<div>{chart}</div>" for chart in curves(files.log))
    about = [_block("Configuration", recipe_facts(recipe)), _block("Environment", _surroundings(files))]
    body = [
        *head,
        *warnings,
        html.section("Samples", [*drawn, _over_training(files.over_training)]),
        html.section("Training", [f'<div class="charts">{charts}</div>' if charts else ""]),
        *(_evaluation(name, facts) for name, facts in files.evaluations.items()),
        html.section("Pictures", [_file_picture(path) for path in files.pictures]),
        html.section("Model", [_model_table(model)]),
        html.section("Settings", [f'<div class="columns">{"".join(about)}</div>']),
        html.element("p", f"Written by fastgen {__version__}; this page needs no other file.", "muted"),
    ]
    return html.page(title, [part for part in body if part])


def warnings_of(files: RunFiles, evaluated: Sequence[tuple[int, HeldOut]] | None = None) -> list[str]:
    """What a reader should know before trusting the figures."""
    evaluated = _evaluated(files.log) if evaluated is None else evaluated
    recipe, found = files.recipe, list(files.problems)
    steps = [int(line["step"]) for line in files.log]
    if not steps:
        found.append("The run has no log: there are no curves.")
    elif recipe.steps is not None and max(steps) < recipe.steps:
        found.append(f"The run is not done: step {max(steps):,} of {recipe.steps:,}.")
    if share := skipped_share(files.log):
        found.append(f"{share:.2%} of the training steps were skipped: their gradient was beyond skip_norm.")
    values = [v for line in files.log for v in line.values() if isinstance(v, float)]
    if bad := sum(not math.isfinite(value) for value in values):
        found.append(f"{bad} logged values are not finite.")
    merits = [(step, _merit(result), result.stderr) for step, result in evaluated]
    if len(merits) > 2:
        best = min(merits, key=lambda entry: entry[1])
        last = merits[-1]
        if last[1] > best[1] + 2 * max(best[2], last[2], 1e-12):
            found.append(
                f"Held-out images were at their best at step {best[0]:,} ({best[1]:.4f}); at the end they are at "
                f"{last[1]:.4f}: the model has begun to learn the training images by heart, or training is not stable."
            )
    for name, facts in files.evaluations.items():
        notes = facts.get("quality", {}).get("notes", []) if isinstance(facts.get("quality"), dict) else []
        found += [f"{name}: {note}" for note in notes]
    return found


def recipe_facts(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe, its config spread out, what is not set left out."""
    facts: dict[str, Any] = {}
    for key, value in recipe.to_json().items():
        if key in ("name", "summary") or value is None or value == {}:
            continue
        if isinstance(value, dict):
            facts |= {f"{key}.{inner}": _plain(entry) for inner, entry in value.items()}
        else:
            facts[key] = _plain(value)
    return facts


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _evaluated(log: Sequence[Mapping[str, Any]]) -> list[tuple[int, HeldOut]]:
    """What held-out images said, by step."""
    found = []
    for line in log:
        if line.get("event") == "eval" and "images" in line and "dims" in line:
            values = {key: value for key, value in line.items() if key not in ("event", "step", "seconds")}
            found.append((int(line["step"]), HeldOut.from_json(values)))
    return found


def _merit(result: HeldOut) -> float:
    return result.bits_per_dim if not math.isnan(result.nats) else next(iter(result.others.values()), math.nan)


def _key_figures(
    files: RunFiles, model: nn.Module, evaluated: Sequence[tuple[int, HeldOut]]
) -> list[tuple[str, str, str]]:
    facts = []
    if evaluated:
        (first, before), (last, after) = evaluated[0], evaluated[-1]
        error = f" ± {after.stderr:.4f}" if after.stderr else ""
        nats = "" if math.isnan(after.nats) else f"{after.nats:.2f} nats each, "
        facts.append((f"step {last:,}", f"{after}{error}", f"{nats}{after.images:,} held out"))
        if last != first:
            facts.append((f"step {first:,}", str(before), "before training" if first == 0 else "the first evaluation"))
    steps = [line for line in files.log if line.get("event") == "train"]
    if steps:
        last_line = steps[-1]
        seconds, taken = float(last_line["seconds"]), int(last_line["step"])
        rate = taken * files.recipe.batch_size / seconds if seconds else math.nan
        facts.append(("steps", f"{taken:,}", f"of {files.recipe.batch_size:,} each"))
        facts.append(("training time", _duration(seconds), f"{number(rate)} a second" if seconds else ""))
    weights = sum(parameter.numel() for parameter in model.parameters())
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    facts.append(("weights", f"{weights:,}", f"{size / 2**20:.1f} MiB"))
    if "device" in files.environment:
        facts.append(("device", str(files.environment["device"]), f"torch {files.environment.get('torch', '?')}"))
    return facts


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"


def _over_training(paths: Mapping[int, Path]) -> str:
    """Samples at a few steps, the first and the last among them, in a row."""
    steps = list(paths)
    if len(steps) < 2:
        return ""
    few = min(len(steps), OVER_TRAINING)
    chosen = sorted({steps[round(k * (len(steps) - 1) / (few - 1))] for k in range(few)})
    figures = [_file_picture(paths[step], f"step {step:,}") for step in chosen]
    return f"<h3>Over training</h3>\n<div class=strip>{''.join(figures)}</div>"


def _file_picture(path: Path, caption: str | None = None) -> str:
    if path.stat().st_size > MOST_BYTES:
        return html.element("p", f"{path.name} is left out: {path.stat().st_size / 2**20:.0f} MiB", "muted")
    return html.picture(media.data_uri(path.read_bytes(), "image/png"), caption or path.name)


def _evaluation(name: str, facts: Mapping[str, Any]) -> str:
    """What one call of `fastgen eval --json` found."""
    nested = ("per_class", "quality", "importance", "reconstruction_error", "against", "modes")
    plain = {key.replace("_", " "): _figure(value) for key, value in facts.items() if key not in nested}
    parts = [html.pairs(plain)]
    if isinstance(bound := facts.get("importance"), dict):
        low, high = bound["interval"]["bits_per_dim"]
        text = f"Bound of {bound['n_samples']:,} draws an image: {bound['bits_per_dim']:.4f} bits/dim, "
        parts.append(html.element("p", f"{text}95% interval {low:.4f} to {high:.4f}; {bound['nats']:.2f} nats each."))
    if isinstance(error := facts.get("reconstruction_error"), dict):
        parts.append(html.element("p", f"Reconstructions: mse {error['mse']:.4f} ± {error['stderr']:.4f}."))
    if isinstance(other := facts.get("against"), dict):
        text = f"{other['data']} told from these images by {other['score']}: AUROC {other['auroc']:.4f}."
        parts.append(html.element("p", text))
    if isinstance(modes := facts.get("modes"), dict):
        counts = " ".join(map(str, modes["counts"]))
        parts.append(html.element("p", f"{modes['found']} of {len(modes['counts'])} modes drawn; counts {counts}."))
    parts += [_quality(facts["quality"])] if isinstance(facts.get("quality"), dict) else []
    parts += [_classes(facts["per_class"])] if facts.get("per_class") else []
    return html.section(f"Evaluation: {name}", parts)


def _quality(found: Mapping[str, Any]) -> str:
    """Figures of drawn images beside those of as many training images."""
    names = {
        "frechet_distance": "Fréchet distance (FID)",
        "kernel_distance": "kernel distance (KID)",
        "kernel_distance_stderr": "its standard error",
        "precision": "precision",
        "recall": "recall",
        "density": "density",
        "coverage": "coverage",
        "inception_score": "inception score",
        "inception_score_std": "its deviation over splits",
    }
    beside = found.get("of_training_images", {})
    rows = [(text, _figure(found[key]), _figure(beside.get(key, ""))) for key, text in names.items() if key in found]
    near = found.get("nearest_training_image", {})
    if near:
        rows.append(("nearest training image, levels", _figure(near["drawn"]["mean"]), ""))
        rows.append(("the same of held-out images", _figure(near["held_out"]["mean"]), ""))
    head = ["", f"{found['images']:,} drawn", f"{beside.get('images', 0):,} training images"]
    text = f"On features of {found['features']}, beside {found['reference_images']:,} held-out images."
    return "<h3>Quality of samples</h3>" + html.element("p", text) + html.table(head, rows)


def _classes(rows: Sequence[Mapping[str, Any]]) -> str:
    """A bar a class."""
    key = "bits_per_dim" if "bits_per_dim" in rows[0] else next(k for k in rows[0] if k not in _NO_FIGURE)
    bars = [
        Bar(f"{row['name']} ({row['images']:,})", row[key], row[key] - row["stderr"], row[key] + row["stderr"])
        for row in rows
    ]
    title = f"{key.replace('_', ' ')} of each class (images), with standard errors"
    return f'<div class="card">{bar_chart(bars, title)}</div>'


_NO_FIGURE = ("label", "name", "images", "dims", "stderr")


def _figure(value: Any) -> str:
    return f"{value:,.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _surroundings(files: RunFiles) -> dict[str, Any]:
    return {**files.environment, "folder": files.folder.name}


def _block(title: str, facts: Mapping[str, Any]) -> str:
    return f"<div>{html.element('h3', title)}{html.pairs(facts)}</div>"


def _model_table(model: nn.Module) -> str:
    """Weights of each part, as many as there are below the model."""
    rows = []
    for name, part in model.named_children():
        count = sum(parameter.numel() for parameter in part.parameters())
        if count:
            rows.append((name, f"{count:,}", type(part).__name__))
    own = sum(parameter.numel() for parameter in model.parameters(recurse=False))
    rows += [("(its own)", f"{own:,}", "")] if own else []
    rows.append(("all", f"{sum(p.numel() for p in model.parameters()):,}", type(model).__name__))
    return html.table(["part", "weights", "class"], rows)
