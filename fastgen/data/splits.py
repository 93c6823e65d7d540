"""Which images of a set belong to which split."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fastgen.data._random import SPLIT, check_seed, permutation

SPLITS = ("train", "validation", "all", "test")


@dataclass(frozen=True)
class Request:
    """What `load` was asked for, checked.

    A set of n images is put into the order permutation(n, seed). The first round(n * validation_fraction), at
    least one, are the validation images and the rest the training images; "all" is the training images and
    then the validation images. So the split depends on n, seed and validation_fraction alone, and every split
    comes in random order, which makes its first `limit` images an unbiased sample even where the source is
    sorted by class.
    """

    split: str
    size: tuple[int, int] | None
    seed: int
    validation_fraction: float
    root: Path
    channels: int | None
    limit: int | None
    skip_corrupt: bool = False

    def shuffled(self, n: int) -> npt.NDArray[np.int64]:
        """All of n images: a pool that is a split of its own, such as an official test set."""
        return permutation(n, self.seed, SPLIT)[: self.limit]

    def choose(self, name: str, n: int) -> npt.NDArray[np.int64]:
        """The images of the wanted split among the n of a pool that has to be split, in order."""
        fraction = self.validation_fraction
        if self.split == "test":
            raise no_test_split(name)
        if self.split == "validation" and fraction == 0:
            raise ValueError(f"load: split 'validation' needs validation_fraction > 0; got {fraction}; pass 0.1, say.")
        if self.split != "all" and fraction > 0 and n < 2:
            raise ValueError(
                f"load: {name!r} must have at least 2 images to be split into training and validation; "
                f"got {n}; add images, or pass split='all' or validation_fraction=0."
            )
        held_out = min(n - 1, max(1, math.floor(n * fraction + 0.5))) if fraction > 0 else 0
        order = permutation(n, self.seed, SPLIT)
        validation, train = order[:held_out], order[held_out:]
        chosen = {"train": [train], "validation": [validation], "all": [train, validation]}[self.split]
        return np.concatenate(chosen)[: self.limit]


def check_request(
    name: str,
    *,
    split: str,
    seed: int,
    validation_fraction: float,
    limit: int | None,
    size: tuple[int, int] | None = None,
    root: str | os.PathLike[str] | None = None,
    channels: int | None = None,
) -> Request:
    """The request of the function `name`, or the error that says which argument is out of range."""
    if split not in SPLITS:
        raise ValueError(f"{name}: split must be one of {', '.join(SPLITS)}; got {split!r}; pass one of these.")
    if not 0 <= validation_fraction < 1:
        raise ValueError(
            f"{name}: validation_fraction must be in [0, 1); got {validation_fraction}; pass for example 0.1."
        )
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
        raise TypeError(f"{name}: limit must be an int or None; got {limit!r}; pass a whole number.")
    if limit is not None and limit < 1:
        raise ValueError(f"{name}: limit must be at least 1; got {limit}; pass None for everything.")
    return Request(
        split=split,
        size=size,
        seed=check_seed(name, seed),
        validation_fraction=validation_fraction,
        root=Path.home() / ".cache" / "fastgen" if root is None else Path(root).expanduser(),
        channels=channels,
        limit=limit,
    )


def no_test_split(name: str) -> ValueError:
    """The error for a set that has no test images of its own."""
    return ValueError(f"load: {name!r} has no test images of its own; got split='test'; use 'validation'.")
