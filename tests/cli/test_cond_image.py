"""`fastgen sample --cond-image` gives a model the image that it colours or enlarges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastgen.data import write_image
from fastgen.likelihoods import DiscretizedLogisticMixture
from fastgen.models import Colorization, GatedPixelCNN, SuperResolution
from fastgen.models.serialization import save

Fastgen = Callable[..., Any]
SMALL = {"n_layers": 2, "n_filters": 4, "kernel_size": 3, "head_filters": 4, "cond_filters": 3}


@pytest.fixture
def picture(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """A colour image of 6 x 8 on disk."""
    image = torch.randint(0, 256, (3, 6, 8), dtype=torch.uint8)
    write_image(tmp_path / "picture.png", image)
    return tmp_path / "picture.png", image


def test_an_image_is_enlarged(fastgen: Fastgen, picture: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    path, image = picture
    model = SuperResolution(3, **SMALL, likelihood=DiscretizedLogisticMixture(3, n_mix=2)).double()
    save(model, tmp_path / "m.safetensors")
    done = fastgen(
        "sample", tmp_path / "m.safetensors", "-n", 2, "--cond-image", path, "--out", tmp_path / "a.npy", "--quiet"
    )
    assert done.code == 0, done
    drawn = torch.from_numpy(np.load(tmp_path / "a.npy"))
    assert drawn.shape == (2, 3, 12, 16)
    assert torch.equal(drawn, model.sample(2, cond={"map": image.expand(2, -1, -1, -1)}))


def test_a_gray_image_is_coloured_by_class(
    fastgen: Fastgen, picture: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    path, _ = picture
    model = Colorization(
        3, **SMALL, n_classes=2, likelihood=DiscretizedLogisticMixture(3, n_mix=2), image_size=(3, 4)
    ).double()
    save(model, tmp_path / "m.safetensors")
    for options, shape in [((), (2, 3, 3, 4)), (("--size", "6x8"), (2, 3, 6, 8))]:
        done = fastgen(
            "sample", tmp_path / "m.safetensors", "-n", 2, "--cond-image", path, *options,
            "--class", "0,1", "--out", tmp_path / "a.npy", "--quiet",
        )  # fmt: skip
        assert done.code == 0, done
        assert np.load(tmp_path / "a.npy").shape == shape


def test_an_image_is_asked_for_or_refused(fastgen: Fastgen, picture: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    likelihood = DiscretizedLogisticMixture(3, n_mix=2)
    save(Colorization(3, **SMALL, likelihood=likelihood, image_size=(4, 4)), tmp_path / "colour.safetensors")
    save(GatedPixelCNN(3, **SMALL, likelihood=likelihood, image_size=(4, 4)), tmp_path / "plain.safetensors")
    save(SuperResolution(3, **SMALL, likelihood=likelihood), tmp_path / "enlarge.safetensors")
    for arguments, message in [
        ((tmp_path / "colour.safetensors",), "the model draws images given another one"),
        ((tmp_path / "plain.safetensors", "--cond-image", picture[0]), "conditioned on no image"),
        ((tmp_path / "enlarge.safetensors", "--cond-image", picture[0], "--size", "5x8"), "divisible by the model's"),
    ]:
        done = fastgen("sample", *arguments, "-n", 1, "--quiet")
        assert done.code != 0
        assert message in done.err
