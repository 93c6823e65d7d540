"""What every data set is to the rest of the package: levels with labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset


class LabelledDataset(Dataset[tuple[Tensor, int]]):
    """Labelled arrays of one shape: `dataset[i]` is (levels [*shape], label).

    The label is -1 where there is none.

    Attributes:
        name: the data set's name, or the folder's.
        shape: of one array, channels first.
        levels: 256 unless there are more; a level is a whole number in 0..levels-1.
        dtype: of the levels, uint8 or, where there are more than 256, int32.
        class_names: one name per class, in order of the labels; empty without labels.
        n_classes: their number.
        kind: what the arrays are, for messages.
    """

    levels = 256
    dtype = torch.uint8
    kind = "arrays"

    def __init__(self, name: str, shape: Sequence[int], class_names: Sequence[str] = ()) -> None:
        self.name = name
        self.shape = tuple(shape)
        self.class_names = tuple(class_names)
        self.n_classes = len(self.class_names)

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise NotImplementedError

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The arrays and labels at `indices` (int64 [B]): levels [B, *shape], int64 [B]."""
        arrays = torch.empty((len(indices), *self.shape), dtype=self.dtype)
        labels = torch.empty(len(indices), dtype=torch.int64)
        for row, index in enumerate(indices.tolist()):
            arrays[row], labels[row] = self[index]
        return arrays, labels

    def origin(self, index: int) -> str:
        """What array `index` is called in messages: its number, or the file that it comes from."""
        return str(index)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """All arrays and labels: levels [N, *shape], int64 [N]; a lazy set is read from end to end."""
        return self.batch(torch.arange(len(self)))

    def __repr__(self) -> str:
        """Name, size, shape and classes in one line."""
        shape = "x".join(map(str, self.shape))
        return f"{type(self).__name__}({self.name!r}, {len(self)} {self.kind} of {shape}, {self.n_classes} classes)"

    @property
    def in_memory(self) -> bool:
        """Whether a batch is a matter of indexing, so that no worker process could hand it over as quickly."""
        return False

    def _position(self, index: int) -> int:
        """`index` counted from the front; IndexError ends `for array, label in dataset`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name}: index must be in [{-len(self)}, {len(self)}); got {index}.")
        return index % len(self)


class TensorDataset(LabelledDataset):
    """A data set that is held in memory; `batch` is one index operation and `tensors` copies nothing."""

    def __init__(self, name: str, arrays: Tensor, labels: Tensor, class_names: Sequence[str] = ()) -> None:
        super().__init__(name, arrays.shape[1:], class_names)
        self._arrays, self._labels = arrays.contiguous(), labels

    def __len__(self) -> int:
        """The number of arrays."""
        return self._arrays.shape[0]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Array and label `index`."""
        index = self._position(index)
        return self._arrays[index], int(self._labels[index])

    @property
    def in_memory(self) -> bool:
        """True."""
        return True

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The arrays and labels at `indices`."""
        return self._arrays[indices], self._labels[indices]

    def tensors(self) -> tuple[Tensor, Tensor]:
        """All arrays and labels, without a copy: do not write into them."""
        return self._arrays, self._labels


class ImageDataset(LabelledDataset):
    """Labelled images of one shape: `dataset[i]` is (uint8 levels [C, H, W], label).

    Attributes:
        image_shape: (C, H, W).
    """

    kind = "images"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.shape
        return channels, height, width


class TensorImages(TensorDataset, ImageDataset):
    """Images that are held in memory."""


class QuantisedImages(ImageDataset):
    """8-bit images with fewer levels: level k becomes floor(k levels / 256), with two levels a threshold at 128."""

    def __init__(self, images: ImageDataset, levels: int) -> None:
        super().__init__(images.name, images.shape, images.class_names)
        self._images, self.levels = images, levels

    def __len__(self) -> int:
        """The number of images."""
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image and label `index`."""
        image, label = self._images[index]
        return self._quantised(image), label

    @property
    def in_memory(self) -> bool:
        """Whether the images are, before they are quantised."""
        return self._images.in_memory

    def origin(self, index: int) -> str:
        """The origin of the image before it was quantised."""
        return self._images.origin(index)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images and labels at `indices`."""
        images, labels = self._images.batch(indices)
        return self._quantised(images), labels

    def _quantised(self, images: Tensor) -> Tensor:
        return (images.to(torch.int32) * self.levels // 256).to(torch.uint8)


class TensorSignals(TensorDataset):
    """Signals of one length that are held in memory: `dataset[i]` is (levels [C, T], label).

    Attributes:
        sample_rate: samples a second, or None where the signal is no sound.
        encoding: what the levels are, "mu-law" or "linear".
        scale: (offset, gain) of each channel where a value is offset + gain times the signal in [-1, 1]; None for
            sound.
    """

    kind = "signals"

    def __init__(
        self,
        name: str,
        arrays: Tensor,
        labels: Tensor,
        class_names: Sequence[str] = (),
        *,
        levels: int = 256,
        sample_rate: int | None = None,
        encoding: str = "mu-law",
        scale: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__(name, arrays, labels, class_names)
        self.dtype, self.levels, self.sample_rate, self.encoding, self.scale = (
            arrays.dtype,
            levels,
            sample_rate,
            encoding,
            scale,
        )
