"""What a model draws, as pieces of a page: a grid of images, sounds to play, or curves of signals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastgen.data.images import eight_bits, image_grid
from fastgen.report import html, media
from fastgen.report.charts import Series, line_chart, wave_chart

if TYPE_CHECKING:
    from fastgen.models import Model
    from fastgen.training.recipes import Recipe

SIGNALS = 4


def drawings(model: Model, recipe: Recipe, n: int, seed: int = 0) -> list[str]:
    """n drawings of the model (of signals at most four), with all its classes in turn.

    A model of images given others draws from held-out images of the recipe's data, which are shown above.

    Raises:
        ValueError: that data cannot be loaded.
    """
    if len(model.axes) == 1:
        return _signals(model, min(n, SIGNALS), seed)
    given, cond = _given(model, recipe, n)
    n = n if given is None else len(given)
    columns = None
    if given is None and model.n_classes:
        cond = torch.arange(n) % model.n_classes
        columns = model.n_classes if model.n_classes <= 32 else None
    images = model.sample(n, seed=seed, cond=cond).cpu()
    if images.shape[1] not in (1, 3) or images.shape[2:].numel() == 1:
        return [_points(images)] if images.shape[1:] == (2, 1, 1) else []
    caption = f"{n} unpicked images of seed {seed}" + (", a column a class" if columns else "")
    shown = eight_bits(images, model.levels)
    if given is not None:
        shown, columns = _rows([given, shown]), n
        caption = f"{n} held-out images above, what the model draws given each below (seed {seed})"
    return [html.picture(media.png_uri(image_grid(shown, columns, scale=_scale_of(shown))), caption)]


def _given(model: Model, recipe: Recipe, n: int) -> tuple[Tensor | None, Any]:
    """Images that others are drawn given, in 8 bits, and the condition that they make; None for other models."""
    from fastgen.models import TranslationModel
    from fastgen.training.build import load_data

    translates = isinstance(model, TranslationModel)
    if not translates and not model.config.get("cond_channels"):
        return None, None
    _, held_out = load_data(recipe)
    x, labels = held_out.batch(torch.arange(min(n, 8, len(held_out))))
    if isinstance(model, TranslationModel):
        source = model.split(x)[1 - model.target]
        return source, source.to(next(model.parameters()).device)
    device = next(model.parameters()).device
    cond = model.condition_of(x.to(device), labels.to(device) if model.n_classes else None)
    small = cond["map"] if isinstance(cond, dict) else cond
    return eight_bits(small.cpu().to(torch.uint8), model.levels), cond


def _rows(rows: list[Tensor]) -> Tensor:
    """Images of several rows with the same channels and the same size, the smaller ones enlarged."""
    channels, side = max(row.shape[1] for row in rows), max(row.shape[2] for row in rows)
    same = []
    for row in rows:
        times = max(1, side // row.shape[2])
        row = row.repeat_interleave(times, 2).repeat_interleave(times, 3)
        same.append(row.expand(-1, channels, -1, -1) if row.shape[1] == 1 else row)
    return torch.cat(same)


def _scale_of(images: Tensor) -> int:
    return max(1, 64 // max(images.shape[2:]))


def _points(images: Tensor) -> str:
    """Points of the plane, which are kept as images of two channels and one pixel."""
    x, y = images.flatten(1).double().T
    order = x.argsort()
    chart = line_chart(
        [Series("", x[order].tolist(), y[order].tolist(), points=True)], f"{len(x)} drawn points", x_label="", log=False
    )
    return f'<div class="charts"><div>{chart}</div></div>'


def _signals(model: Model, n: int, seed: int) -> list[str]:
    from fastgen.data.encoding import decode

    cond = torch.arange(n) % model.n_classes if model.n_classes else None
    levels = model.sample(n, seed=seed, cond=cond).cpu()
    options = model.config
    rate, scale = options["sample_rate"], options.get("scale")
    parts = []
    for place, signal in enumerate(decode(levels, options["encoding"], model.levels, None if rate else scale)):
        title = f"signal {place} of seed {seed}" + (f", class {int(cond[place])}" if cond is not None else "")
        if rate is None:
            steps = list(range(signal.shape[1]))
            series = [Series(f"channel {c}", steps, channel.tolist()) for c, channel in enumerate(signal)]
            parts.append(f"<div>{line_chart(series, title, x_label='sample', log=False)}</div>")
        else:
            wave = wave_chart(signal.mean(0).tolist(), title, seconds=signal.shape[1] / rate)
            uri = media.wav_uri(signal, rate)
            parts.append(f'<div>{wave}<audio controls src="{uri}"></audio></div>')
    return [f'<div class="charts">{"".join(parts)}</div>']
