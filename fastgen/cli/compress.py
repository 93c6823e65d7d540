"""Compress images without loss by a trained model: to about as many bits as it finds them surprising.

The model must be autoregressive and of 256 levels, or of fewer where the images use only those. `fastgen decompress`
gives the pixels back bit for bit, with the same model; checksums of model, file and images see to that.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgen.cli import _runs

if TYPE_CHECKING:
    import torch

    from fastgen.models import AutoregressiveModel

SUMMARY = "compress images without loss by a trained model"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    _runs.add_run(parser)
    parser.add_argument("images", metavar="IMAGE", type=Path, nargs="+", help="image files, or folders of them")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the file to write")
    parser.add_argument(
        "--class",
        dest="label",
        type=int,
        help="label of the images, of a model by class (default: the likeliest of each)",
    )
    parser.add_argument("--batch-size", type=_runs.positive, help="images coded side by side (default: 32)")
    parser.add_argument("--method", default="auto", help="how parameters are computed (default: the fastest here)")


def run(args: argparse.Namespace) -> int:
    """Compress and say how well."""
    import torch

    from fastgen._files import atomic_write
    from fastgen.codec import encode
    from fastgen.codec.archive import Archive, pack_archive

    model: Any = _runs.load_model(args.run_path, args.device)
    paths = _paths(args.images)
    by_size: dict[tuple[int, ...], list[tuple[Path, torch.Tensor]]] = {}
    for path in paths:
        image = _exact_image(path, model)
        by_size.setdefault(tuple(image.shape), []).append((path, image))
    started = time.perf_counter()
    names, streams, values = [], [], 0
    for group in by_size.values():
        images = torch.stack([image for _, image in group])
        labels = _labels(model, images, args.label)
        streams.append(encode(model, images, cond=labels, batch_size=args.batch_size, method=args.method))
        names += [path.name for path, _ in group]
        values += images.numel()
    data = pack_archive(Archive(names, streams))
    atomic_write(args.out, data)
    files = sum(path.stat().st_size for path in paths)
    raw = math.ceil(values * math.log2(model.levels) / 8)
    print(
        f"{len(paths)} images, {files:,} bytes as they were, {raw:,} unpacked: {len(data):,} bytes "
        f"({8 * len(data) / values:.3f} bits/dim) in {time.perf_counter() - started:.1f} s: {args.out}"
    )
    return 0


def _paths(given: list[Path]) -> list[Path]:
    """The files, and those of folders, each name once."""
    from fastgen.data.folder import SUFFIXES, files_below

    paths: list[Path] = []
    for item in given:
        inside = [item.joinpath(*parts) for parts in files_below(item, SUFFIXES)] if item.is_dir() else [item]
        if not inside:
            raise ValueError(f"compress: {item} must hold images; it has none of {', '.join(SUFFIXES)}")
        paths += inside
    seen: dict[str, Path] = {}
    for path in paths:
        if path.name in seen:
            raise ValueError(f"compress: names must differ; got {seen[path.name]} and {path}; compress them apart")
        seen[path.name] = path
    return paths


def _exact_image(path: Path, model: AutoregressiveModel) -> torch.Tensor:
    """An image whose levels say all of it: what a conversion would lose is refused."""
    import torch

    from fastgen.data.images import open_image, read_image

    with open_image(path) as image:
        mode = image.mode
    modes = {1: ("1", "L"), 3: ("RGB",)}.get(model.channels, ())
    if mode not in modes:
        raise ValueError(
            f"compress: {path} must be an image of mode {' or '.join(modes)} for this model; got {mode}; convert it "
            "first, as converting here would lose something"
        )
    levels = read_image(path, channels=model.channels)
    if model.levels == 256:
        return levels
    steps = levels.int() * (model.levels - 1)
    coarse = (steps + 127) // 255
    if not torch.equal(coarse * 255 // (model.levels - 1), levels.int()) and not torch.equal(coarse * 255, steps):
        raise ValueError(
            f"compress: {path} must have the {model.levels} levels of the model; it has others; quantise it first"
        )
    return coarse.to(torch.uint8)


def _labels(model: AutoregressiveModel, images: torch.Tensor, label: int | None) -> torch.Tensor | None:
    """The label of each image: the one that is given, or the one that makes it likeliest."""
    import torch

    if model.n_classes == 0:
        if label is not None:
            raise ValueError("--class: the model was trained without labels; leave --class out")
        return None
    if label is not None:
        return torch.full((len(images),), label)
    device = next(model.parameters()).device
    best = []
    with torch.inference_mode():
        for part in images.to(device).split(64):
            each = [model.log_prob(part, torch.full((len(part),), k)) for k in range(model.n_classes)]
            best.append(torch.stack(each).argmax(0))
    return torch.cat(best)
