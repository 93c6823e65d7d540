"""A run of two seconds that the commands share, and a way to call them as the shell does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from fastgen.cli import main
from fastgen.data import write_image


class Outcome(NamedTuple):
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


@pytest.fixture
def fastgen(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse
            code = end.code if isinstance(end.code, int) else 1
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8x6 images (higher than wide) of three classes, a folder each."""
    folder = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for label in range(3):
        for i in range(8):
            image = torch.randint(0, 60, (1, 8, 6), generator=generator, dtype=torch.uint8) + 80 * label
            (folder / f"class{label}").mkdir(exist_ok=True)
            write_image(folder / f"class{label}" / f"{i}.png", image)
    return folder


# no worker processes: forking a process with threads warns from Python 3.12 on
TINY = ("--set", "config.n_filters=4,4", "--set", "config.n_mix=2", "--set", "batch_size=8", "--set", "workers=0")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """The folder of a class-conditional run on `image_folder`."""
    out = tmp_path_factory.mktemp("runs") / "conditional"
    arguments = ["train", "pixelcnnpp-digits", "--data", str(image_folder), "--out", str(out), *TINY]
    assert main([*arguments, "--steps", "8", "--quiet", "--device", "cpu"]) == 0
    return out


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """The folder of a run without labels."""
    out = tmp_path_factory.mktemp("runs") / "plain"
    arguments = ["train", "pixelcnnpp-digits", "--data", str(image_folder), "--out", str(out), *TINY]
    arguments += ["--set", "conditional=false", "--steps", "2", "--quiet", "--device", "cpu"]
    assert main(arguments) == 0
    return out
