"""`fastgen translate`, and what the other commands say to models of two domains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fastgen as package
from fastgen.cli import main
from fastgen.data import image_grid, load_pairs, read_image, write_image
from fastgen.likelihoods import signal_to_levels
from fastgen.models import CycleGAN, ImageToImage

Fastgen = Callable[..., Any]


def train(out: Path, folder: Path, recipe: str, *options: str) -> Path:
    arguments = ["train", recipe, "--data", str(folder), "--out", str(out), "--size", "16", "--steps", "2", "--quiet"]
    for option in ("batch_size=2", "workers=0", "config.discriminator_filters=[3]", *options):
        arguments += ["--set", option]
    assert main([*arguments, "--device", "cpu"]) == 0
    return out


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope="session")
def pair_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with a left and a right image."""
    folder = tmp_path_factory.mktemp("pairs")
    for k in range(20):
        write_image(folder / f"{k}.png", noise(3, 16, 32, seed=k))
    return folder


@pytest.fixture(scope="session")
def two_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gray horses and zebras, more of these."""
    folder = tmp_path_factory.mktemp("animals")
    for name, n in (("horse", 12), ("zebra", 25)):
        (folder / name).mkdir()
        for k in range(n):
            write_image(folder / name / f"{k}.png", noise(1, 18, 20, seed=100 * n + k))
    return folder


@pytest.fixture(scope="session")
def paired(tmp_path_factory: pytest.TempPathFactory, pair_folder: Path) -> Path:
    """A run of ImageToImage."""
    return train(tmp_path_factory.mktemp("runs") / "i2i", pair_folder, "image_to_image", "config.n_filters=[3,4]")


@pytest.fixture(scope="session")
def cycle(tmp_path_factory: pytest.TempPathFactory, two_folders: Path) -> Path:
    """A run of CycleGAN."""
    options = ("config.n_filters=2", "config.n_blocks=1")
    return train(tmp_path_factory.mktemp("runs") / "cyclegan", two_folders, "cyclegan", *options)


def picture(*columns: torch.Tensor) -> torch.Tensor:
    """A row an image."""
    return image_grid(torch.stack(columns, 1).flatten(0, 1), columns=len(columns), scale=4)


def test_pairs_are_shown_beside_the_truth(fastgen: Fastgen, paired: Path, tmp_path: Path, pair_folder: Path) -> None:
    options = ("-n", 2, "--split", "train", "--first", 3, "--seed", 5, "--batch-size", 1)
    done = fastgen("translate", paired, *options, "--out", tmp_path / "a.png")
    assert done.code == 0 and "2 images of" in done.out and "left to right" in done.out, done.err
    model = package.load(paired / "model.safetensors").eval()
    assert isinstance(model, ImageToImage)
    x, _ = load_pairs(pair_folder).batch(torch.arange(3, 5))
    left, right = model.split(x)
    assert torch.equal(read_image(tmp_path / "a.png"), picture(left, model.translate(left, seed=5), right))
    assert fastgen("translate", paired, "-n", 1).code == 0 and (paired / "translations.png").exists()


def test_unpaired_ones_beside_what_comes_back(fastgen: Fastgen, cycle: Path, tmp_path: Path, two_folders: Path) -> None:
    options = ("-n", 2, "--to", "horse", "--each", tmp_path / "each", "--out", tmp_path / "a.png")
    done = fastgen("translate", cycle, *options)
    assert done.code == 0 and "zebra to horse" in done.out and "what comes back" in done.out, done.err
    model = package.load(cycle / "model.safetensors").eval()
    assert isinstance(model, CycleGAN)
    x, _ = load_pairs(two_folders, size=16, split="validation", paired=False).batch(torch.arange(2))
    zebra = model.split(x)[1]
    there, back = model.cycle(zebra, to="horse")
    wanted = [signal_to_levels(image, 256) for image in (there, back)]
    assert torch.equal(read_image(tmp_path / "a.png", channels=1), picture(zebra, *wanted))
    assert torch.equal(read_image(tmp_path / "each" / "1.png", channels=1), wanted[0][1])


def test_a_folder_is_translated_file_by_file(fastgen: Fastgen, paired: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    (given / "deep").mkdir(parents=True)
    write_image(given / "a.png", noise(3, 16, 16, seed=1))
    write_image(given / "deep" / "b.png", noise(3, 40, 30, seed=2))
    write_image(given / "deep" / "a.png", noise(1, 16, 16, seed=3))
    common = ("--each", tmp_path / "out", "--out", tmp_path / "grid.png", "--batch-size", 2)
    done = fastgen("translate", paired, "--input", given, "-n", 2, *common)
    assert done.code == 0 and "3 images of" in done.out, done.err
    model: Any = package.load(paired / "model.safetensors").eval()
    names = ["a.png", "deep/a.png", "deep/b.png"]
    x = torch.stack([read_image(given / name, size=16, channels=3) for name in names])
    wanted = model.translate(x)
    for name, image in zip(names, wanted, strict=True):
        assert torch.equal(read_image(tmp_path / "out" / name), image)
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.png")) == ["a.png", "a.png", "b.png"]
    assert torch.equal(read_image(tmp_path / "grid.png"), picture(x[:2], wanted[:2]))
    write_image(given / "a.bmp.png", noise(3, 16, 16, seed=4))
    (given / "a.bmp.png").rename(given / "a.bmp")
    refused = fastgen("translate", paired, "--input", given, *common)
    assert refused.code == 2 and "names must differ without their ending; got" in refused.err
    (given / "a.bmp").unlink()
    (given / "deep" / "b.png").write_bytes(b"no image")
    refused = fastgen("translate", paired, "--input", given, *common)
    assert refused.code == 2 and "b.png' must be an image" in refused.err


def test_a_file_is_translated_at_any_size(fastgen: Fastgen, cycle: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "wide.png", noise(1, 24, 40, seed=1))
    options = ("--input", tmp_path / "wide.png", "--size", "24x40", "--out", tmp_path / "grid.png")
    done = fastgen("translate", cycle, *options)
    assert done.code == 0, done.err
    model: Any = package.load(cycle / "model.safetensors").eval()
    wanted = model.translate(read_image(tmp_path / "wide.png", channels=1)[None])[0]
    assert torch.equal(read_image(cycle / "translations" / "wide.png", channels=1), wanted)
    refused = fastgen("translate", cycle, *options[:3], "30")
    assert refused.code == 2 and "sides of images must be multiples of 4" in refused.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "cow"), "one of the domains 'horse' and 'zebra', or 'a' or 'b'; got 'cow'"),
        (("--input", "nowhere"), "--input: nowhere does not exist"),
        (("--input", ".", "--data", "x"), "--data: it and --input exclude each other"),
        (("--size", 16), "--size: it is of --input"),
        (("--first", 99), "99 and 8 images from there go beyond"),
        (("--data", "mnist5k"), "unknown data set of two domains"),
    ],
)
def test_a_wrong_call_says_what_is_right(
    fastgen: Fastgen, cycle: Path, options: tuple[object, ...], message: str
) -> None:
    refused = fastgen("translate", cycle, *options)
    assert refused.code == 2 and message in refused.err, refused.err


def test_sampling_needs_the_image_to_translate(fastgen: Fastgen, paired: Path, cycle: Path, tmp_path: Path) -> None:
    image = noise(3, 16, 16, seed=1)
    write_image(tmp_path / "given.png", image)
    done = fastgen("sample", paired, "-n", 3, "--cond-image", tmp_path / "given.png", "--out", tmp_path / "a.npy")
    assert done.code == 0, done.err
    refused = fastgen("sample", cycle, "-n", 3)
    assert refused.code == 2 and "CycleGAN draws images given others" in refused.err
    assert "fastgen translate" in fastgen("neighbours", cycle).err
    refused = fastgen("sample", paired, "--temperature", 0.5, "--cond-image", tmp_path / "given.png")
    assert refused.code == 2 and "--temperature: ImageToImage has no such option" in refused.err


def test_eval_says_how_far_the_translations_are(fastgen: Fastgen, paired: Path, cycle: Path) -> None:
    done = fastgen("eval", paired, "--json")
    assert done.code == 0, done.err
    assert {"l1", "psnr", "sliced_distance"} < json.loads(done.out).keys()
    done = fastgen("eval", cycle)
    assert done.code == 0 and "sliced distance to zebra" in done.out and "cycle error" in done.out, done.err


@pytest.mark.parametrize("command", ["reconstruct", "interpolate", "traverse"])
def test_commands_of_codes_point_to_translate(fastgen: Fastgen, cycle: Path, command: str) -> None:
    refused = fastgen(command, cycle)
    assert refused.code == 2 and "CycleGAN, which has no codes; use fastgen translate" in refused.err


def test_translate_is_of_models_of_two_domains(fastgen: Fastgen, trained: Path) -> None:
    refused = fastgen("translate", trained)
    assert refused.code == 2 and "PixelCNNPP, which translates no images" in refused.err
