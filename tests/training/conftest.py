"""A run that takes a second: 8x8 images of two classes, a PixelCNN++ of a few channels, dropout on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastgen.data import TensorImages, write_image
from fastgen.training.recipes import Recipe


@pytest.fixture(scope="session")
def stop_after() -> Callable[[int], Callable[[], bool]]:
    """Makes a `should_stop` that lets so many steps happen."""

    def after(steps: int) -> Callable[[], bool]:
        asked = iter(range(steps + 1))
        return lambda: next(asked) == steps

    return after


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(
        name="tiny",
        data="none",
        model="PixelCNNPP",
        config={"n_resnet": 1, "n_filters": [4, 4], "n_mix": 2, "dropout": 0.5},
        conditional=True,
        batch_size=8,
        steps=12,
        lr=5e-3,
        warmup_steps=2,
        schedule="cosine",
        ema_decay=0.9,
        checkpoint_interval=5,
        log_interval=2,
    )


def _images(n: int, first: int) -> TensorImages:
    """Class 0 has bright rows, class 1 bright columns; a little noise on both."""
    generator = torch.Generator().manual_seed(first)
    labels = torch.arange(n) % 2
    stripes = (torch.arange(8) % 2 * 200).to(torch.uint8)
    rows, columns = stripes[:, None].expand(8, 8), stripes[None, :].expand(8, 8)
    images = torch.where(labels[:, None, None] == 0, rows, columns)
    noise = torch.randint(0, 9, (n, 8, 8), generator=generator, dtype=torch.uint8)
    return TensorImages("stripes", (images + noise)[:, None], labels, ("rows", "columns"))


@pytest.fixture
def data() -> tuple[TensorImages, TensorImages]:
    return _images(30, 0), _images(10, 1)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """The same images as PNG files, a folder a class."""
    images = _images(30, 0)
    for i, (image, label) in enumerate(images):
        folder = tmp_path / "images" / images.class_names[label]
        folder.mkdir(parents=True, exist_ok=True)
        write_image(folder / f"{i:03}.png", image)
    return tmp_path / "images"
