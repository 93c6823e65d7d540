"""Data sets that torchvision downloads and reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgen.data.builtin import select
from fastgen.data.dataset import ImageDataset, TensorImages
from fastgen.data.images import image_to_tensor, undecodable
from fastgen.data.splits import Request


class CelebAImages(ImageDataset):
    """The aligned faces, read from their files each time."""

    def __init__(
        self, name: str, parts: Sequence[tuple[Any, Any]], size: tuple[int, int] | None, channels: int | None
    ) -> None:
        self._items = [(source, int(index)) for source, order in parts for index in order]
        self._size, self._channels = size, channels or 3
        first = self._read(*self._items[0])
        super().__init__(name, (first.shape[0], first.shape[1], first.shape[2]))

    def __len__(self) -> int:
        """The number of images."""
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Read image `index`; there are no labels."""
        return self._read(*self._items[self._position(index)]), -1

    def _read(self, source: Any, index: int) -> Tensor:
        image, _ = source[index]
        with image:
            try:
                return image_to_tensor(image, self._size, self._channels)
            except Exception as error:  # of whatever type the decoder raises
                raise undecodable(getattr(image, "filename", f"image {index}"), error) from error


def load_celeba(name: str, request: Request) -> CelebAImages:
    """CelebA's 202,599 aligned faces, unlabelled, 218 x 178 RGB unless `size` says otherwise.

    `seed` only orders them and `validation_fraction` has no effect: "validation" is the official one.

    Source: Liu, Luo, Wang, Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015.
    """
    splits = {"train": ["train"], "validation": ["valid"], "all": ["train", "valid"], "test": ["test"]}[request.split]
    parts, missing = [], request.limit
    for split in splits:
        source = _open(name, "CelebA", request.root, split=split)
        order = request.shuffled(len(source))[:missing]
        parts.append((source, order))
        missing = None if missing is None else missing - len(order)
    return CelebAImages(name, parts, request.size, request.channels)


def _loader(torchvision_name: str) -> Callable[[str, Request], TensorImages]:
    """A source for one of torchvision's sets that hold everything in `.data`, `.targets` and `.classes`."""

    def load(name: str, request: Request) -> TensorImages:
        is_test = request.split == "test"
        source = _open(name, torchvision_name, request.root, train=not is_test)
        images = np.asarray(source.data)  # [N, H, W] or [N, H, W, 3]
        images = images[:, None] if images.ndim == 3 else np.moveaxis(images, 3, 1)
        labels = np.asarray(source.targets)
        return select(name, images, labels, request, tuple(source.classes), has_own_split=is_test)

    return load


load_mnist = _loader("MNIST")
load_fashion_mnist = _loader("FashionMNIST")
load_cifar10 = _loader("CIFAR10")
load_cifar100 = _loader("CIFAR100")


def _open(name: str, torchvision_name: str, root: Path, **options: Any) -> Any:
    """The set of torchvision below `root`, downloaded if it is not there."""
    try:
        from torchvision import datasets
    except ImportError as error:
        raise ImportError(
            f"load: {name!r} needs torchvision, which is not installed; run: pip install 'fastgen-torch[vision]'"
        ) from error
    except RuntimeError as error:  # what a torchvision that was built for another torch raises
        raise ImportError(
            f"load: {name!r} needs a torchvision that fits the installed torch {torch.__version__}; got: "
            f"{error}; install the pair together: pip install 'fastgen-torch[vision]'"
        ) from error
    dataset = getattr(datasets, torchvision_name)
    try:
        return dataset(root, download=False, **options)
    except RuntimeError:  # not there yet
        pass
    try:
        return dataset(root, download=True, **options)
    except Exception as error:  # no network, a full disk, a quota of the host, a missing downloader
        raise RuntimeError(
            f"load: torchvision could not download {name!r} to {str(root)!r}; got {type(error).__name__}: "
            f"{error}; put its files there by hand (as torchvision documents) or pass root="
        ) from error
