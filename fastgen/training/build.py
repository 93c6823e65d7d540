"""From a recipe's names to its data and its model."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from fastgen._names import unknown_name
from fastgen.training.recipes import Recipe

if TYPE_CHECKING:
    from fastgen.data import ImageDataset
    from fastgen.models.autoregressive.base import AutoregressiveModel


def load_data(recipe: Recipe) -> tuple[ImageDataset, ImageDataset]:
    """Load the training and the held-out images of `recipe`; the split never depends on the run's seed.

    Raises:
        ValueError: an unknown data set, or a folder without images.
    """
    from fastgen.data import load

    options: dict[str, Any] = {"size": recipe.size, "channels": recipe.config.get("image_channels")}
    return load(recipe.data, split="train", **options), load(recipe.data, split="validation", **options)


def build_model(recipe: Recipe, image_shape: tuple[int, int, int], n_classes: int) -> AutoregressiveModel:
    """Build the model of `recipe` for images of shape (C, H, W), its weights drawn from the global generator.

    Raises:
        ValueError: an unknown model or config key (the nearest are named), or a value that the model refuses.
    """
    from fastgen.models import MODELS

    if recipe.model not in MODELS:
        raise unknown_name("model", recipe.model, MODELS)
    model_class = MODELS[recipe.model]
    channels, height, width = image_shape
    known = inspect.signature(model_class).parameters
    for key in recipe.config:
        if key in ("image_size", "n_classes"):
            raise ValueError(f"recipe {recipe.name}: config.{key} comes from the data; set size or conditional")
        if key not in known:
            raise unknown_name(f"{recipe.model} config key", key, known)
    config = {**recipe.config, "image_channels": channels, "image_size": (height, width)}
    if n_classes:
        if "n_classes" not in known:
            raise ValueError(f"recipe {recipe.name}: {recipe.model} takes no labels; set conditional=false")
        config["n_classes"] = n_classes
    try:
        return model_class(**config)
    except TypeError as error:
        raise ValueError(f"recipe {recipe.name}: {recipe.model} refuses its config: {error}") from error
