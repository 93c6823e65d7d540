"""Recipes of the adversarial models.

The figure of merit is the sliced Wasserstein distance between held-out and drawn images (`AdversarialModel.summarize`).
Real images are that far apart too: 500 training digits of `mnist5k` from the 500 held-out ones 0.056, 1,000 training
points of `ring` from the held-out ones 0.070.
"""

from __future__ import annotations

import dataclasses

from fastgen.training.recipes.recipe import Recipe

_RING = Recipe(
    name="gan_ring",
    summary="GAN of points in the plane, 8 Gaussians on a ring: does it find every mode",
    data="ring",
    model="GAN",
    config={"latent_dim": 16, "hidden": [128, 128]},
    batch_size=128,
    steps=5_000,
    lr=1e-3,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.995,
    log_interval=100,
)

_GAN = Recipe(
    name="gan",
    summary="GAN of MNIST digits, dense networks, the loss of 2014",
    data="mnist5k",
    model="GAN",
    config={"latent_dim": 64, "hidden": [256, 512], "dropout": 0.3},
    batch_size=64,
    steps=6_000,
    lr=2e-4,
    ema_decay=0.995,
    log_interval=100,
    eval_interval=1_500,
    sample_grid=64,
)

_DCGAN = dataclasses.replace(
    _GAN,
    name="dcgan",
    summary="DCGAN of MNIST digits, batch norm and strided convolutions",
    model="DCGAN",
    config={"latent_dim": 64, "n_filters": [32, 64]},
    steps=1_500,
    lr=4e-4,
    eval_interval=500,
    log_interval=50,
)

_LSGAN = dataclasses.replace(
    _DCGAN, name="lsgan", summary="LSGAN of MNIST digits, the networks of dcgan by least squares", model="LSGAN"
)

_WGAN = dataclasses.replace(
    _DCGAN,
    name="wgan",
    summary="WGAN of MNIST digits, a critic with clipped weights",
    model="WGAN",
    steps=700,
    lr=2e-4,
)

_WGANGP = dataclasses.replace(
    _DCGAN,
    name="wgangp",
    summary="WGAN-GP of MNIST digits, a critic whose slope is drawn to 1",
    model="WGANGP",
    config={"latent_dim": 64, "n_filters": [32, 64]},
    adversarial={"d_steps": 3},
    steps=500,
    lr=4e-4,
    ema_decay=0.98,
)

_CONDITIONAL = dataclasses.replace(
    _DCGAN,
    name="conditional_gan",
    summary="GAN of MNIST digits given their class, the label beside the code and the image",
    model="ConditionalGAN",
    config={"latent_dim": 64, "n_filters": [32, 64], "conditioning": "concatenation"},
    adversarial={"loss": "non_saturating"},
    conditional=True,
    steps=1_200,
    sample_grid=80,
)

_PROJECTION = dataclasses.replace(
    _CONDITIONAL,
    name="conditional_gan_projection",
    summary="GAN of MNIST digits given their class, projection discriminator",
    config={"latent_dim": 64, "n_filters": [32, 64], "conditioning": "projection"},
    steps=1_500,
)

_INFOGAN = dataclasses.replace(
    _DCGAN,
    name="infogan",
    summary="InfoGAN of MNIST digits, one latent of 10 values and two continuous ones",
    model="InfoGAN",
    config={"latent_dim": 62, "n_filters": [32, 64]},
    steps=1_000,
)

_BEGAN = dataclasses.replace(
    _DCGAN,
    name="began",
    summary="BEGAN of MNIST digits at 16x16, an autoencoder in equilibrium with its generator",
    size=16,
    model="BEGAN",
    config={"latent_dim": 32, "n_filters": [16, 32], "hidden": 128, "gamma": 0.7, "k_lr": 0.02},
    batch_size=32,
    steps=3_000,
    lr=5e-4,
)

_PHOTOS = dataclasses.replace(
    _DCGAN,
    name="dcgan-photos",
    summary="DCGAN of 32x32 crops of two photographs, hinge loss, spectral norm, R1, differentiable augmentation",
    data="photos",
    size=32,
    config={"latent_dim": 64, "n_filters": [24, 48, 96], "discriminator_norm": "spectral"},
    adversarial={"loss": "hinge", "r1": 0.1, "r1_interval": 8, "augment": "color,translation"},
    steps=1_000,
    sample_grid=64,
)

RECIPES = (_RING, _GAN, _DCGAN, _LSGAN, _WGAN, _WGANGP, _CONDITIONAL, _PROJECTION, _INFOGAN, _BEGAN, _PHOTOS)
