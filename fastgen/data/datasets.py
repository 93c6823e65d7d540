"""Data sets of images by name, or any folder of images."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from fastgen._names import unknown_name
from fastgen.data import builtin, imagenet, pairs, photos, ring, shapes, vision
from fastgen.data.dataset import ImageDataset, QuantisedImages
from fastgen.data.folder import load_folder
from fastgen.data.images import Size, check_channels, check_size
from fastgen.data.splits import Request, check_request

SOURCES: dict[str, Callable[[str, Request], ImageDataset]] = {
    "mnist5k": builtin.load_mnist5k,
    "digits": builtin.load_digits,
    "photos": photos.load_photos,
    "shapes": shapes.load_shapes,
    "ring": ring.load_ring,
    **dict.fromkeys(pairs.PAIRS, pairs.source),
    "mnist": vision.load_mnist,
    "fashion-mnist": vision.load_fashion_mnist,
    "cifar10": vision.load_cifar10,
    "cifar100": vision.load_cifar100,
    "celeba": vision.load_celeba,
    "imagenet32": imagenet.load_imagenet32,
    "imagenet64": imagenet.load_imagenet64,
}


def names() -> list[str]:
    """The names that `load` knows; any folder of images is a data set too."""
    return list(SOURCES)


def load(
    name_or_folder: str | os.PathLike[str],
    *,
    split: str = "train",
    size: Size | None = None,
    seed: int = 0,
    validation_fraction: float = 0.1,
    root: str | os.PathLike[str] | None = None,
    channels: int | None = None,
    limit: int | None = None,
    levels: int = 256,
    skip_corrupt: bool = False,
) -> ImageDataset:
    """A data set of uint8 images by its name, or the images in a folder and its subfolders.

    `mnist5k` comes with the package; `shapes` is drawn, and so are the points of `ring`, which are no pictures;
    `digits` and `photos` need the extra [data]; `mnist`, `fashion-mnist`, `cifar10`, `cifar100` and `celeba` need the
    extra [vision] and are downloaded to `root`; `imagenet32` and `imagenet64` must be in `root`. Sets of two domains,
    such as `photos-gray`, stack an image of each by channels (`load_pairs` has more). A name wins over a folder of that
    name in the working directory: write `./mnist5k`.

    Args:
        name_or_folder: one of `names()`, or a folder.
        split: "train", "validation", "all" (training and then validation images) or, where the set has one,
            "test".
        size: S for S x S or (H, W): scaled to cover it and cropped at the centre (`photos` are crops of it at
            full resolution, `shapes` are drawn at it). None: the set's own, 32 for `photos` and `shapes`.
        seed: chooses the validation images and the order within every split (and what `shapes` draws),
            nothing else.
        validation_fraction: of the images that are not "test", the part that is for validation, in [0, 1).
        root: the folder for sets that are on disk, `~/.cache/fastgen` if None.
        channels: 1 (gray) or 3 (RGB). None: the set's own.
        limit: at most so many images, the first of the split: a random sample of it.
        levels: of a channel, 2 to 256; fewer than 256 quantise the images, 2 by a threshold at 128.
        skip_corrupt: leave out the files of a folder that cannot be decoded, with a warning that counts and names them:
            every file is read once for it. Else one that cannot be decoded is an error, when its turn comes.

    Dtypes: uint8 levels 0..levels-1 and int64 labels, -1 where there are none.

    Raises:
        ValueError: the name is unknown, an argument out of range, the folder empty, too few images for the
            split, a file that cannot be decoded, or a set without the split.
        TypeError: `seed` or `limit` is no whole number.
        FileNotFoundError: the folder does not exist.
        ImportError: the set needs an extra that is not installed; the message names it.
        RuntimeError: the set could not be downloaded.
    """
    if isinstance(levels, bool) or not isinstance(levels, int) or not 2 <= levels <= 256:
        raise ValueError(f"load: levels must be an int in 2..256; got {levels!r}; pass 2 for binary images.")
    request = check_request(
        "load",
        split=split,
        size=check_size("load", size),
        seed=seed,
        validation_fraction=validation_fraction,
        root=root,
        channels=channels if name_or_folder == "ring" else check_channels("load", channels),
        limit=limit,
    )
    name = os.fspath(name_or_folder)
    if isinstance(name_or_folder, str) and name in SOURCES:
        return _quantised(SOURCES[name](name, request), levels)
    folder = Path(name).expanduser()
    looks_like_path = not isinstance(name_or_folder, str) or name != folder.name
    if not folder.exists() and not looks_like_path:
        raise unknown_name("data set (nor is there a folder of that name)", name, SOURCES)
    request = dataclasses.replace(request, skip_corrupt=skip_corrupt)
    return _quantised(load_folder(folder.resolve().name, folder, request), levels)


def _quantised(images: ImageDataset, levels: int) -> ImageDataset:
    return images if levels == 256 else QuantisedImages(images, levels)
