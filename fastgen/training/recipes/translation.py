"""Recipes of the models that translate images of one domain to another.

Figures of merit: of pairs the mean distance |y - G(x)| in [-1, 1]; without pairs the sliced Wasserstein distance
between translations and images of their domain, beside "untranslated", how far the domains themselves are apart.
"""

from __future__ import annotations

from fastgen.training.recipes.recipe import Recipe

_IMAGE_TO_IMAGE = Recipe(
    name="image_to_image",
    summary="U-Net against patches that colours 32x32 crops of two photographs, learned from pairs",
    data="photos-gray",
    size=32,
    model="ImageToImage",
    config={"n_filters": [32, 64, 128, 128, 128], "n_noisy": 2, "discriminator_filters": [32, 64]},
    adversarial={"lr_discriminator": 0.5},
    batch_size=16,
    steps=1_500,
    lr=4e-4,
    schedule="linear",
    lr_hold=0.5,
    ema_decay=0.99,
    log_interval=50,
    eval_interval=500,
    sample_grid=16,
)

_CYCLEGAN = Recipe(
    name="cyclegan",
    summary="CycleGAN of digits with thin and with bold strokes, learned without pairs",
    data="mnist5k-bold",
    model="CycleGAN",
    config={"n_filters": 16, "n_blocks": 3, "discriminator_filters": [32, 64]},
    batch_size=8,
    steps=1_000,
    lr=4e-4,
    schedule="linear",
    lr_hold=0.5,
    ema_decay=0.99,
    log_interval=50,
    eval_interval=500,
    sample_grid=16,
)

RECIPES = (_IMAGE_TO_IMAGE, _CYCLEGAN)
