"""Named training runs, family by family, those in the settings of papers last.

Nothing heavy is imported here, so that the command line can list recipes at once.
"""

from __future__ import annotations

from fastgen._names import unknown_name
from fastgen.training.recipes import adversarial, autoencoders, autoregressive, energy, published, stylegan, translation
from fastgen.training.recipes.recipe import Recipe, read_config

__all__ = ["RECIPES", "Recipe", "get_recipe", "read_config"]

_FAMILIES = (autoregressive, autoencoders, adversarial, stylegan, translation, energy, published)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for family in _FAMILIES for recipe in family.RECIPES}


def get_recipe(name: str) -> Recipe:
    """Look a recipe up by its name.

    Raises:
        ValueError: no such recipe; the nearest names are given.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]
