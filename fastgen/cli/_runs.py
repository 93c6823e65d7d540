"""What the commands share: runs, devices, sizes and labels given on the command line."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgen._names import unknown_name

if TYPE_CHECKING:
    import torch

    from fastgen.data import LabelledDataset
    from fastgen.models import AdversarialModel, LatentModel, Model, TranslationModel
    from fastgen.training.recipes import Recipe


def add_run(parser: argparse.ArgumentParser) -> None:
    """Declare RUN and --device."""
    parser.add_argument("run_path", metavar="RUN", type=Path, help="folder of a run, or a model's .safetensors file")
    add_device(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Declare --device."""
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, ...")


def is_first_process() -> bool:
    """Whether this is the process that speaks, of those that `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"


def size(text: str) -> int | tuple[int, int]:
    """Read `28` or `32x48` (height x width)."""
    try:
        parts = [int(part) for part in text.lower().split("x")]
    except ValueError:
        parts = []
    if len(parts) not in (1, 2) or min(parts) < 1:
        raise argparse.ArgumentTypeError(f"a size is N or HxW, for example 28 or 32x48; got {text!r}")
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def load_model(run: Path, device: str) -> Model:
    """Load the averaged weights of a run's folder, or a model file, in eval mode.

    Raises:
        FileNotFoundError: nothing there, or a folder without a model.
        ValueError: a file that is no model.
    """
    from fastgen.models.serialization import load
    from fastgen.training.device import pick_device
    from fastgen.training.run import MODEL

    where = pick_device(device)
    path = run
    if run.is_dir():
        path = run / MODEL
        if not path.exists():
            raise FileNotFoundError(
                f"{run} has no {MODEL}; training writes it with its first checkpoint (fastgen train RECIPE --out {run})"
            )
    elif not run.exists():
        raise FileNotFoundError(f"{run} does not exist; RUN is the folder of `fastgen train --out` or a model file")
    return load(path, device=where).eval()


def items(model: Model) -> str:
    """What the model draws, for messages: images or signals."""
    return "signals" if is_signal_model(model) else "images"


def is_signal_model(model: Model) -> bool:
    """Whether the model draws signals [C, T] and no images."""
    return len(model.axes) == 1


def recipe_of(run: Path) -> Recipe | None:
    """Find the recipe of a run's folder, or of the folder that a model file lies in."""
    from fastgen.training.recipes import Recipe
    from fastgen.training.run import RECIPE

    path = (run if run.is_dir() else run.parent) / RECIPE
    try:
        return Recipe.from_json(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); give --data instead") from error


def add_data(parser: argparse.ArgumentParser) -> None:
    """Declare --data and --split."""
    parser.add_argument("--data", help="data set, or folder of images or recordings (default: the run's)")
    parser.add_argument(
        "--split", choices=("train", "validation", "test", "all"), default="validation", help="which part of the data"
    )


def data_for(model: Model, run: Path, name: str | None, split: str, limit: int | None = None) -> LabelledDataset:
    """The data set `name`, by default the run's, as the model takes it.

    Raises:
        ValueError: no name and no recipe beside the model, or data with other classes than the model's.
    """
    from fastgen.training.build import load_for_model

    recipe = recipe_of(run)
    name = name or (recipe.data if recipe else None)
    if name is None:
        raise ValueError(f"{run} lies in no run's folder: say what to take images from with --data")
    data = load_for_model(model, name, split=split, limit=limit)
    if model.n_classes and data.n_classes != model.n_classes:
        raise ValueError(f"{name} has {data.n_classes} classes; the model was trained with {model.n_classes}")
    return data


def load_latent_model(run: Path, device: str) -> LatentModel:
    """Load a model that has codes.

    Raises:
        ValueError: it has none; and as `load_model`.
    """
    return _with_encoder(load_model(run, device), run)


def load_model_with_codes(run: Path, device: str) -> LatentModel | AdversarialModel:
    """Load a model that images are drawn from codes of, whether it has an encoder or not.

    Raises:
        ValueError: it has none; and as `load_model`.
    """
    from fastgen.models import AdversarialModel, TranslationModel

    model = load_model(run, device)
    if isinstance(model, AdversarialModel) and not isinstance(model, TranslationModel):
        return model
    return _with_encoder(model, run)


def load_translation_model(run: Path, device: str) -> TranslationModel:
    """Load a model that translates images.

    Raises:
        ValueError: it does not; and as `load_model`.
    """
    from fastgen.models import TranslationModel

    model = load_model(run, device)
    if not isinstance(model, TranslationModel):
        raise ValueError(
            f"{run} holds a {type(model).__name__}, which translates no images; give the run of ImageToImage or "
            "CycleGAN"
        )
    return model


def _with_encoder(model: Model, run: Path) -> LatentModel:
    from fastgen.models import LatentModel, TranslationModel

    if isinstance(model, TranslationModel):
        raise ValueError(f"{run} holds a {type(model).__name__}, which has no codes; use fastgen translate")
    if not isinstance(model, LatentModel):
        raise ValueError(f"{run} holds a {type(model).__name__}, which has no codes; give the run of an autoencoder")
    return model


def endings(model: Model) -> tuple[str, ...]:
    """The files that what the model draws is written to, the usual one first."""
    if not is_signal_model(model):
        return (".png", ".npy")
    return (".npy",) if model.config["sample_rate"] is None else (".wav", ".npy")


def output_path(run: Path, out: Path | None, name: str, endings: Sequence[str] = (".png", ".npy")) -> Path:
    """Where drawings go: `out`, else `name` in the run's folder or beside the model file.

    Raises:
        ValueError: an ending that is not written; better known before anything is drawn.
    """
    if out is None:
        return (run if run.is_dir() else run.parent) / name
    if out.suffix not in endings:
        kinds = {".png": "a grid is written as .png", ".wav": "sounds are written as .wav", ".npy": "levels as .npy"}
        raise ValueError(f"--out: {', '.join(kinds[ending] for ending in endings)}; got {out}")
    return out


def check_method(method: str, model: Model) -> str:
    """Return `method` if it is "auto" or one that the model's device has.

    Raises:
        ValueError: it is neither.
    """
    from fastgen.sampling import available_methods

    methods = ("auto", *available_methods(next(model.parameters()).device))
    if method not in methods:
        raise unknown_name("sampling method", method, methods)
    return method


def labels(model: Model, wanted: list[int] | None, n: int) -> torch.Tensor | None:
    """Spread the labels `wanted`, by default all classes, over n images: 0, 1, ..., 9, 0, 1, ...

    Raises:
        ValueError: labels for a model without classes, or a label out of range.
    """
    import torch

    if model.n_classes == 0:
        if wanted:
            raise ValueError("--class: the model was trained without labels; leave --class out")
        return None
    wanted = wanted or list(range(model.n_classes))
    for label in wanted:
        if not 0 <= label < model.n_classes:
            raise ValueError(f"--class: labels are 0 to {model.n_classes - 1}; got {label}")
    return torch.tensor([wanted[i % len(wanted)] for i in range(n)])


def condition(
    model: Model, path: Path | None, wanted: torch.Tensor | None, n: int, size: tuple[int, int] | None
) -> Any:
    """What n images of `size` are conditioned on: labels, and the image at `path` for a model of images given others.

    Raises:
        ValueError: an image for a model that takes none, none for one that does, or a size that it does not divide.
    """
    from fastgen.models import TranslationModel

    if isinstance(model, TranslationModel):
        return _to_translate(model, path, n)
    channels, scale = model.config.get("cond_channels", 0), model.config.get("cond_scale", 1)
    if not channels or path is None:
        if channels:
            raise ValueError("--cond-image: the model draws images given another one; name its file")
        if path is not None:
            raise ValueError("--cond-image: the model is conditioned on no image; leave --cond-image out")
        return wanted
    if size is not None and any(side % scale for side in size):
        raise ValueError(f"--size: it must be divisible by the model's scale, {scale}; got {size[0]}x{size[1]}")
    from fastgen.data.images import read_image
    from fastgen.likelihoods import level_dtype

    small = None if size is None else (size[0] // scale, size[1] // scale)
    image = read_image(path, size=small, channels=channels).int() * model.levels // 256
    given = {"map": image.to(level_dtype(model.levels)).expand(n, -1, -1, -1)}
    return given if wanted is None else {**given, "labels": wanted}


def _to_translate(model: TranslationModel, path: Path | None, n: int) -> torch.Tensor:
    """The image at `path`, n times, at the model's size."""
    from fastgen.data.images import read_image

    if path is None:
        raise ValueError(
            f"{type(model).__name__} draws images given others: name one for `fastgen sample --cond-image`, or "
            "translate many with `fastgen translate`"
        )
    image = read_image(path, size=model.image_size, channels=model.domain_channels[1 - model.target])
    return image.to(next(model.parameters()).device).expand(n, -1, -1, -1)


def label_list(text: str) -> list[int]:
    """Read `3` or `0,1,2`."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"labels are integers like 3 or 0,1,2; got {text!r}") from None


def positive(text: str) -> int:
    """Read an integer above zero."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer; got {text!r}")
    return value


def write_signals(path: Path, signals: torch.Tensor, model: Model) -> None:
    """Write signals [N, C, T] of levels: as they are to .npy, else one after another with pauses as a WAV file."""
    import torch

    from fastgen.data import write_wav
    from fastgen.data.encoding import decode

    if path.suffix == ".npy":
        write_levels(path, signals)
        return
    options = model.config
    sound = decode(signals.cpu(), options["encoding"], model.levels)
    pause = torch.zeros(sound.shape[1], options["sample_rate"] // 4)
    parts = [part for signal in sound for part in (signal, pause)]
    write_wav(path, torch.cat(parts[:-1], dim=1), options["sample_rate"])


def write_levels(path: Path, levels: torch.Tensor) -> None:
    """Write levels to .npy, whole or not at all."""
    import numpy as np

    from fastgen._files import atomic_path

    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, levels.cpu().numpy())


def eight_bits(images: torch.Tensor, levels: int) -> torch.Tensor:
    """As `fastgen.data.images.eight_bits`."""
    from fastgen.data.images import eight_bits

    return eight_bits(images, levels)


def write_images(path: Path, images: torch.Tensor, columns: int | None = None, levels: int = 256) -> None:
    """Write uint8 images [N, C, H, W]: the levels to .npy, else a grid as PNG."""
    if path.suffix == ".npy":
        write_levels(path, images)
    else:
        from fastgen.data.images import image_grid, write_image

        scale = max(1, 64 // max(images.shape[-2:]))
        write_image(path, image_grid(eight_bits(images.cpu(), levels), columns=columns, scale=scale))
