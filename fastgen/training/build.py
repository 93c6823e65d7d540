"""From a recipe's names to its data and its model."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgen._names import unknown_name
from fastgen.training.recipes import Recipe

if TYPE_CHECKING:
    from fastgen.data import LabelledDataset
    from fastgen.models import Model

_TWO = "pairs of images of two domains"


def load_data(recipe: Recipe) -> tuple[LabelledDataset, LabelledDataset]:
    """Load the training and the held-out images or signals of `recipe`; the split never depends on the run's seed.

    Raises:
        ValueError: an unknown data set or model, or a folder without images or recordings.
    """
    if len(_checked_class(recipe).axes) == 1:
        from fastgen.data import load_audio

        options = _signal_options(recipe)
        return load_audio(recipe.data, split="train", **options), load_audio(recipe.data, split="validation", **options)
    from fastgen.models import MODELS, TranslationModel

    model_class = MODELS[recipe.model]
    if issubclass(model_class, TranslationModel):
        from fastgen.data import load_pairs

        pair: dict[str, Any] = {"size": recipe.size, "paired": model_class.paired}
        return load_pairs(recipe.data, split="train", **pair), load_pairs(recipe.data, split="validation", **pair)
    from fastgen.data import load

    wanted: dict[str, Any] = {
        "size": recipe.size,
        "channels": recipe.config.get("image_channels"),
        "levels": recipe.levels,
        "skip_corrupt": recipe.skip_corrupt,
    }
    train_set = load(recipe.data, split="train", **wanted)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* cannot be decoded and are left out")  # said once
        return train_set, load(recipe.data, split="validation", **wanted)


def load_for_model(model: Model, name: str, *, split: str, limit: int | None = None) -> LabelledDataset:
    """Load the data set or folder `name` as `model` was trained on it: images or pairs of its size, or signals.

    Raises:
        ValueError: as `fastgen.data.load` and `load_audio`, or a model of signals that knows no length.
    """
    from fastgen.models import TranslationModel

    if isinstance(model, TranslationModel):
        from fastgen.data import load_pairs

        pair: dict[str, Any] = {"channels": model.domain_channels, "paired": model.paired}
        return load_pairs(name, split=split, size=model.image_size, limit=limit, **pair)
    if len(model.axes) == 2:
        from fastgen.data import load

        size, channels, levels = model.image_size, model.image_channels, model.levels
        return load(name, split=split, size=size, channels=channels, limit=limit, levels=levels)
    from fastgen.data import load_audio

    if model.size is None:
        raise ValueError(f"{type(model).__name__}: the model knows no length of its signals; build it with length=")
    options = {key: model.config[key] for key in ("channels", "sample_rate", "encoding", "scale")}
    return load_audio(name, split=split, limit=limit, length=model.size[0], levels=model.levels, **options)


def build_model(recipe: Recipe, shape: Sequence[int], n_classes: int, facts: Mapping[str, Any] | None = None) -> Model:
    """Build the model of `recipe` for data of `shape`, its weights drawn from the global generator.

    `shape` is (C, H, W) of images or (C, T) of signals; `facts` are options that the data decides too (`data_facts`).

    Raises:
        ValueError: an unknown model or config key (the nearest are named), or a value that the model refuses.
    """
    from fastgen.models import TranslationModel

    model_class = _checked_class(recipe)
    if len(shape) != 1 + len(model_class.axes):
        raise ValueError(
            f"recipe {recipe.name}: {recipe.model} takes [C, {', '.join(model_class.axes)}]; got {list(shape)}; set "
            "another model or data"
        )
    of_two, given = issubclass(model_class, TranslationModel), "domain_channels" in (facts or {})
    if of_two != given:
        raise ValueError(
            f"recipe {recipe.name}: {recipe.model} takes {_TWO if of_two else 'images of one domain'}; got "
            f"{_TWO if given else 'images of one'}; set another model, or other data such as photos-gray"
        )
    if len(shape) == 3:
        config = {**recipe.config, **(facts or {}), "image_channels": shape[0], "image_size": (shape[1], shape[2])}
    else:
        config = {**recipe.config, **(facts or {}), "channels": shape[0], "length": shape[1]}
    if n_classes:
        if "n_classes" not in inspect.signature(model_class).parameters:
            raise ValueError(f"recipe {recipe.name}: {recipe.model} takes no labels; set conditional=false")
        config["n_classes"] = n_classes
    try:
        model = model_class(**config)
    except TypeError as error:
        raise ValueError(f"recipe {recipe.name}: {recipe.model} refuses its config: {error}") from error
    if len(shape) == 3 and model.levels != recipe.levels:
        raise ValueError(
            f"recipe {recipe.name}: the model's likelihood must be of the levels of the images; got {model.levels} and "
            f"{recipe.levels}; set levels={model.levels}, or another config.likelihood"
        )
    return model


def data_facts(data: LabelledDataset) -> dict[str, Any]:
    """What a model of signals, or of two domains, keeps of its data besides their shape."""
    from fastgen.data import TensorSignals, TwoDomainImages

    if isinstance(data, TwoDomainImages):
        return {"domain_channels": data.domain_channels, "domains": data.domains}
    return {"sample_rate": data.sample_rate, "scale": data.scale} if isinstance(data, TensorSignals) else {}


def _checked_class(recipe: Recipe) -> type[Model]:
    """The class of the recipe's model, which knows all keys of its config."""
    from fastgen.models import MODELS, AdversarialModel, TranslationModel

    if recipe.model not in MODELS:
        raise unknown_name("model", recipe.model, MODELS)
    model_class = MODELS[recipe.model]
    if recipe.adversarial and not issubclass(model_class, AdversarialModel):
        raise ValueError(
            f"recipe {recipe.name}: adversarial options are of adversarial models; {recipe.model} is none; leave "
            f"{', '.join(f'adversarial.{key}' for key in recipe.adversarial)} out"
        )
    known = inspect.signature(model_class).parameters
    from_data: tuple[str, ...] = (
        ("image_size", "n_classes") if len(model_class.axes) == 2 else ("length", "scale", "n_classes")
    )
    if issubclass(model_class, TranslationModel):
        from_data = ("image_size", "image_channels", "domain_channels", "domains")
    for key in recipe.config:
        if key in from_data:
            raise ValueError(f"recipe {recipe.name}: config.{key} comes from the data; set size or conditional")
        if key not in known:
            raise unknown_name(f"{recipe.model} config key", key, known)
    return model_class


def _signal_options(recipe: Recipe) -> dict[str, Any]:
    """Arguments of `fastgen.data.load_audio`: what the recipe says, and the model's own defaults."""
    from fastgen.data.audio import SERIES

    if not isinstance(recipe.size, int):
        raise ValueError(
            f"recipe {recipe.name}: size is the samples of a signal; got {recipe.size}; set one number, say 4000"
        )
    config = _checked_class(recipe).config_class(**recipe.config)
    is_series = Path(recipe.data).suffix.lower() in SERIES
    return {
        "length": recipe.size,
        "sample_rate": config.sample_rate,
        "channels": recipe.config.get("channels", None if is_series else 1),
        "encoding": config.encoding,
        "levels": config.likelihood.levels,
    }
