"""The variational autoencoder given a label.

Sohn, Lee, Yan 2015, Learning Structured Output Representation using Deep Conditional Generative Models,
https://papers.nips.cc/paper/5775-learning-structured-output-representation-using-deep-conditional-generative-models:
q(z | x, y) and p(x | z, y), the bound of equation 4 of log p(x | y), with the prior p(z | y) = p(z) that the paper
offers: a Gaussian prior a label could be undone by the decoder's first layer, which sees the label too.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastgen.models.autoencoders.vae import VAE, VAEConfig


@dataclass(frozen=True)
class ConditionalVAEConfig(VAEConfig):
    """Options of ConditionalVAE: those of `VAEConfig`, and the labels.

    Attributes:
        n_classes: number of labels, at least 1.
    """

    n_classes: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_classes < 1:
            raise ValueError(
                f"ConditionalVAE: n_classes must be at least 1; got {self.n_classes}; without labels use VAE"
            )


class ConditionalVAE(VAE):
    """Variational autoencoder with dense networks, given a label; options as in `ConditionalVAEConfig`.

    The label, a one-hot vector, joins the image in the encoder and the code in the decoder: a code then holds what the
    label does not say, style and not class.

    Shapes: x [N, C, H, W], cond [N] labels, z [N, latent_dim].
    """

    config_class = ConditionalVAEConfig
