"""Images of two domains as one data set: an item is an image of each, stacked by channels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fastgen.data._random import PAIRS, permutation
from fastgen.data.dataset import ImageDataset
from fastgen.data.images import fit_images, read_image

ROUNDS = 8
"""Times that unpaired training images meet, each time others, before the data set is over."""


class TwoDomainImages(ImageDataset):
    """Images of two domains: `dataset[i]` is (uint8 levels [CA + CB, H, W], -1), channels of the first domain first.

    Attributes:
        domains: names of the two.
        domain_channels: (CA, CB).
        paired: whether the two images of an item show the same, or merely meet.
        domain_sizes: the number of images of each.
    """

    kind = "pairs of images"
    paired: bool
    domain_sizes: tuple[int, int]

    def __init__(
        self, name: str, domains: Sequence[str], domain_channels: Sequence[int], image_size: tuple[int, int]
    ) -> None:
        super().__init__(name, (sum(domain_channels), *image_size))
        first, second = domains
        self.domains = (first, second)
        a, b = domain_channels
        self.domain_channels = (a, b)


class ImagePairs(TwoDomainImages):
    """Two data sets, paired or not.

    Paired, item k is image k of each. Otherwise a round has as many items as the larger set has images: item k of round
    r is image k mod |A| of the first set, and image p(k) mod |B| of the second, p a permutation of the round. So the
    smaller set is gone through again and again, and an image meets another one in each round; labels are dropped.
    """

    def __init__(
        self,
        name: str,
        domains: Sequence[str],
        a: ImageDataset,
        b: ImageDataset,
        *,
        paired: bool,
        rounds: int = 1,
        seed: int = 0,
    ) -> None:
        """Put two sets side by side.

        Raises:
            ValueError: an empty set, images of different sizes, or paired sets of different lengths.
        """
        for domain, images in zip(domains, (a, b), strict=True):
            if not len(images):
                raise ValueError(f"{name}: both domains must have images; {domain} has none; add some.")
        if a.image_shape[1:] != b.image_shape[1:]:
            (_, *size_a), (_, *size_b) = a.image_shape, b.image_shape
            raise ValueError(
                f"{name}: images of both domains must have one size; got {size_a[0]} x {size_a[1]} of {domains[0]} and "
                f"{size_b[0]} x {size_b[1]} of {domains[1]}; pass size=."
            )
        if paired and len(a) != len(b):
            raise ValueError(
                f"{name}: paired domains must have as many images each; got {len(a)} of {domains[0]} and {len(b)} of "
                f"{domains[1]}; pass paired=False."
            )
        _, height, width = a.image_shape
        super().__init__(name, domains, (a.image_shape[0], b.image_shape[0]), (height, width))
        self.paired, self.domain_sizes = paired, (len(a), len(b))
        self._a, self._b = a, b
        k = torch.arange(max(len(a), len(b)))
        self._places = torch.stack([k, k], 1) if paired else _meetings(len(a), len(b), rounds, seed)

    def __len__(self) -> int:
        """The number of items, of all rounds."""
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Both images of item `index`; there are no labels."""
        a, b = self._places[self._position(index)].tolist()
        return torch.cat([self._a[a][0], self._b[b][0]]), -1

    @property
    def in_memory(self) -> bool:
        """Whether both sets are."""
        return self._a.in_memory and self._b.in_memory

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The pairs at `indices`."""
        a, b = self._places[indices].unbind(1)
        return torch.cat([self._a.batch(a)[0], self._b.batch(b)[0]], 1), torch.full((len(indices),), -1)

    def origin(self, index: int) -> str:
        """Where both images come from."""
        a, b = self._places[index].tolist()
        return f"{self._a.origin(a)} with {self._b.origin(b)}"


class SideBySideImages(TwoDomainImages):
    """Files that hold a pair each, the first domain in the left half; read each time."""

    paired = True

    def __init__(
        self, name: str, paths: Sequence[Path], size: tuple[int, int] | None, domain_channels: tuple[int, int]
    ) -> None:
        self._paths, self._size, self._channels = paths, size, domain_channels
        a, _ = self._read(paths[0])
        super().__init__(name, ("left", "right"), domain_channels, (a.shape[1], a.shape[2]))
        self.domain_sizes = (len(paths), len(paths))

    def __len__(self) -> int:
        """The number of files."""
        return len(self._paths)

    def origin(self, index: int) -> str:
        """The file of item `index`."""
        return str(self._paths[index])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Read item `index`; ValueError if its file is corrupt, no pair, or of another shape than the first."""
        path = self._paths[self._position(index)]
        pair = torch.cat(self._read(path))
        if pair.shape != self.image_shape:
            raise ValueError(
                f"{self.name}: all images must have one size; got halves of {pair.shape[1]} x {pair.shape[2]} in "
                f"{str(path)!r} after {self.image_shape[1]} x {self.image_shape[2]}; pass size=."
            )
        return pair, -1

    def _read(self, path: Path) -> tuple[Tensor, Tensor]:
        whole = read_image(path, channels=max(self._channels))
        height, width = whole.shape[1:]
        if width % 2 or width <= height:
            raise ValueError(
                f"load_pairs: {str(path)!r} must hold two images side by side, of even width and wider than high; got "
                f"{height} x {width}; put the images of each domain into a folder of their own."
            )
        halves = whole.split(width // 2, 2)
        a, b = (fit_images(half[None], self._size, c)[0] for half, c in zip(halves, self._channels, strict=True))
        return a, b


class DomainImages(ImageDataset):
    """The images of one domain, number 0 or 1, of pairs."""

    def __init__(self, pairs: TwoDomainImages, domain: int) -> None:
        start, channels = domain * pairs.domain_channels[0], pairs.domain_channels[domain]
        super().__init__(pairs.name, (channels, *pairs.shape[1:]))
        self._pairs, self._channels = pairs, slice(start, start + channels)

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image `index`; there are no labels."""
        return self._pairs[index][0][self._channels], -1

    @property
    def in_memory(self) -> bool:
        """Whether the pairs are."""
        return self._pairs.in_memory

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images at `indices`."""
        pairs, labels = self._pairs.batch(indices)
        return pairs[:, self._channels], labels

    def origin(self, index: int) -> str:
        """The origin of the pair."""
        return self._pairs.origin(index)


def unpair(pairs: TwoDomainImages, rounds: int, seed: int) -> TwoDomainImages:
    """The same images, of which any two meet."""
    if not pairs.paired:
        return pairs
    a, b = DomainImages(pairs, 0), DomainImages(pairs, 1)
    return ImagePairs(pairs.name, pairs.domains, a, b, paired=False, rounds=rounds, seed=seed)


def _meetings(n_a: int, n_b: int, rounds: int, seed: int) -> Tensor:
    """Numbers of the images that meet, round after round. Shapes: -> int64 [rounds max(n_a, n_b), 2]."""
    n = max(n_a, n_b)
    k = torch.arange(n) % n_a
    met = (torch.from_numpy(permutation(n, seed, PAIRS, r)) % n_b for r in range(rounds))
    return torch.cat([torch.stack([k, other], 1) for other in met])
