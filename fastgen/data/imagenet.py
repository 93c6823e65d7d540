"""The downsampled variants of ImageNet, from folders that the user has downloaded."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastgen.data.dataset import ImageDataset, TensorImages
from fastgen.data.folder import load_folder
from fastgen.data.images import fit_images
from fastgen.data.splits import Request

N_CLASSES = 1000


def load_imagenet32(name: str, request: Request) -> ImageDataset:
    """ImageNet at 32 x 32: see `load_imagenet`."""
    return load_imagenet(name, request, 32)


def load_imagenet64(name: str, request: Request) -> ImageDataset:
    """ImageNet at 64 x 64: see `load_imagenet`."""
    return load_imagenet(name, request, 64)


def load_imagenet(name: str, request: Request, side: int) -> ImageDataset:
    """ImageNet at side x side, RGB, from `root`/`name`; the official validation images are the test split.

    Two layouts are read. The `.npz` batches of image-net.org (`train_data_batch_1.npz` ...
    `train_data_batch_10.npz` and `val_data.npz`, in any subfolders; labels 1..1000 become 0..999, numbered as
    there and without names), which are held in memory. Or images in `train_32x32` and `valid_32x32` (or
    `train` and `val`, with a folder for each class or without), which are read lazily. The two come from
    different resizing filters: their bits per dimension do not compare. Pickled batches are refused, since
    unpickling runs whatever code they hold.

    Source: Chrabaszcz, Loshchilov, Hutter, "A Downsampled Variant of ImageNet as an Alternative to the CIFAR
        datasets", arXiv:1707.08819; van den Oord, Kalchbrenner, Kavukcuoglu, "Pixel Recurrent Neural
        Networks", arXiv:1601.06759.
    """
    folder = request.root / name
    layout = (
        "put the .npz batches (train_data_batch_*.npz, val_data.npz) or the image folders "
        f"(train_{side}x{side}, valid_{side}x{side}) from https://image-net.org/download-images there, or pass root="
    )
    if not folder.is_dir():
        raise FileNotFoundError(
            f"load: {name!r} must be in the folder {str(folder)!r}, which does not exist; {layout}."
        )
    pattern = "val_data*" if request.split == "test" else "train_data_batch_*"
    found = sorted(folder.rglob(pattern), key=lambda path: path.name)
    batches = [path for path in found if path.suffix == ".npz"]
    if batches:
        return _load_batches(name, batches, request, side)
    if found:
        raise ValueError(
            f"load: {name!r} must be .npz batches; got {str(found[0])!r}, a pickle, which is not read "
            f"because that would run code from the file; {layout}."
        )
    if any(folder.rglob("*.npz")):
        raise FileNotFoundError(
            f"load: split {request.split!r} of {name!r} needs {pattern}.npz; got none in {str(folder)!r}; {layout}."
        )
    return load_folder(name, folder, request, validation_is_test=True)


def _load_batches(name: str, paths: list[Path], request: Request, side: int) -> TensorImages:
    """Fill the wanted split batch by batch, so that the whole set is never in memory beside it."""
    labels = [_read(path, "labels") for path in paths]
    starts = np.cumsum([0, *map(len, labels)])
    total = int(starts[-1])
    chosen = request.shuffled(total) if request.split == "test" else request.choose(name, total)
    position = np.full(total, -1)  # where an image goes in the split; -1: nowhere
    position[chosen] = np.arange(len(chosen))

    height, width = request.size or (side, side)
    images = torch.empty((len(chosen), request.channels or 3, height, width), dtype=torch.uint8)
    for path, start, stop in zip(paths, starts, starts[1:]):
        target = position[start:stop]
        rows = np.flatnonzero(target >= 0)
        if len(rows):
            pixels = _read(path, "data")
            if pixels.dtype != np.uint8 or pixels.shape != (stop - start, 3 * side * side):
                raise ValueError(
                    f"load: 'data' in {str(path)!r} must be uint8 [{stop - start}, {3 * side * side}]; got "
                    f"{pixels.dtype} {list(pixels.shape)}; check that the file belongs to {name!r}."
                )
            picked = torch.from_numpy(pixels[rows].reshape(-1, 3, side, side))
            images[torch.from_numpy(target[rows])] = fit_images(picked, request.size, request.channels)
    numbers = torch.from_numpy(np.concatenate(labels)[chosen].astype(np.int64) - 1)
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < N_CLASSES:
        raise ValueError(
            f"load: labels of {name!r} must be in 1..{N_CLASSES}; got "
            f"{int(numbers.min()) + 1}..{int(numbers.max()) + 1}; check the files."
        )
    return TensorImages(name, images, numbers, [str(number) for number in range(N_CLASSES)])


def _read(path: Path, key: str) -> npt.NDArray[Any]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays[key]
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"load: {str(path)!r} must be an .npz with plain arrays 'data' and 'labels'; got "
            f"{type(error).__name__}: {error}; download it again."
        ) from error
