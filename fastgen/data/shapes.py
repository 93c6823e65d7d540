"""Drawn shapes: labelled images of any size that need no file at all."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastgen.data._random import SHAPES, uniforms
from fastgen.data.dataset import ImageDataset, TensorImages
from fastgen.data.images import fit_images
from fastgen.data.splits import Request

CLASS_NAMES = ("circle", "ring", "square", "triangle", "cross", "crescent")
N_IMAGES = 10_000

_Floats = npt.NDArray[np.float64]
_DRAWS = 13  # uniforms per image
_IN_MEMORY_BYTES = 2**28
_CHUNK_PIXELS = 2**20  # pixels drawn at a time, which bounds the float64 temporaries


class DrawnShapes(ImageDataset):
    """Shapes that are drawn each time they are asked for."""

    def __init__(
        self, name: str, indices: npt.NDArray[np.int64], size: tuple[int, int], seed: int, channels: int
    ) -> None:
        super().__init__(name, (channels, *size), CLASS_NAMES)
        self._indices, self._seed = indices, seed

    def __len__(self) -> int:
        """The number of images."""
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Draw image `index`."""
        images, labels = self.batch(torch.tensor([self._position(index)]))
        return images[0], int(labels[0])

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the images at `indices`."""
        chosen = self._indices[indices.numpy()]
        channels, *size = self.image_shape
        images = torch.from_numpy(draw_shapes(chosen, (size[0], size[1]), self._seed))
        return fit_images(images, None, channels), torch.from_numpy(chosen % len(CLASS_NAMES))


def load_shapes(name: str, request: Request) -> ImageDataset:
    """10,000 images of one shape each; the label is its kind.

    They are RGB of 32 x 32 unless `size` or `channels` say otherwise. A split of up to 256 MiB is drawn at
    once and held in memory, a larger one is drawn batch by batch.
    """
    size = request.size or (32, 32)
    shapes = DrawnShapes(name, request.choose(name, N_IMAGES), size, request.seed, request.channels or 3)
    if len(shapes) * math.prod(shapes.image_shape) > _IN_MEMORY_BYTES:
        return shapes
    return TensorImages(name, *shapes.tensors(), CLASS_NAMES)


def draw_shapes(indices: npt.NDArray[np.int64], size: tuple[int, int], seed: int) -> npt.NDArray[np.uint8]:
    """Images number `indices` of `seed`: uint8 [N, 3, H, W], a pure function of (index, size, seed).

    Image i shows class i mod 6 at a random place, size and angle, in one colour on a vertical gradient of two
    others. The shape is bright on dark or dark on bright, so that it shows in gray too; its edge is
    antialiased by the signed distance.
    """
    height, width = size
    u = uniforms(_DRAWS * (int(indices.max(initial=-1)) + 1), seed, SHAPES).reshape(-1, _DRAWS)[indices]
    images = np.empty((len(indices), 3, height, width), dtype=np.uint8)
    step = max(1, _CHUNK_PIXELS // (height * width))
    for kind in range(len(CLASS_NAMES)):
        members = np.flatnonzero(indices % len(CLASS_NAMES) == kind)
        for start in range(0, len(members), step):
            chosen = members[start : start + step]
            images[chosen] = _draw(kind, u[chosen], height, width)
    return images


def _draw(kind: int, u: _Floats, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Images [N, 3, H, W] of one class from uniforms [N, 13]."""
    v = u[:, :, None, None]  # [N, 13, 1, 1]
    side = min(height, width)
    radius = side * (0.2 + 0.2 * v[:, 0])
    room_y, room_x = height - 2 * radius, width - 2 * radius  # the shape lies within the image
    y = np.arange(height)[:, None] + 0.5 - radius - room_y * v[:, 1]
    x = np.arange(width)[None, :] + 0.5 - radius - room_x * v[:, 2]
    sine, cosine = np.sin(2 * np.pi * v[:, 3]), np.cos(2 * np.pi * v[:, 3])
    distance = _signed_distance(kind, cosine * x + sine * y, cosine * y - sine * x, radius)
    coverage = np.clip(0.5 - distance, 0, 1)[:, None]  # [N, 1, H, W]

    bright = v[:, 12:13] < 0.5
    low, high = 96 * v[:, 4:10].reshape(-1, 2, 3, 1, 1), 128 + 127 * v[:, 9:12]
    ramp = np.linspace(0, 1, height)[:, None] if height > 1 else np.zeros((1, 1))
    background = low[:, 0] * (1 - ramp) + low[:, 1] * ramp
    image = background + (high - background) * coverage  # [N, 3, H, W]
    return np.rint(np.where(bright, image, 255 - image)).astype(np.uint8)


def _signed_distance(kind: int, x: _Floats, y: _Floats, r: _Floats) -> _Floats:
    """Distance to the outline in pixels, negative inside; all shapes lie within the circle of radius r."""
    if kind == 0:
        return np.hypot(x, y) - r
    if kind == 1:
        return np.abs(np.hypot(x, y) - 0.8 * r) - 0.2 * r
    if kind == 2:
        return np.maximum(np.abs(x), np.abs(y)) - np.sqrt(0.5) * r
    if kind == 3:
        slope = np.sqrt(0.75) * np.abs(x)
        return np.maximum(-y, slope + 0.5 * y) - 0.5 * r
    if kind == 4:
        long, short = 0.94 * r, 0.33 * r
        upright = np.maximum(np.abs(x) - short, np.abs(y) - long)
        return np.minimum(upright, np.maximum(np.abs(x) - long, np.abs(y) - short))
    return np.maximum(np.hypot(x, y) - r, 0.8 * r - np.hypot(x - 0.45 * r, y))
