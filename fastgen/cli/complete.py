"""Complete an image: keep some of its pixels and draw the others from a trained model.

An autoregressive model draws pixels from top to bottom and from left to right, each given all before it. So completions
of a kept top are exact draws given what is kept; kept pixels elsewhere constrain only the pixels after them. An
energy-based model moves all pixels but the kept ones at once.
"""

from __future__ import annotations

import argparse
import inspect
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgen.cli import _runs

if TYPE_CHECKING:
    import torch

SUMMARY = "keep part of an image and draw the rest"
SIDES = ("top", "left", "bottom", "right")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    _runs.add_run(parser)
    parser.add_argument(
        "image", metavar="IMAGE", type=Path, help="image to complete; it is brought to the model's size"
    )
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument("--mask", type=Path, help="PNG of the image's size or shape: white pixels are kept, black drawn")
    kept.add_argument("--keep", choices=SIDES, default="top", help="side that is kept (default: top)")
    parser.add_argument("--fraction", type=float, default=0.5, help="how much of it --keep keeps (default: 0.5)")
    parser.add_argument("-n", type=_runs.positive, default=8, help="how many completions (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1 less varied, 0 the mode (default: 1)")
    parser.add_argument("--class", dest="labels", type=_runs.label_list, help="labels to complete it as (default: all)")
    parser.add_argument("--size", type=_runs.size, help="size of the images, N or HxW (default: the trained one)")
    parser.add_argument("--method", default="auto", help="auto, naive, cached, ... (see fastgen doctor)")
    parser.add_argument("--out", type=Path, help=".png or .npy (default: completions.png in RUN)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Complete the image and write it, what was kept of it, and the completions."""
    import torch

    from fastgen.data.images import read_image

    out = _runs.output_path(args.run_path, args.out, "completions.png")
    model = _runs.load_model(args.run_path, args.device)
    if _runs.is_signal_model(model):
        raise ValueError(f"complete: RUN must be a model of images; {args.run_path} draws signals; use fastgen sample")
    known = inspect.signature(model.sample).parameters
    raster = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values())
    if not raster and "given" not in known:
        raise ValueError(f"complete: {type(model).__name__} draws whole images and cannot keep a part of one")
    if not raster and args.method != "auto":
        raise ValueError(f"--method: {type(model).__name__} has no such option; leave --method out")
    size = args.size if args.size is not None else model.image_size
    levels = model.levels
    given = (read_image(args.image, size=size, channels=model.image_channels).int() * levels // 256).to(torch.uint8)
    mask = _mask_of(args, given)
    cond = _runs.labels(model, args.labels, args.n)
    options: dict[str, Any] = {}
    if raster:
        method = _runs.check_method(args.method, model)
        options = {"shape": tuple(given.shape), "method": method, "progress": not args.quiet}
    started = time.perf_counter()
    images = model.sample(
        args.n,
        seed=args.seed,
        temperature=args.temperature,
        given=given.expand(args.n, -1, -1, -1),
        mask=mask.expand(args.n, -1, -1, -1),
        cond=cond,
        **options,
    ).cpu()
    seconds = time.perf_counter() - started
    if out.suffix == ".npy":
        _runs.write_images(out, images)
    else:
        given, images = _runs.eight_bits(given, levels), _runs.eight_bits(images, levels)
        kept = torch.where(mask, given, torch.full_like(given, 128))
        _runs.write_images(out, torch.cat([given[None], kept[None], images]))
    print(f"{args.n} completions of {args.image} ({float(mask.float().mean()):.0%} kept) in {seconds:.2f} s: {out}")
    return 0


def _mask_of(args: argparse.Namespace, given: torch.Tensor) -> torch.Tensor:
    """True where pixels are kept, bool [1, H, W]."""
    import torch

    from fastgen.data.images import read_image

    _, height, width = given.shape
    if args.mask is not None:
        return read_image(args.mask, size=(height, width), channels=1) >= 128
    if not 0 <= args.fraction <= 1:
        raise ValueError(f"--fraction: how much is kept must be in [0, 1]; got {args.fraction}")
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    rows, columns = round(height * args.fraction), round(width * args.fraction)
    if args.keep == "top":
        mask[:, :rows] = True
    elif args.keep == "bottom":
        mask[:, height - rows :] = True
    elif args.keep == "left":
        mask[:, :, :columns] = True
    else:
        mask[:, :, width - columns :] = True
    return mask
