"""The Wasserstein generative adversarial network with a gradient penalty.

Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville 2017, Improved Training of Wasserstein GANs,
https://arxiv.org/abs/1704.00028: algorithm 1, lambda = 10, five critic steps, Adam with betas (0, 0.9). The penalty is
of each image by itself, so the critic has no batch norm, which would mix them (section 4): a layer norm instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from fastgen.models.adversarial.dcgan import DCGAN, DCGANConfig


@dataclass(frozen=True)
class WGANGPConfig(DCGANConfig):
    """Options of WGANGP: those of `DCGANConfig`.

    Attributes:
        discriminator_norm: "layer", "spectral" or "none".
    """

    _: KW_ONLY
    discriminator_norm: str = "layer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.discriminator_norm == "batch":
            raise ValueError(
                "WGANGP: discriminator_norm must not mix the images of a batch, as the penalty is of each by itself; "
                "got 'batch'; set 'layer' or 'none'"
            )


class WGANGP(DCGAN):
    """The networks of `DCGAN`, the critic with layer norms, whose slope is drawn to 1; options as in `WGANGPConfig`."""

    config_class = WGANGPConfig
    adversarial: ClassVar[Mapping[str, Any]] = {
        "loss": "wasserstein",
        "gradient_penalty": 10.0,
        "d_steps": 5,
        "betas_discriminator": (0.0, 0.9),
        "betas_generator": (0.0, 0.9),
    }
