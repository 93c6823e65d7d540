"""What a model reaches on the images of each class alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastgen.data import LabelledDataset, sweep
from fastgen.evaluation.bits import HeldOut


class OneClass(LabelledDataset):
    """Chosen images of a set, in their order."""

    def __init__(self, data: LabelledDataset, indices: Tensor) -> None:
        super().__init__(data.name, data.shape, data.class_names)
        self._data, self._indices = data, indices
        self.levels, self.dtype, self.kind = data.levels, data.dtype, data.kind

    def __len__(self) -> int:
        """The number of chosen images."""
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image and label `index` of the chosen ones."""
        return self._data[int(self._indices[self._position(index)])]

    @property
    def in_memory(self) -> bool:
        """Whether the images of the set are."""
        return self._data.in_memory

    def origin(self, index: int) -> str:
        """What the image is called in the set."""
        return self._data.origin(int(self._indices[index]))

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images and labels at `indices` of the chosen ones."""
        return self._data.batch(self._indices[indices])


def evaluate_classes(
    data: LabelledDataset, measure: Callable[[LabelledDataset], HeldOut], *, batch_size: int = 256
) -> dict[int, HeldOut]:
    """`measure`, for example `evaluate` of a model, of the images of each class that has any, by label.

    Every image counts in its own class alone, so that of an exact likelihood the mean of the classes, weighted by
    their numbers of images, is the figure of the whole set. What is estimated by draws has other draws here.

    Raises:
        ValueError: data without classes.
    """
    if data.n_classes < 1:
        raise ValueError(f"evaluate_classes: {data.name} must have labels; it has none; leave the classes out")
    labels = torch.cat([y for _, y in sweep(data, batch_size)])
    indices = {label: (labels == label).nonzero()[:, 0] for label in range(data.n_classes)}
    return {label: measure(OneClass(data, chosen)) for label, chosen in indices.items() if len(chosen)}
