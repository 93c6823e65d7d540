"""What every data set is to the rest of the package: uint8 levels with labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Labelled images of one shape: `dataset[i]` is (uint8 levels [C, H, W], label).

    The label is -1 where there is none.

    Attributes:
        name: the data set's name, or the folder's.
        image_shape: (C, H, W).
        levels: 256; a level is a whole number in 0..levels-1.
        class_names: one name per class, in order of the labels; empty without labels.
        n_classes: their number.
    """

    levels = 256

    def __init__(self, name: str, image_shape: tuple[int, int, int], class_names: Sequence[str] = ()) -> None:
        self.name = name
        self.image_shape = image_shape
        self.class_names = tuple(class_names)
        self.n_classes = len(self.class_names)

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise NotImplementedError

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images and labels at `indices` (int64 [B]): uint8 [B, C, H, W], int64 [B]."""
        images = torch.empty((len(indices), *self.image_shape), dtype=torch.uint8)
        labels = torch.empty(len(indices), dtype=torch.int64)
        for row, index in enumerate(indices.tolist()):
            images[row], labels[row] = self[index]
        return images, labels

    def tensors(self) -> tuple[Tensor, Tensor]:
        """All images and labels: uint8 [N, C, H, W], int64 [N]; a lazy set is read from end to end."""
        return self.batch(torch.arange(len(self)))

    def __repr__(self) -> str:
        """Name, size, shape and classes in one line."""
        shape = "x".join(map(str, self.image_shape))
        return f"{type(self).__name__}({self.name!r}, {len(self)} images of {shape}, {self.n_classes} classes)"

    def _position(self, index: int) -> int:
        """`index` counted from the front; IndexError ends `for image, label in dataset`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name}: index must be in [{-len(self)}, {len(self)}); got {index}.")
        return index % len(self)


class TensorImages(ImageDataset):
    """A data set that is held in memory; `batch` is one index operation and `tensors` copies nothing."""

    def __init__(self, name: str, images: Tensor, labels: Tensor, class_names: Sequence[str] = ()) -> None:
        _, channels, height, width = images.shape
        super().__init__(name, (channels, height, width), class_names)
        self._images, self._labels = images.contiguous(), labels

    def __len__(self) -> int:
        """The number of images."""
        return self._images.shape[0]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image and label `index`."""
        index = self._position(index)
        return self._images[index], int(self._labels[index])

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images and labels at `indices`."""
        return self._images[indices], self._labels[indices]

    def tensors(self) -> tuple[Tensor, Tensor]:
        """All images and labels, without a copy: do not write into them."""
        return self._images, self._labels
