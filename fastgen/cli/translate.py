"""Translate images of one domain into the other one, by a model of two domains (ImageToImage, CycleGAN).

Writes a picture with a row an image: the input, its translation, and the true image where the data has pairs, or what
comes back of the translation where a model translates both ways. With --input every translation is a file of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fastgen.cli import _latent, _runs

if TYPE_CHECKING:
    import torch

    from fastgen.models import TranslationModel

SUMMARY = "images of one domain as images of another"
NAME = "translations.png"
EACH = "translations"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    _latent.add_arguments(parser, NAME)
    parser.add_argument("--input", type=Path, help="image, or folder of images, to translate instead of --data")
    parser.add_argument("--to", metavar="DOMAIN", help="name of the domain that is translated to, or a or b")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise, where there is any (default: 0)")
    parser.add_argument(
        "--size", type=_runs.size, help="size that --input is brought to, N or HxW (default: as trained)"
    )
    parser.add_argument("--batch-size", type=_runs.positive, default=16, help="images side by side (default: 16)")
    parser.add_argument(
        "--each",
        type=Path,
        metavar="DIR",
        help=f"folder for each translation by itself (default: {EACH} in RUN with --input, else none)",
    )


def run(args: argparse.Namespace) -> int:
    """Translate and write."""
    out = _latent.picture_path(args, NAME)
    model = _runs.load_translation_model(args.run_path, args.device)
    target = model.domain_number(args.to)
    names = f"{model.domains[1 - target]} to {model.domains[target]}"
    if args.input is not None:
        n, each = _translate_files(model, target, out, args)
        print(f"{n} images of {args.input}, {names}: {each}; the first beside what they were: {out}")
        return 0
    if args.size is not None:
        raise ValueError("--size: it is of --input; data comes at the size that the model was trained on")
    data = _runs.data_for(model, args.run_path, args.data, args.split)
    pairs, _ = _latent.images(model, data, args.first, args.n)
    parts = model.split(pairs)
    rows = []
    for start in range(0, args.n, args.batch_size):
        stop = start + args.batch_size
        truth = parts[target][start:stop] if model.paired else None
        rows += _rows(model, parts[1 - target][start:stop], args, start, truth)
    _write_picture(out, rows)
    if args.each is not None:
        for index, row in enumerate(rows):
            _write(args.each / f"{args.first + index}.png", row[1])
    kind = "the true ones" if model.paired else "what comes back of it"
    print(f"{args.n} images of {data.name} ({args.split}), {names}; a row: the image, its translation, {kind}: {out}")
    return 0


def _translate_files(model: TranslationModel, target: int, out: Path, args: argparse.Namespace) -> tuple[int, Path]:
    """Translate a file, or all of a folder; how many, and where they are."""
    if args.data is not None:
        raise ValueError("--data: it and --input exclude each other; leave one out")
    base = args.run_path if args.run_path.is_dir() else args.run_path.parent
    each = args.each or base / EACH
    files = _files(args.input)
    shown: list[list[torch.Tensor]] = []
    for start, names, images in _batches(model, 1 - target, files, args):
        rows = _rows(model, images, args, start)
        for name, row in zip(names, rows, strict=True):
            _write((each / name).with_suffix(".png"), row[1])
        shown += rows[: args.n - len(shown)]
    _write_picture(out, shown)
    return len(files), each


def _files(given: Path) -> list[tuple[str, Path]]:
    """Images by the names that their translations get, in order.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: no images, or two of one name.
    """
    from fastgen.data.folder import SUFFIXES, files_below

    if not given.exists():
        raise FileNotFoundError(f"--input: {given} does not exist; name an image or a folder")
    found = (
        [("/".join(parts), given.joinpath(*parts)) for parts in files_below(given, SUFFIXES)] if given.is_dir() else []
    )
    files = found if given.is_dir() else [(given.name, given)]
    if not files:
        raise ValueError(f"--input: {given} must hold images; it has none of {', '.join(SUFFIXES)}")
    seen: dict[str, Path] = {}
    for name, path in files:
        stem = str(Path(name).with_suffix(""))
        if stem in seen:
            raise ValueError(
                f"--input: names must differ without their ending; got {seen[stem]} and {path}; rename one"
            )
        seen[stem] = path
    return files


def _batches(
    model: TranslationModel, domain: int, files: list[tuple[str, Path]], args: argparse.Namespace
) -> Iterator[tuple[int, list[str], torch.Tensor]]:
    """The number of the first image, names, and images [N, C, H, W] on the model's device."""
    import torch

    from fastgen.data import read_image

    size = args.size if args.size is not None else model.image_size
    device = next(model.parameters()).device
    for start in range(0, len(files), args.batch_size):
        part = files[start : start + args.batch_size]
        images = [read_image(path, size=size, channels=model.domain_channels[domain]) for _, path in part]
        yield start, [name for name, _ in part], torch.stack(images).to(device)


def _rows(
    model: TranslationModel,
    images: torch.Tensor,
    args: argparse.Namespace,
    first: int,
    truth: torch.Tensor | None = None,
) -> list[list[torch.Tensor]]:
    """Of each image what a row shows, levels on the CPU."""
    from fastgen.likelihoods import signal_to_levels
    from fastgen.models import CycleGAN

    columns = [images, model.translate(images, to=args.to, seed=args.seed, first_image=first)]
    if truth is not None:
        columns.append(truth)
    if isinstance(model, CycleGAN):
        columns.append(signal_to_levels(model.cycle(images, to=args.to)[1], model.levels))
    return [list(row) for row in zip(*(column.cpu() for column in columns), strict=True)]


def _write_picture(path: Path, rows: list[list[torch.Tensor]]) -> None:
    """Rows of images, gray ones in colour where the others are."""
    import torch

    channels = max(image.shape[0] for image in rows[0])
    if channels not in (1, 3):
        raise ValueError(f"--out: pictures have 1 or 3 channels; the domains have up to {channels}")
    _latent.write_rows(
        path, torch.stack([torch.stack([image.expand(channels, -1, -1) for image in row]) for row in rows])
    )


def _write(path: Path, image: torch.Tensor) -> None:
    from fastgen.data import write_image

    write_image(path, image)
