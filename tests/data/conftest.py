from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def _draw(seed: int, height: int, width: int, channels: int) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def pixels() -> Callable[..., np.ndarray]:
    """A function of (seed, height, width, channels) to random uint8 [H, W] or [H, W, C]."""
    return _draw


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """A function of {relative path: seed} to the folder with these PNGs of random pixels in it."""

    def make(files: dict[str, int], height: int = 6, width: int = 6, channels: int = 3) -> Path:
        for name, seed in files.items():
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(_draw(seed, height, width, channels)).save(path)
        return tmp_path / "images"

    return make
