"""Recipes of the models with latent codes."""

from __future__ import annotations

import dataclasses

from fastgen.training.recipes.recipe import Recipe

_VAE = Recipe(
    name="vae",
    summary="VAE of binarised MNIST digits, 32 latents",
    data="mnist5k",
    levels=2,
    model="VAE",
    config={"latent_dim": 32, "hidden": [400, 200], "activation": "relu", "kl_warmup": 0.2},
    batch_size=100,
    steps=3_000,
    lr=2e-3,
    warmup_steps=20,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.995,
    log_interval=50,
)

_VAE_2D = dataclasses.replace(
    _VAE,
    name="vae_2d",
    summary="VAE of binarised MNIST digits with two latents, whose manifold is a picture",
    config={**_VAE.config, "latent_dim": 2},
)

_CONDITIONAL_VAE = dataclasses.replace(
    _VAE,
    name="conditional_vae",
    summary="VAE of binarised MNIST digits given their class",
    model="ConditionalVAE",
    config={**_VAE.config, "latent_dim": 16},
    conditional=True,
)

_IWAE = dataclasses.replace(
    _VAE,
    name="iwae",
    summary="IWAE of binarised MNIST digits, 10 samples, doubly reparameterised gradient",
    model="IWAE",
    config={"latent_dim": 32, "hidden": [400, 200], "activation": "relu", "n_samples": 10},
)

_BETA_VAE = dataclasses.replace(
    _VAE,
    name="beta_vae",
    summary="beta-VAE of binarised MNIST digits, convolutions, beta 4",
    model="BetaVAE",
    config={
        "latent_dim": 10,
        "n_filters": [16, 32],
        "hidden": 128,
        "beta": 4.0,
        "likelihood": {"name": "Bernoulli", "channels": 1},
    },
    batch_size=64,
    steps=1_500,
)

_CONV_VAE = dataclasses.replace(
    _BETA_VAE,
    name="conv_vae",
    summary="VAE of binarised MNIST digits, convolutions",
    model="ConvVAE",
    config={
        "latent_dim": 32,
        "n_filters": [16, 32],
        "hidden": 128,
        "kl_warmup": 0.2,
        "likelihood": {"name": "Bernoulli", "channels": 1},
    },
)

_AUTOENCODER = dataclasses.replace(
    _VAE,
    name="autoencoder",
    summary="deep autoencoder of MNIST digits, sampled through a Gaussian mixture of its codes",
    levels=256,
    model="Autoencoder",
    config={"latent_dim": 16, "hidden": [400, 200], "density": "mixture", "n_components": 20},
    lr=1e-3,
)

_CONV_AUTOENCODER = dataclasses.replace(
    _AUTOENCODER,
    name="conv_autoencoder",
    summary="convolutional autoencoder of MNIST digits, sampled through a Gaussian mixture of its codes",
    model="ConvAutoencoder",
    config={"latent_dim": 16, "n_filters": [16, 32], "hidden": 128, "density": "mixture", "n_components": 20},
    batch_size=64,
    steps=1_500,
    lr=2e-3,
)

_DENOISING_AUTOENCODER = dataclasses.replace(
    _AUTOENCODER,
    name="denoising_autoencoder",
    summary="denoising autoencoder of MNIST digits, 30% of whose values turn black or white",
    model="DenoisingAutoencoder",
    config={
        "latent_dim": 64,
        "hidden": [500],
        "density": "mixture",
        "n_components": 20,
        "corruption": "salt-and-pepper",
        "noise": 0.3,
    },
)

_VQVAE = Recipe(
    name="vqvae",
    summary="VQ-VAE of MNIST digits, 7x7 codes of 128 entries, then a Gated PixelCNN of the codes by class",
    data="mnist5k",
    model="VQVAE",
    config={
        "n_filters": 48,
        "n_codes": 128,
        "code_dim": 16,
        "residual_filters": 24,
        "restart_after": 50,
        "prior": {
            "model": "GatedPixelCNN",
            "n_layers": 6,
            "n_filters": 48,
            "kernel_size": 3,
            "first_kernel_size": 5,
            "head_filters": 96,
        },
        "prior_from": 0.4,
    },
    conditional=True,
    batch_size=32,
    steps=3_000,
    lr=3e-3,
    betas=(0.9, 0.99),
    warmup_steps=50,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.99,
    clip_norm=1.0,
    log_interval=50,
)

_VQVAE2 = dataclasses.replace(
    _VQVAE,
    name="vqvae2",
    summary="VQ-VAE-2 of 32x32 crops of photographs, 8x8 and 16x16 codes, a PixelSNAIL and a Gated PixelCNN of them",
    data="photos",
    size=32,
    model="VQVAE2",
    config={
        "n_filters": 48,
        "n_codes": 128,
        "code_dim": 16,
        "factor": 2,
        "top_factor": 2,
        "n_residual": 1,
        "residual_filters": 24,
        "restart_after": 50,
        "top_prior": {
            "model": "PixelSNAIL",
            "n_blocks": 1,
            "n_resnet": 3,
            "n_filters": 32,
            "value_channels": 32,
            "dropout": 0.1,
        },
        "bottom_prior": {
            "model": "GatedPixelCNN",
            "n_layers": 5,
            "n_filters": 32,
            "kernel_size": 3,
            "first_kernel_size": 5,
            "head_filters": 64,
        },
        "prior_from": 0.4,
    },
    conditional=False,
    batch_size=16,
    steps=2_000,
)

_PIXELVAE = Recipe(
    name="pixelvae",
    summary="PixelVAE of binarised MNIST digits, 16 latents and one gated layer",
    data="mnist5k",
    levels=2,
    model="PixelVAE",
    config={
        "latent_dim": 16,
        "n_filters": [24, 48],
        "hidden": 128,
        "n_layers": 1,
        "pixel_filters": 24,
        "head_filters": 48,
        "kl_warmup": 0.3,
        "free_bits": 0.25,
    },
    batch_size=16,
    steps=2_000,
    lr=3e-3,
    betas=(0.9, 0.99),
    warmup_steps=50,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.99,
    clip_norm=1.0,
    log_interval=50,
)

_VDVAE = Recipe(
    name="vdvae",
    summary="VDVAE of binarised MNIST digits, seven layers of latents at four scales",
    data="mnist5k",
    levels=2,
    model="VDVAE",
    config={
        "n_filters": 32,
        "latent_channels": 6,
        "scales": [1, 2, 4, 28],
        "encoder_blocks": [1, 1, 1, 1],
        "decoder_blocks": [1, 2, 2, 2],
        "likelihood": {"name": "Bernoulli", "channels": 1},
    },
    batch_size=32,
    steps=1_500,
    lr=4e-3,
    betas=(0.9, 0.99),
    warmup_steps=50,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.99,
    clip_norm=1.0,
    skip_norm=50.0,
    log_interval=50,
)

_ADVERSARIAL_AUTOENCODER = dataclasses.replace(
    _VAE,
    name="adversarial_autoencoder",
    summary="adversarial autoencoder of MNIST digits, a Gaussian prior of eight latents",
    levels=256,
    model="AdversarialAutoencoder",
    config={"latent_dim": 8, "hidden": [400, 200], "discriminator_hidden": [200, 200]},
    lr=1e-3,
    betas=(0.5, 0.999),
)

_ADVERSARIAL_AUTOENCODER_LABELS = dataclasses.replace(
    _ADVERSARIAL_AUTOENCODER,
    name="adversarial_autoencoder_labels",
    summary="adversarial autoencoder of MNIST digits, each class a petal of a mixture in the plane",
    config={**_ADVERSARIAL_AUTOENCODER.config, "latent_dim": 2, "prior": "mixture"},
    conditional=True,
)

RECIPES: tuple[Recipe, ...] = (
    _AUTOENCODER, _CONV_AUTOENCODER, _DENOISING_AUTOENCODER, _VAE, _VAE_2D, _CONV_VAE, _CONDITIONAL_VAE, _BETA_VAE,
    _IWAE, _VQVAE, _VQVAE2, _ADVERSARIAL_AUTOENCODER, _ADVERSARIAL_AUTOENCODER_LABELS, _PIXELVAE, _VDVAE,
)  # fmt: skip
