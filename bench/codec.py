"""How small and how fast lossless compression by a model is, beside the formats that everybody has.

`python -m bench.codec` trains the recipes below, compresses held-out images of their data and prints a table;
`--record` appends to bench/results/codec, from which `python -m bench render` writes the README's.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.record import RESULTS, Record, append, environment, read

SIZES = RESULTS / "codec" / "sizes.jsonl"
RECIPES = ("pixelcnnpp", "pixelcnnpp-photos-small")
MOST_IMAGES = 128


def run(name: str) -> Record:
    """Train a recipe, and compress held-out images by its model and by other formats."""
    from fastgen.codec import decode, encode
    from fastgen.training import get_recipe, train
    from fastgen.training.build import load_data

    recipe = get_recipe(name)
    data = load_data(recipe)
    with tempfile.TemporaryDirectory() as folder:
        model: Any = train(recipe, Path(folder) / "run", device="cpu", progress=sys.stderr.isatty(), data=data).model
    images, labels = data[1].batch(torch.arange(min(MOST_IMAGES, len(data[1]))))
    cond = labels if recipe.conditional else None
    packed, pack_s = _timed(lambda: encode(model, images, cond=cond))
    restored, unpack_s = _timed(lambda: decode(model, packed))
    if not torch.equal(restored, images):
        raise AssertionError(f"{name}: the images came back changed")
    with torch.inference_mode():
        nats = -sum(
            float(model.log_prob(images[i : i + 32], None if cond is None else cond[i : i + 32]).sum())
            for i in range(0, len(images), 32)
        )
    told = len(images) * math.log2(model.n_classes) if recipe.conditional else 0.0
    return {
        "recipe": name,
        "data": recipe.data,
        "shape": list(images.shape[1:]),
        "images": len(images),
        "ideal_bytes": (nats / math.log(2) + told) / 8,
        "bytes": {
            "fastgen": len(packed),
            **{key: sum(len(_saved(image, kind)) for image in images) for key, kind in _FORMATS.items()},
            **{f"{key}, one sheet": len(_saved(_sheet(images), kind)) for key, kind in _FORMATS.items()},
        },
        "pack_s": pack_s,
        "unpack_s": unpack_s,
        **environment("cpu"),
    }


_FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {"format": "PNG", "optimize": True},
    "WebP": {"format": "WEBP", "lossless": True, "quality": 100, "method": 6},
}


def _saved(image: Tensor, options: dict[str, Any]) -> bytes:
    """An image as a file of another format."""
    from PIL import Image

    pixels = image.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, **options)
    return buffer.getvalue()


def _sheet(images: Tensor) -> Tensor:
    """All images side by side, so that a format pays its header once. Shapes: [N, C, H, W] -> [C, R H, K W]."""
    n, channels, height, width = images.shape
    columns = next(k for k in range(math.isqrt(n), 0, -1) if n % k == 0)
    grid = images.view(n // columns, columns, channels, height, width)
    return grid.permute(2, 0, 3, 1, 4).reshape(channels, n // columns * height, columns * width)


def _timed(work: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def table(records: list[Record]) -> str:
    """Render a row for each recipe's newest record."""
    newest = {record["recipe"]: record for record in records}
    formats = ["fastgen", *(f"{key}{more}" for key in _FORMATS for more in ("", ", one sheet"))]
    lines = [
        "| held-out images, by a model of | -log2 p | " + " | ".join(formats) + " | pack, unpack |",
        "|---|--:|" + "--:|" * len(formats) + "--:|",
    ]
    for name in RECIPES:
        if name in newest:
            record = newest[name]
            size = "x".join(map(str, record["shape"]))
            cells = [f"{record['images']} of `{record['data']}`, {size}, by `{name}`", f"{record['ideal_bytes']:,.0f}"]
            cells += [f"{record['bytes'][key]:,}" for key in formats]
            cells.append(f"{record['pack_s']:.1f} s, {record['unpack_s']:.1f} s")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def recorded() -> list[Record]:
    """Read all records; none if there is no file yet."""
    return read([SIZES]) if SIZES.exists() else []


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.codec", description=__doc__)
    parser.add_argument("--record", action="store_true", help="append the results to bench/results/codec")
    options = parser.parse_args(arguments)
    records = []
    for name in RECIPES:
        records.append(run(name))
        print(table(records[-1:]), flush=True)
        if options.record:
            append(SIZES, records[-1:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
