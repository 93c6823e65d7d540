"""Data sets of images and signals by name or folder, batches that resume exactly, image and sound files."""

from __future__ import annotations

from fastgen.data.audio import load_audio
from fastgen.data.batches import batch_indices, loader, sweep
from fastgen.data.dataset import ImageDataset, LabelledDataset, TensorImages, TensorSignals
from fastgen.data.datasets import load, names
from fastgen.data.encoding import mu_law_decode, mu_law_encode
from fastgen.data.images import image_grid, read_image, write_image
from fastgen.data.pairs import load_pairs
from fastgen.data.two_domains import ImagePairs, TwoDomainImages
from fastgen.data.wav import read_wav, write_wav

__all__ = [
    "ImageDataset",
    "ImagePairs",
    "LabelledDataset",
    "TensorImages",
    "TensorSignals",
    "TwoDomainImages",
    "batch_indices",
    "image_grid",
    "load",
    "load_audio",
    "load_pairs",
    "loader",
    "mu_law_decode",
    "mu_law_encode",
    "names",
    "read_image",
    "read_wav",
    "sweep",
    "write_image",
    "write_wav",
]
