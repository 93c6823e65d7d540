"""Seconds an image against the batch, from recorded runs: `python -m bench.sampling_picture OUT.svg`.

Written by hand, as an SVG of a few lines is less than a library that draws.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from bench import render
from bench.cases.sampling_launches import COMPILED, FORWARD, HALF, METHODS, MODELS
from bench.record import Record
from bench.sampling_roofline import measured

COLOURS = {
    FORWARD: ("naive", "#9a3324"),
    COMPILED: ("naive, compiled", "#d98032"),
    METHODS["cached"]: ("cached, PyTorch calls", "#8a8a3a"),
    METHODS["cuda_graph"]: ("captured launches", "#2f7d6d"),
    HALF: ("captured launches, bfloat16", "#5aa7c7"),
    METHODS["megakernel"]: ("persistent launch", "#2b4c8c"),
}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 420, 70, 230, 40, 50


def picture(curves: dict[str, dict[int, float]], title: str) -> str:
    """An SVG with both axes logarithmic: label -> {batch: seconds an image}.

    Raises: ValueError if there is nothing to draw.
    """
    points = [(batch, seconds) for curve in curves.values() for batch, seconds in curve.items()]
    if not points:
        raise ValueError(
            "picture: needs a measurement; got none; run `python -m bench.gpu --only sampling` and record it"
        )
    batches = sorted({batch for batch, _ in points})
    low, high = (
        round_(math.log10(pick(s for _, s in points))) for round_, pick in ((math.floor, min), (math.ceil, max))
    )
    high = max(high, low + 1)
    span = max(math.log2(batches[-1] / batches[0]), 1)

    def x(batch: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log2(batch / batches[0]) / span

    def y(seconds: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (math.log10(seconds) - low) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{title}</text>',
    ]
    for decade in range(low, high + 1):
        at = y(10.0**decade)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10.0**decade:g} s</text>')
    for batch in batches:
        parts.append(f'<text x="{x(batch):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{batch}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 10}" text-anchor="middle">images drawn side by side</text>')
    for place, (label, curve) in enumerate(curves.items()):
        name, colour = COLOURS[label]
        path = " ".join(f"{x(batch):.1f},{y(seconds):.1f}" for batch, seconds in sorted(curve.items()))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{at.split(",")[0]}" cy="{at.split(",")[1]}" r="3" fill="{colour}"/>' for at in path.split()
        ]
        at = TOP + 10 + 20 * place
        parts.append(f'<rect x="{WIDTH - RIGHT + 15}" y="{at - 10}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 33}" y="{at}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def curves(records: list[Record], key: str, device: str) -> dict[str, dict[int, float]]:
    """The recorded seconds an image of a network on a device, by variant and batch."""
    model = MODELS[key]
    found: dict[str, dict[int, float]] = {}
    for batch in model.batches:
        for variant, seconds in measured(records, key, model, batch, device).items():
            found.setdefault(variant, {})[batch] = seconds / batch
    return {label: found[label] for label in COLOURS if label in found}


def main(arguments: list[str] | None = None) -> int:
    """Write the picture; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.sampling_picture", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", choices=tuple(MODELS), default="pixelcnnpp-5x160")
    parser.add_argument("--device", default="H100", help="a part of the device's name")
    options = parser.parse_args(arguments)
    title = f"{MODELS[options.model].title}, seconds an image, {options.device}"
    try:
        text = picture(curves(render.recorded(), options.model, options.device), title)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    options.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
