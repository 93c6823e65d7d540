"""Charts as SVG, by hand: a few lines of text are less than a library that draws, and browsers show them.

Colours are CSS classes, so that one chart suits a light and a dark page: `STYLE` has both, and `standalone` makes a
file of a chart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

WIDTH, HEIGHT = 380, 230
LEFT, TOP, BOTTOM, GAP = 50, 30, 40, 8
CHARACTER = 6.6  # width of one, of text 12 high: labels get their room by it
MOST_POINTS = 400
WIDE = 680  # of bar charts
N_COLOURS = 6

STYLE = Path(__file__).with_name("chart.css").read_text(encoding="utf-8") + "".join(
    f".chart .s{i} {{ stroke: var(--c{i}) }}\n.chart .f{i}, .chart text.f{i} {{ fill: var(--c{i}) }}\n"
    for i in range(N_COLOURS)
)


@dataclass(frozen=True)
class Series:
    """One line, or one row of points, of a chart.

    Attributes:
        name: what it is called beside its end.
        x: places, not falling.
        y: values; those that are not finite are left out.
        errors: standard errors of the values, drawn as whiskers; none by default.
        points: draw points in place of a line.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    errors: Sequence[float] = ()
    points: bool = False


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart; `low` and `high` are the ends of its whisker."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    group: str = ""
    colour: int = 0


def line_chart(series: Iterable[Series], title: str, *, x_label: str = "step", log: bool | None = None) -> str:
    """Lines over a common axis, each with its name and its last value at its end; without name there is neither.

    The value axis is logarithmic if all values are positive and span more than a factor of 30 (or as `log` says); of a
    linear one a few values far off are cut, which the chart says.

    Raises: ValueError if there is nothing to draw, or a logarithm is asked for of values that have none.
    """
    kept = [_finite(line) for line in series]
    kept = [line for line in kept if len(line.x)]
    values = [value for line in kept for value in line.y]
    if not values:
        raise ValueError(f"line_chart: {title} must have a finite value; got none; leave the chart out")
    if log and min(values) <= 0:
        raise ValueError(f"line_chart: {title} has values that are not positive; set log=False")
    logarithmic = min(values) > 0 and max(values) > 30 * min(values) if log is None else log
    low, high, cut = _limits(values, logarithmic)
    labels = [shorten(f"{line.name} {number(line.y[-1])}", 0.42 * WIDTH) if line.name else "" for line in kept]
    right = WIDTH - GAP - CHARACTER * max(map(len, labels)) - 6
    first, last = min(line.x[0] for line in kept), max(line.x[-1] for line in kept)
    x, y = _scale(first, last, LEFT, right, False), _scale(low, high, HEIGHT - BOTTOM, TOP, logarithmic)
    parts = [_text(GAP, 17, title, "title")]
    for tick in ticks(low, high, logarithmic):
        at = y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_text(LEFT - 6, at + 4, number(tick), anchor="end"))
    for tick in ticks(first, last, False, 4):
        parts.append(_text(x(tick), HEIGHT - BOTTOM + 16, number(tick), anchor="middle"))
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right:.1f}" y1="{base}" y2="{base}"/>')
    notes = ["logarithmic"] if logarithmic else []
    notes += [f"{cut} of {len(values)} values beyond"] if cut else []
    parts.append(_text((LEFT + right) / 2, HEIGHT - 6, ", ".join([x_label, *notes]), anchor="middle"))
    ends = _apart([y(min(max(line.y[-1], low), high)) for line in kept], TOP + 4, base)
    for place, (line, label, end) in enumerate(zip(kept, labels, ends, strict=True)):
        colour = place % N_COLOURS
        parts += _drawn(line, colour, x, y, low, high)
        parts += [_text(right + 6, end + 4, label, f"f{colour}")] if label else []
    return _svg(parts, WIDTH, HEIGHT, title)


def bar_chart(
    bars: Sequence[Bar], title: str, *, unit: str = "", log: bool = False, reference: float | None = None
) -> str:
    """Horizontal bars with whiskers, from `reference` (by default zero) to their values, under the names of groups.

    Raises: ValueError if there is nothing to draw, or values have no logarithm and `log` asks for it.
    """
    if not bars or not all(math.isfinite(bar.value) for bar in bars):
        raise ValueError(
            f"bar_chart: {title} must have finite values; got {[bar.value for bar in bars]}; leave them out"
        )
    extremes = [v for bar in bars for v in (bar.value, bar.low, bar.high) if v is not None and math.isfinite(v)]
    if log and min(extremes) <= 0:
        raise ValueError(f"bar_chart: {title} has values that are not positive; set log=False")
    origin = reference if reference is not None else (min(extremes) if log else 0.0)
    low, high = min([*extremes, origin]), max([*extremes, origin])
    if low == high:
        high = low + (abs(low) or 1.0)
    margin = (high / low) ** 0.03 if log else 0.03 * (high - low)
    low = (low / margin if log else low - margin) if low < origin else low
    high = (high * margin if log else high + margin) if high > origin else high
    width = WIDE
    left = min(300.0, CHARACTER * max(len(bar.label) for bar in bars) + 2 * GAP)
    right = width - CHARACTER * (max(len(number(bar.value)) for bar in bars) + len(unit) + 1) - GAP
    rows: list[tuple[float, Bar]] = []
    headings: list[str] = []
    parts, at, group = [_text(GAP, 17, title, "title")], TOP + 2.0, ""
    for bar in bars:
        if bar.group != group:
            group = bar.group
            headings.append(_text(GAP, at + 16, shorten(group, width - 2 * GAP), "heading"))
            at += 22
        rows.append((at, bar))
        at += 18
    x = _scale(low, high, left, right, log)
    for tick in ticks(low, high, log):
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{at + 2:.1f}"/>')
        parts.append(_text(x(tick), at + 17, number(tick), anchor="middle"))
    parts.append(f'<line class="axis" x1="{x(origin):.1f}" x2="{x(origin):.1f}" y1="{TOP}" y2="{at + 2:.1f}"/>')
    parts += headings
    for top, bar in rows:
        start, end = sorted((x(origin), x(bar.value)))
        middle, colour = top + 9, bar.colour % N_COLOURS
        parts.append(_text(left - GAP, middle + 4, shorten(bar.label, left - GAP), anchor="end"))
        size = f'width="{max(end - start, 1):.1f}" height="12" rx="2"'
        parts.append(f'<rect class="bar f{colour}" x="{start:.1f}" y="{top + 3:.1f}" {size}/>')
        tip = end
        if bar.low is not None and bar.high is not None and math.isfinite(bar.high - bar.low):
            tip = max(end, x(bar.high))
            ends = f'x1="{x(bar.low):.1f}" x2="{x(bar.high):.1f}"'
            parts.append(f'<line class="whisker" {ends} y1="{middle:.1f}" y2="{middle:.1f}"/>')
        parts.append(_text(tip + 5, middle + 4, f"{number(bar.value)}{unit}", "value"))
    return _svg(parts, width, round(at + 26), title)


def wave_chart(samples: Sequence[float], title: str, *, seconds: float | None = None) -> str:
    """A signal in [-1, 1]: its least and greatest value in each of as many parts as there is room for.

    Raises: ValueError if there are no samples.
    """
    if not len(samples):
        raise ValueError(f"wave_chart: {title} must have samples; got none")
    width, height, n = WIDTH, 90, len(samples)
    columns = min(n, width - 2 * GAP)
    scale = _scale(-1.0, 1.0, height - 16, 22, False)
    points_up, points_down = [], []
    for column in range(columns):
        part = samples[column * n // columns : max((column + 1) * n // columns, column * n // columns + 1)]
        at = GAP + column * (width - 2 * GAP) / columns
        points_up.append(f"{at:.1f},{scale(max(part)) - 0.5:.1f}")
        points_down.append(f"{at:.1f},{scale(min(part)) + 0.5:.1f}")
    points = " ".join([*points_up, *reversed(points_down)])
    length = f"{n:,} samples" if seconds is None else f"{seconds:.2f} s"
    parts = [
        _text(GAP, 14, title, "title"),
        _text(width - GAP, 14, length, anchor="end"),
        f'<polygon class="f0" points="{points}"/>',
    ]
    return _svg(parts, width, height, title)


def standalone(svg: str) -> str:
    """A chart as a file of its own: with its size, its style and a background."""
    head, body = svg.split(">", 1)
    size = re.search(r'viewBox="0 0 (\d+) (\d+)"', head)
    assert size is not None
    head += f' width="{size[1]}" height="{size[2]}"'
    return f'{head}>\n<style>\n{STYLE}</style>\n<rect class="background" width="100%" height="100%"/>{body}\n'


def ticks(low: float, high: float, log: bool, count: int = 5) -> list[float]:
    """Round numbers from low to high, about `count`: 1, 2 or 5 times a power of ten."""
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        decades = range(first, last + 1)
        for factors in ((1, 2, 5), (1, 3), (1,)):
            every = [factor * 10.0**decade for decade in decades for factor in factors]
            found = [tick for tick in every if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
            if len(found) <= count + 2:
                return found if len(found) > 1 else ticks(low, high, False, count)
        stride = -(-len(found) // count)
        return found[::stride]
    if high == low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
    first_tick = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) + 0.0 for k in range(first_tick, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A number in few characters: `0.125`, `1.2k`, `3.4e-05`."""
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e15 or size < 1e-3:
        text = f"{value:.2g}"
        return text.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e3 if suffix == 'k' else limit):.4g}{suffix}"
    return f"{value:.4g}"


def shorten(text: str, width: float) -> str:
    """Text that fits into `width`, with an ellipsis where it is cut."""
    most = max(4, int(width / CHARACTER))
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _finite(line: Series) -> Series:
    """The values that can be drawn; of very many the least and the greatest of each part."""
    keep = [i for i, value in enumerate(line.y) if math.isfinite(value)]
    if len(keep) > MOST_POINTS:
        parts = MOST_POINTS // 2
        chosen = {keep[0], keep[-1]}
        for part in range(parts):
            here = keep[part * len(keep) // parts : (part + 1) * len(keep) // parts]
            chosen |= {min(here, key=line.y.__getitem__), max(here, key=line.y.__getitem__)}
        keep = sorted(chosen)
    errors = [line.errors[i] for i in keep] if line.errors else ()
    return Series(line.name, [line.x[i] for i in keep], [line.y[i] for i in keep], errors, line.points)


def _limits(values: Sequence[float], log: bool) -> tuple[float, float, int]:
    """Ends of the value axis, and how many values lie beyond."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    if log:
        return low / 1.1, high * 1.1, 0
    lower, upper = ordered[int(0.02 * (len(ordered) - 1))], ordered[math.ceil(0.98 * (len(ordered) - 1))]
    reach = 1.5 * (upper - lower)
    if reach > 0 and len(ordered) >= 20:
        low, high = max(low, lower - reach), min(high, upper + reach)
    cut = sum(value < low or value > high for value in ordered)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin, cut


def _scale(low: float, high: float, start: float, stop: float, log: bool) -> Callable[[float], float]:
    """From values to places."""
    a, b = (math.log(low), math.log(high)) if log else (low, high)
    span = (b - a) or 1.0

    def place(value: float) -> float:
        return start + (stop - start) * ((math.log(value) if log else value) - a) / span

    return place


def _drawn(
    line: Series, colour: int, x: Callable[[float], float], y: Callable[[float], float], low: float, high: float
) -> list[str]:
    """The marks of one series; values beyond the axis lie on its end."""
    at = [(x(a), y(min(max(b, low), high))) for a, b in zip(line.x, line.y, strict=True)]
    if not line.points and len(at) > 1:
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in at)
        return [f'<polyline class="line s{colour}" points="{points}"/>']
    parts = [f'<circle class="f{colour}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in at]
    for (a, _), value, error in zip(at, line.y, line.errors, strict=False):
        ends = [y(min(max(value + sign * error, low), high)) for sign in (-1, 1)]
        parts.append(f'<line class="error s{colour}" x1="{a:.1f}" x2="{a:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}"/>')
    return parts


def _apart(places: Sequence[float], top: float, bottom: float, room: float = 14.0) -> list[float]:
    """Places of labels, moved so that no two overlap."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    for before, here in pairwise(order):
        moved[here] = max(moved[here], moved[before] + room)
    over = moved[order[-1]] - bottom
    if over > 0:  # push back up
        moved[order[-1]] -= over
        for after, here in pairwise(reversed(order)):
            moved[here] = min(moved[here], moved[after] - room)
    return [max(place, top) for place in moved]


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    named = f' class="{kind}"' if kind else ""
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text{named} x="{x:.1f}" y="{y:.1f}"{where}>{escape(text)}</text>'


def _svg(parts: Sequence[str], width: int, height: int, title: str) -> str:
    return (
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}">\n' + "\n".join(parts) + "\n</svg>"
    )
