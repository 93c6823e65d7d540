"""Crops of the two colour photographs that scikit-learn ships."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastgen.data._random import PHOTOS, permutation
from fastgen.data.builtin import import_scikit_learn
from fastgen.data.dataset import TensorImages
from fastgen.data.images import fit_images
from fastgen.data.splits import Request, no_test_split

CLASS_NAMES = ("china", "flower")


def load_photos(name: str, request: Request) -> TensorImages:
    """RGB crops of `size` (32 by default) at full resolution; the label is the photograph.

    Each photograph (427 x 640) is tiled by `size`, and a random `validation_fraction` of all tiles, chosen by
    the seed, are the validation images. The training images are the crops on a grid of a quarter of the size,
    less those that touch a validation tile: no pixel of a photograph is in both splits. "all" is the training
    and then the validation images.
    """
    if request.split == "test":
        raise no_test_split(name)
    height, width = request.size or (32, 32)
    photographs = np.stack(import_scikit_learn(name).load_sample_images().images)  # [2, 427, 640, 3]
    if height > photographs.shape[1] or width > photographs.shape[2]:
        raise ValueError(
            f"load: {name!r} are crops of photographs of 427 x 640; got size {height} x {width}; pass a smaller size."
        )
    validation, train = split_crops(photographs.shape[:3], height, width, request.seed, request.validation_fraction)
    wanted = {"train": train, "validation": validation, "all": np.concatenate([train, validation])}[request.split]
    if len(wanted) == 0:
        raise ValueError(
            f"load: {name!r} has no {request.split} crops of {height} x {width} at validation_fraction="
            f"{request.validation_fraction}; pass a smaller size or another fraction."
        )
    photo, top, left = wanted[: request.limit].T
    crops = np.lib.stride_tricks.sliding_window_view(photographs, (height, width), axis=(1, 2))[photo, top, left]
    images = fit_images(torch.from_numpy(crops), None, request.channels)
    return TensorImages(name, images, torch.from_numpy(photo.copy()), CLASS_NAMES)


def split_crops(
    shape: tuple[int, ...], height: int, width: int, seed: int, validation_fraction: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Corners (photo, top, left) of the validation and of the training crops, each in random order."""
    tiles = _grid(shape, height, width, height, width)
    held_out = max(1, round(len(tiles) * validation_fraction)) if validation_fraction > 0 else 0
    validation = tiles[permutation(len(tiles), seed, PHOTOS)[:held_out]]

    taken = np.zeros((shape[0], shape[1] + 1, shape[2] + 1), dtype=np.int64)  # becomes a summed-area table
    for photo, top, left in validation:
        taken[photo, top + 1 : top + height + 1, left + 1 : left + width + 1] = 1
    area = taken.cumsum(1).cumsum(2)
    crops = _grid(shape, height, width, max(1, height // 4), max(1, width // 4))
    photo, top, left = crops.T
    bottom, right = top + height, left + width
    touched = area[photo, bottom, right] - area[photo, top, right] - area[photo, bottom, left] + area[photo, top, left]
    train = crops[touched == 0]
    return validation, train[permutation(len(train), seed, PHOTOS, 1)]


def _grid(shape: tuple[int, ...], height: int, width: int, step_y: int, step_x: int) -> npt.NDArray[Any]:
    """All (photo, top, left) at multiples of the steps whose crop lies inside."""
    photos, rows, columns = shape
    axes = (range(photos), range(0, rows - height + 1, step_y), range(0, columns - width + 1, step_x))
    return np.stack(np.meshgrid(*map(np.asarray, axes), indexing="ij"), -1).reshape(-1, 3)
