"""The variational autoencoder that pays more for its code.

Higgins, Matthey, Pal, Burgess, Glorot, Botvinick, Mohamed, Lerchner 2017, beta-VAE: Learning Basic Visual Concepts with
a Constrained Variational Framework, https://openreview.net/forum?id=Sy2fzU9gl: the objective of equation 4,

    E log p(x | z) - beta KL(q(z | x) || p(z)),

whose beta > 1 drives the latents towards independent factors, at the cost of the reconstruction. With beta > 1 the
objective is a lower bound too, a looser one; `elbo` and `log_prob` are those of beta = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastgen.models.autoencoders.conv_vae import ConvVAE, ConvVAEConfig


@dataclass(frozen=True)
class BetaVAEConfig(ConvVAEConfig):
    """Options of BetaVAE: those of `ConvVAEConfig`, with beta = 4 by default, and ten latents."""

    latent_dim: int = 10
    beta: float = 4.0


class BetaVAE(ConvVAE):
    """Variational autoencoder with convolutions and a weight beta of the divergence; options as in `BetaVAEConfig`.

    Shapes: x [N, C, H, W], z [N, latent_dim].
    """

    config_class = BetaVAEConfig
