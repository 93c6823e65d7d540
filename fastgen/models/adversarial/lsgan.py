"""The least squares generative adversarial network.

Mao, Li, Xie, Lau, Wang, Smolley 2017, Least Squares Generative Adversarial Networks,
https://arxiv.org/abs/1611.04076: equation 9, the discriminator regresses 1 on real images and 0 on generated ones, the
generator has its images taken for 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from fastgen.models.adversarial.dcgan import DCGAN


class LSGAN(DCGAN):
    """The networks of `DCGAN`, options as in `DCGANConfig`, trained by least squares."""

    adversarial: ClassVar[Mapping[str, Any]] = {**DCGAN.adversarial, "loss": "least_squares"}
