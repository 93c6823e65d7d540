"""List the models and the recipes with their numbers of parameters."""

from __future__ import annotations

import argparse

from fastgen.training.recipes import RECIPES, Recipe

SUMMARY = "list models and recipes"

# (C, H, W) or (C,) and classes of the recipes' data sets, so that listing them loads none.
SHAPES: dict[str, tuple[tuple[int, ...], int]] = {
    "mnist5k": ((1, 28, 28), 10),
    "digits": ((1, 8, 8), 10),
    "photos": ((3, 32, 32), 0),
    "ring": ((2, 1, 1), 8),
    "cifar10": ((3, 32, 32), 10),
    "photos-gray": ((4, 32, 32), 0),
    "mnist5k-bold": ((2, 28, 28), 0),
    "tones": ((1,), 3),
    "mnist": ((1, 28, 28), 10),
    "imagenet32": ((3, 32, 32), 1000),
    "imagenet64": ((3, 64, 64), 1000),
    "celeba": ((3, 218, 178), 0),
    "./vctk": ((1,), 109),
    "./imagenet": ((3, 256, 256), 1000),
    "./lsun-bedroom": ((3, 256, 256), 0),
    "./celeba-hq": ((3, 1024, 1024), 0),
    "./ffhq": ((3, 1024, 1024), 0),
    "./facades": ((6, 256, 256), 0),
    "./horse2zebra": ((6, 256, 256), 0),
}
DOMAINS = {"photos-gray": (1, 3), "mnist5k-bold": (1, 1), "./facades": (3, 3), "./horse2zebra": (3, 3)}
"""Channels of the domains of recipes' data of two domains; the size is in `SHAPES`."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments (none)."""


def run(args: argparse.Namespace) -> int:
    """Print the lists."""
    from fastgen.models import MODELS

    print("models (fastgen.models):")
    width = max(map(len, MODELS))
    for name, model_class in MODELS.items():
        print(f"  {name:{width}}  {_first_line(model_class.__doc__)}")
    width = max(map(len, RECIPES))
    for title, recipes in by_kind().items():
        print(f"\n{title} (fastgen train RECIPE):")
        for name, recipe in recipes.items():
            budget = f"{recipe.steps} steps" if recipe.steps is not None else f"{recipe.seconds:.0f} s"
            expected = f" [{recipe.expected}]" if recipe.expected else ""
            print(f"  {name:{width}}  {n_parameters(recipe):>12,} parameters, {budget:>14}: {recipe.summary}{expected}")
    return 0


def by_kind() -> dict[str, dict[str, Recipe]]:
    """The recipes that are listed under each title."""
    small = {name: recipe for name, recipe in RECIPES.items() if not recipe.source}
    papers = {name: recipe for name, recipe in RECIPES.items() if recipe.source}
    return {"recipes": small, "recipes in the settings of papers, with the figures reported there": papers}


def n_parameters(recipe: Recipe) -> int:
    """Count the parameters of a recipe's model for the images or signals it was made for; takes no memory."""
    import torch

    from fastgen.training.build import build_model

    (channels, *size), n_classes = SHAPES[recipe.data]
    if isinstance(recipe.size, int):
        size = [recipe.size] * max(1, len(size))
    elif recipe.size is not None:
        size = list(recipe.size)
    facts = {"domain_channels": DOMAINS[recipe.data]} if recipe.data in DOMAINS else None
    with torch.device("meta"):
        model = build_model(recipe, (channels, *size), n_classes if recipe.conditional else 0, facts)
    return sum(parameter.numel() for parameter in model.parameters())


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0]
