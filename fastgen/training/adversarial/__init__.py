"""Adversarial training: losses, regularisers, augmentation, and the rules that they make up."""

from __future__ import annotations

from fastgen.training.adversarial.augmentation import AUGMENTATIONS, augment
from fastgen.training.adversarial.losses import LOSSES, AdversarialLoss, adversarial_loss
from fastgen.training.adversarial.regularizers import gradient_penalty, path_lengths, zero_centred
from fastgen.training.adversarial.training import AdversarialOptions, AdversarialTraining

__all__ = [
    "AUGMENTATIONS",
    "LOSSES",
    "AdversarialLoss",
    "AdversarialOptions",
    "AdversarialTraining",
    "adversarial_loss",
    "augment",
    "gradient_penalty",
    "path_lengths",
    "zero_centred",
]
