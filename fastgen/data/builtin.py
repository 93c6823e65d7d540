"""Two sets of handwritten digits that need no download."""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
import torch

from fastgen.data.dataset import TensorImages
from fastgen.data.images import fit_images
from fastgen.data.splits import Request

DIGITS = tuple("0123456789")


def load_mnist5k(name: str, request: Request) -> TensorImages:
    """5,000 digits of MNIST, 500 of each class, 28 x 28 gray, from the package's own assets/mnist5k.npz."""
    with (
        resources.files("fastgen.data").joinpath("assets/mnist5k.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        images, labels = arrays["images"], arrays["labels"]
    return select(name, images[:, None], labels, request, DIGITS)


def load_digits(name: str, request: Request) -> TensorImages:
    """scikit-learn's 1,797 digits of 8 x 8 gray; its 0..16 become the 17 levels round(v * 255 / 16)."""
    digits = import_scikit_learn(name).load_digits()
    levels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return select(name, levels[:, None], digits.target, request, DIGITS)


def select(
    name: str,
    images: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    request: Request,
    class_names: tuple[str, ...],
    *,
    has_own_split: bool = False,
) -> TensorImages:
    """The wanted split of uint8 images [N, C, H, W] and their labels [N], at the wanted size and channels."""
    chosen = request.shuffled(len(images)) if has_own_split else request.choose(name, len(images))
    picked = fit_images(torch.from_numpy(images[chosen]), request.size, request.channels)
    return TensorImages(name, picked, torch.from_numpy(labels[chosen].astype(np.int64)), class_names)


def import_scikit_learn(name: str) -> Any:
    """`sklearn.datasets`, or an error that names the extra."""
    try:
        import sklearn.datasets
    except ImportError as error:
        raise ImportError(
            f"load: {name!r} needs scikit-learn, which is not installed; run: pip install 'fastgen-torch[data]'"
        ) from error
    return sklearn.datasets
