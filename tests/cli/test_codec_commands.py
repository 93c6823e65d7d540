"""`fastgen compress` and `decompress`: pixels come back, and what cannot be done is said before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastgen.data.images import read_image, write_image
from fastgen.likelihoods import Bernoulli, Categorical
from fastgen.models import GatedPixelCNN, PixelCNN
from fastgen.models.serialization import save

Fastgen = Callable[..., tuple[int, str, str]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for index, size in enumerate([(4, 5), (4, 5), (3, 7)]):
        image = torch.randint(0, 256, (3, *size), generator=generator).to(torch.uint8)
        write_image(folder / f"image {index}.png", image)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "run" / "model.safetensors"
    path.parent.mkdir()
    save(PixelCNN(3, n_filters=6, n_blocks=1, head_filters=6), path)
    return path.parent


def test_there_and_back(fastgen: Fastgen, run: Path, photos: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "packed.fgc", tmp_path / "out"
    code, text, err = fastgen("compress", run, photos, "-o", file)
    assert code == 0, err
    assert text.startswith("3 images, ") and f"{file.stat().st_size:,} bytes" in text
    code, text, err = fastgen("decompress", file, "-o", out, "--run", run)
    assert code == 0 and text.startswith("3 images in "), err
    assert sorted(path.name for path in out.iterdir()) == [f"image {k}.png" for k in range(3)]
    for path in photos.iterdir():
        assert torch.equal(read_image(out / path.name), read_image(path))


def test_the_model_is_found_by_its_checksum(fastgen: Fastgen, run: Path, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "somewhere" / "packed.fgc"
    file.parent.mkdir()
    assert fastgen("compress", run, photos, "-o", file)[0] == 0
    code, _, err = fastgen("decompress", file, "-o", tmp_path / "out")
    assert code == 2 and "no model of the file's checksum" in err and not (tmp_path / "out").exists()
    save(PixelCNN(3, n_filters=4, n_blocks=1, head_filters=6), file.with_name("a.safetensors"))
    (run / "model.safetensors").rename(file.with_name("b.safetensors"))
    assert fastgen("decompress", file, "-o", tmp_path / "out")[0] == 0


def test_labels_are_found_or_given(fastgen: Fastgen, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tmp_path / "model.safetensors"
    options = {"n_layers": 1, "n_filters": 6, "kernel_size": 3, "head_filters": 6, "likelihood": Categorical(1, 256)}
    save(GatedPixelCNN(1, n_classes=3, **options), model)
    image = torch.randint(0, 256, (1, 4, 4)).to(torch.uint8)
    write_image(tmp_path / "gray.png", image)
    for label in ([], ["--class", "2"]):
        file = tmp_path / "packed.fgc"
        assert fastgen("compress", model, tmp_path / "gray.png", "-o", file, *label)[0] == 0
        assert fastgen("decompress", file, "-o", tmp_path / "out", "--run", model)[0] == 0
        assert torch.equal(read_image(tmp_path / "out" / "gray.png"), image)
    code, _, err = fastgen("compress", model, tmp_path / "gray.png", "-o", file, "--class", "3")
    assert code == 2 and "labels must be in 0..2" in err


def test_binary_images(fastgen: Fastgen, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, file = tmp_path / "model.safetensors", tmp_path / "packed.fgc"
    save(PixelCNN(1, n_filters=6, n_blocks=1, head_filters=6, likelihood=Bernoulli(1)), model)
    image = 255 * torch.randint(0, 2, (1, 6, 5)).to(torch.uint8)
    write_image(tmp_path / "black.png", image)
    assert fastgen("compress", model, tmp_path / "black.png", "-o", file)[0] == 0
    assert fastgen("decompress", file, "-o", tmp_path / "out", "--run", model)[0] == 0
    assert torch.equal(read_image(tmp_path / "out" / "black.png"), image)
    image[0, 0, 0] = 100
    write_image(tmp_path / "gray.png", image)
    code, _, err = fastgen("compress", model, tmp_path / "gray.png", "-o", file)
    assert code == 2 and "must have the 2 levels of the model" in err


def test_what_would_be_lost_is_refused(fastgen: Fastgen, run: Path, tmp_path: Path) -> None:
    from PIL import Image

    file = tmp_path / "packed.fgc"
    Image.new("RGBA", (4, 4)).save(tmp_path / "clear.png")
    code, _, err = fastgen("compress", run, tmp_path / "clear.png", "-o", file)
    assert code == 2 and "must be an image of mode RGB for this model; got RGBA" in err and not file.exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    code, _, err = fastgen("compress", run, empty, "-o", file)
    assert code == 2 and "must hold images" in err


def test_a_damaged_file_writes_nothing(fastgen: Fastgen, run: Path, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "packed.fgc"
    assert fastgen("compress", run, photos, "-o", file)[0] == 0
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    code, _, err = fastgen("decompress", file, "-o", tmp_path / "out", "--run", run)
    assert code == 2 and "its checksum differs" in err and not (tmp_path / "out").exists()
    code, _, err = fastgen("decompress", tmp_path / "nothing", "-o", tmp_path / "out", "--run", run)
    assert code == 2 and "there is none" in err
