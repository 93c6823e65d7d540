"""What the commands of models with codes share: images to start from, and rows of pictures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgen.cli import _runs

if TYPE_CHECKING:
    import torch

    from fastgen.data import LabelledDataset
    from fastgen.models import Model


def add_arguments(parser: argparse.ArgumentParser, name: str, n: int | None = 8) -> None:
    """Declare RUN, --device, --data, --split, --first, -n (unless it is None) and --out."""
    _runs.add_run(parser)
    _runs.add_data(parser)
    if n is not None:
        parser.add_argument("-n", type=_runs.positive, default=n, help=f"how many (default: {n})")
    parser.add_argument("--first", type=int, default=0, help="number of the first image that is taken (default: 0)")
    parser.add_argument("--out", type=Path, help=f"a .png (default: {name} in RUN)")


def add_space(parser: argparse.ArgumentParser) -> None:
    """Declare --space."""
    parser.add_argument(
        "--space", choices=("z", "w"), default="z", help="of a StyleGAN: codes z or their styles w (default: z)"
    )


def check_space(model: Model, space: str) -> dict[str, Any]:
    """The option of a model's methods that `space` is, none where it is the usual one.

    Raises:
        ValueError: "w" of a model without styles.
    """
    from fastgen.models.adversarial import StyleModel

    if space == "w" and not isinstance(model, StyleModel):
        raise ValueError(f"--space: {type(model).__name__} has no styles w; leave --space out")
    return {} if space == "z" else {"space": space}


def picture_path(args: argparse.Namespace, name: str) -> Path:
    """Where the picture goes.

    Raises:
        ValueError: no .png.
    """
    return _runs.output_path(args.run_path, args.out, name, (".png",))


def images(model: Model, data: LabelledDataset, first: int, n: int) -> tuple[torch.Tensor, Any]:
    """Images first, first + 1, ... of `data` and their condition, on the model's device.

    Raises:
        ValueError: the data has fewer.
    """
    import torch

    if not 0 <= first <= len(data) - n:
        raise ValueError(
            f"{data.name} has {len(data)} images here; --first {first} and {n} images from there go beyond"
        )
    return batch(model, data, torch.arange(first, first + n))


def batch(model: Model, data: LabelledDataset, indices: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Images of `data` by their numbers, and their condition, on the model's device."""
    device = next(model.parameters()).device
    x, labels = data.batch(indices)
    x = x.to(device)
    return x, model.condition_of(x, labels.to(device) if model.n_classes else None)


def write_rows(path: Path, rows: torch.Tensor) -> None:
    """Write 8-bit images [R, K, C, H, W] as R rows of K."""
    _runs.write_images(path, rows.flatten(0, 1), columns=rows.shape[1])


def write_rows_of_any_length(path: Path, rows: Sequence[torch.Tensor]) -> None:
    """Write rows of 8-bit images [K, C, H, W], the shorter ones filled up with white."""
    import torch

    width = max(map(len, rows))
    filled = [torch.cat([row, row.new_full((width - len(row), *row.shape[1:]), 255)]) for row in rows]
    write_rows(path, torch.stack(filled))
