"""Recipes of the energy-based models."""

from __future__ import annotations

from fastgen.training.recipes.recipe import Recipe

_ENERGY = Recipe(
    name="energy",
    summary="energy of MNIST digits by contrastive divergence, 20 Langevin steps of persistent chains",
    data="mnist5k",
    model="EnergyModel",
    batch_size=32,
    steps=1_000,
    lr=1e-3,
    betas=(0.0, 0.999),
    schedule="cosine",
    lr_final=0.1,
    ema_decay=0.95,
    clip_norm=0.1,
)

_ENERGY_SCORE_MATCHING = Recipe(
    name="energy_score_matching",
    summary="energy of MNIST digits at 14x14 by denoising score matching, sampled by annealed Langevin steps",
    data="mnist5k",
    size=14,
    model="EnergyModel",
    config={"objective": "score_matching", "n_filters": 32, "n_steps": 40},
    batch_size=64,
    steps=3_000,
    lr=2e-3,
    warmup_steps=50,
    schedule="cosine",
    lr_final=0.02,
    ema_decay=0.99,
    clip_norm=1.0,
)

RECIPES = (_ENERGY, _ENERGY_SCORE_MATCHING)
