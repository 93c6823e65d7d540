"""The pictures and the page that `fastgen demo` leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgen._files import atomic_path, atomic_write
from fastgen._version import __version__

if TYPE_CHECKING:
    import torch

    from fastgen.cli.demo import Comparison
    from fastgen.training.loop import TrainingResult
    from fastgen.training.recipes import Recipe

SCALE, PADDING, HEADING = 3, 2, 18


def write_samples(path: Path, images: torch.Tensor, n_classes: int) -> None:
    """Write a grid, one column a class with its label above; uint8 images [N, C, H, W] of labels 0, 1, ..."""
    import numpy as np
    import torch
    from PIL import Image, ImageDraw

    from fastgen.data.images import image_grid, write_image

    columns = min(n_classes, len(images)) or None
    grid = image_grid(images, columns=columns, padding=PADDING, scale=SCALE)
    if columns is not None:
        heading = Image.new("L", (grid.shape[2], HEADING), 255)
        draw = ImageDraw.Draw(heading)
        step = images.shape[3] * SCALE + PADDING
        for label in range(columns):
            draw.text((PADDING + label * step + step // 2, HEADING // 2), str(label), fill=0, anchor="mm")
        strip = torch.from_numpy(np.array(heading))[None].expand(grid.shape[0], -1, -1)
        grid = torch.cat([strip, grid], dim=1)
    write_image(path, grid)


def write_curve(path: Path, log: Path, held_out: float) -> bool:
    """Plot training bits/dim over time; False, and no file, without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    from fastgen.training.log import read_log

    lines = [line for line in read_log(log) if line["event"] == "train"]
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([line["seconds"] for line in lines], [line["bits_per_dim"] for line in lines], lw=1, label="training")
    axes.axhline(held_out, color="C1", lw=1, ls="--", label=f"held-out, averaged weights: {held_out:.3f}")
    axes.set(xlabel="seconds", ylabel="bits per dimension", ylim=(0.8 * held_out, 2.5 * held_out))
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return True


def write_report(
    path: Path,
    *,
    recipe: Recipe,
    trained: TrainingResult,
    compared: Comparison,
    n: int,
    sampling: float,
    total: float,
    environment: dict[str, Any],
    curve: bool,
) -> None:
    """Write report.md: figures, pictures, times, configuration, environment."""
    assert trained.after is not None
    before, after = trained.before, trained.after
    verdict = "equal, level by level" if compared.equal else "**not equal**"
    flips = f"{compared.differing} levels differ" if compared.differing else "no level differs"
    lines = [
        "# fastgen demo",
        "",
        f"{recipe.model} on {recipe.data}, trained for {trained.step} steps in {trained.seconds:.1f} s.",
        "",
        "| | bits/dim | nats an image |",
        "|---|---|---|",
        f"| held-out, before training | {before.bits_per_dim:.4f} | {before.nats:.1f} |",
        f"| held-out, after (averaged weights) | {after.bits_per_dim:.4f} ± {after.stderr:.4f} | {after.nats:.1f} |",
        "",
        f"{after.images} held-out images of {after.dims} dimensions; ± is the standard error over images.",
        "",
        "## Samples",
        "",
        f"{n} unpicked digits, a column a class, drawn in {sampling:.2f} s.",
        "",
        "![samples](samples.png)",
        "",
        "## Cached sampling is exact",
        "",
        f"Images of the same noise by `{compared.method}` and by `naive` sampling (a full forward pass a "
        f"pixel) are {verdict}, in float64, where rounding cannot flip a level. In float32 {flips}.",
        "",
        f"| {compared.n} images, float32 | seconds |",
        "|---|---|",
        f"| naive | {compared.naive:.2f} |",
        f"| {compared.method}, first call with its plan | {compared.first:.2f} |",
        f"| {compared.method}, next call | {compared.again:.2f} |",
        f"| ratio naive / next call | {compared.naive / compared.again:.1f} |",
        "",
        "## Training",
        "",
        "![training](training.png)" if curve else "No curve: matplotlib is not installed (`fastgen-torch[plot]`).",
        "",
        "```",
        *(f"{key} = {json.dumps(value)}" for key, value in recipe.to_json().items()),
        "```",
        "",
        "## Environment",
        "",
        *(f"- {key}: {value}" for key, value in {"fastgen": __version__, **environment}.items()),
        f"- whole demo: {total:.0f} s",
        "",
        f"The run is in this folder: `fastgen sample {path.parent}`, `fastgen eval {path.parent}`.",
        "",
    ]
    atomic_write(path, "\n".join(lines))
