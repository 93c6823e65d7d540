"""Recipes of the line from the progressive GAN to StyleGAN2; figures of merit as in `adversarial.py`.

The papers train for hundreds of times as many images. What these short runs need, or lose all variety early: enough
channels at the coarsest maps, weak R1 every 4 steps and a weak path length (small images want less of both), a high
learning rate, no mixed styles, a mapping of fewer layers.
"""

from __future__ import annotations

import dataclasses

from fastgen.training.recipes.recipe import Recipe

_STYLEGAN2 = Recipe(
    name="stylegan2",
    summary="StyleGAN2 of MNIST digits at 16x16: modulated convolutions, lazy R1 and path length",
    data="mnist5k",
    size=16,
    model="StyleGAN2",
    config={"latent_dim": 64, "w_dim": 64, "n_filters": [32, 64, 64], "mapping_layers": 2, "mixing": 0.0},
    adversarial={"r1": 1.0, "r1_interval": 4, "path_length": 0.02},
    batch_size=32,
    steps=1_200,
    lr=6e-3,
    ema_decay=0.99,
    log_interval=50,
    eval_interval=250,
    sample_grid=64,
)

_STYLEGAN = dataclasses.replace(
    _STYLEGAN2,
    name="stylegan",
    summary="StyleGAN of MNIST digits at 16x16: a mapping, AdaIN, noise",
    model="StyleGAN",
    adversarial={"r1": 1.0, "r1_interval": 4},
)

_PROGRESSIVE = dataclasses.replace(
    _STYLEGAN2,
    name="progressive_gan",
    summary="Progressive GAN of MNIST digits, grown from 7x7 to 28x28",
    size=None,
    model="ProgressiveGAN",
    config={"latent_dim": 64, "n_filters": [16, 32, 64]},
    adversarial={},
    steps=2_000,
    lr=1.5e-3,
    eval_interval=250,
)

_PHOTOS = dataclasses.replace(
    _STYLEGAN2,
    name="stylegan2-photos",
    summary="StyleGAN2 of 32x32 crops of two photographs, augmentation with a controlled probability (ADA)",
    data="photos",
    size=32,
    config={**_STYLEGAN2.config, "n_filters": [16, 32, 64, 64]},
    adversarial={
        "r1": 1.0,
        "r1_interval": 4,
        "path_length": 0.02,
        "augment": "color,translation,cutout",
        "augment_p": 0.0,
        "ada_target": 0.6,
        "ada_images": 50_000,
    },
    steps=800,
    lr=4e-3,
)

RECIPES = (_PROGRESSIVE, _STYLEGAN, _STYLEGAN2, _PHOTOS)
