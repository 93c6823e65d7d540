"""The Wasserstein generative adversarial network.

Arjovsky, Chintala, Bottou 2017, Wasserstein GAN, https://arxiv.org/abs/1701.07875: algorithm 1, five steps of a critic
whose weights are clipped to +-0.01 for each step of the generator. The paper's RMSProp is, but for the correction of
the first steps, Adam with beta1 = 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from fastgen.models.adversarial.dcgan import DCGAN


class WGAN(DCGAN):
    """The networks of `DCGAN`, options as in `DCGANConfig`, with a clipped critic."""

    adversarial: ClassVar[Mapping[str, Any]] = {
        "loss": "wasserstein",
        "clip_weights": 0.01,
        "d_steps": 5,
        "betas_discriminator": (0.0, 0.99),
        "betas_generator": (0.0, 0.99),
    }
