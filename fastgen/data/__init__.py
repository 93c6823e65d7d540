"""Image data sets by name or folder, batches that resume exactly, and image files."""

from __future__ import annotations

from fastgen.data.batches import batch_indices, loader, sweep
from fastgen.data.dataset import ImageDataset, TensorImages
from fastgen.data.datasets import load, names
from fastgen.data.images import image_grid, read_image, write_image

__all__ = [
    "ImageDataset",
    "TensorImages",
    "batch_indices",
    "image_grid",
    "load",
    "loader",
    "names",
    "read_image",
    "sweep",
    "write_image",
]
