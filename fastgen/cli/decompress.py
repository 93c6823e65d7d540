"""Restore the images that `fastgen compress` packed, bit for bit, or say why that cannot be."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgen.cli import _runs

if TYPE_CHECKING:
    from fastgen.models import Model

SUMMARY = "restore images that fastgen compress packed"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="FILE", type=Path, help="what fastgen compress wrote")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the folder that the PNG images are written to")
    parser.add_argument(
        "--run",
        dest="run_path",
        type=Path,
        help="folder of the run, or model file, that packed it (default: the one with the right checksum among "
        "runs/* and the models beside FILE)",
    )
    _runs.add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Decompress all images, then write them."""
    from fastgen.codec import decode
    from fastgen.codec.archive import unpack_archive
    from fastgen.data.images import write_image

    started = time.perf_counter()
    if not args.file.is_file():
        raise FileNotFoundError(f"decompress: FILE must be a file of fastgen compress; there is none at {args.file}")
    archive = unpack_archive(args.file.read_bytes())
    model: Any = _model(args, archive.streams)
    images = [image for stream in archive.streams for image in decode(model, stream)]
    if len(images) != len(archive.names):
        raise ValueError(f"decompress: {len(archive.names)} names for {len(images)} images; the file is damaged")
    args.out.mkdir(parents=True, exist_ok=True)
    stems = [Path(name).stem for name in archive.names]
    # photo.jpg and photo.png stay apart
    names = stems if len(set(stems)) == len(stems) else archive.names
    targets = [args.out / f"{name}.png" for name in names]
    for target, image in zip(targets, images):
        write_image(target, _runs.eight_bits(image[None].cpu(), model.levels)[0])
    print(f"{len(images)} images in {time.perf_counter() - started:.1f} s: {args.out}")
    return 0


def _model(args: argparse.Namespace, streams: list[bytes]) -> Model:
    """The model that the user names, or the one whose checksum the file holds."""
    from fastgen.codec.container import unpack
    from fastgen.codec.lossless import model_checksum

    if args.run_path is not None:
        return _runs.load_model(args.run_path, args.device)
    wanted = {unpack(stream)[0].model for stream in streams}
    looked = 0
    for path in _candidates(args.file):
        looked += 1
        model = _runs.load_model(path, args.device)
        if {model_checksum(model)} >= wanted:
            return model
    raise ValueError(
        f"decompress: no model of the file's checksum among {looked} in runs/ and beside FILE; name its --run"
    )


def _candidates(file: Path) -> Iterator[Path]:
    for folder, pattern in ((Path("runs"), "*/model.safetensors"), (file.parent, "*.safetensors")):
        yield from (path for path in sorted(folder.glob(pattern)) if path.name != "checkpoint.safetensors")
