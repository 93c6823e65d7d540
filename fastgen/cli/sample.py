"""Draw images from a trained model.

The noise is a function of the seed and the image's index, so a seed gives the same images by every method.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from fastgen.cli import _runs

SUMMARY = "draw images from a trained model"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    _runs.add_run(parser)
    parser.add_argument("-n", type=_runs.positive, default=64, help="how many images (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1 less varied, 0 the mode (default: 1)")
    parser.add_argument("--class", dest="labels", type=_runs.label_list, help="labels to draw, for example 3 or 0,1,2")
    parser.add_argument("--size", type=_runs.size, help="size of the images, N or HxW (default: the trained one)")
    parser.add_argument("--method", default="auto", help="auto, naive, cached, ... (see fastgen doctor)")
    parser.add_argument("--batch-size", type=_runs.positive, help="images drawn side by side, for less memory")
    parser.add_argument("--out", type=Path, help=".png for a grid, .npy for the levels (default: samples.png in RUN)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Sample and write the images."""
    out = _runs.output_path(args.run_path, args.out, "samples.png")
    model = _runs.load_model(args.run_path, args.device)
    method = _runs.check_method(args.method, model)
    cond = _runs.labels(model, args.labels, args.n)
    shape = None
    if args.size is not None:
        height, width = (args.size, args.size) if isinstance(args.size, int) else args.size
        shape = (model.image_channels, height, width)
    started = time.perf_counter()
    images = model.sample(
        args.n,
        seed=args.seed,
        shape=shape,
        temperature=args.temperature,
        cond=cond,
        method=method,
        batch_size=args.batch_size,
        progress=not args.quiet,
    ).cpu()
    seconds = time.perf_counter() - started
    columns = len(set(cond.tolist())) if cond is not None and len(set(cond.tolist())) > 1 else None
    _runs.write_images(out, images, columns)
    print(f"{args.n} images of {'x'.join(map(str, images.shape[1:]))} in {seconds:.2f} s: {out}")
    return 0
