"""The variational autoencoder with convolutions.

Kingma, Welling 2014, Auto-Encoding Variational Bayes, https://arxiv.org/abs/1312.6114, with the networks of
`ConvAutoencoder` around the Gaussian code. The features of a pixel meet its likelihood in a 1x1 convolution, fused with
the likelihood for a logistic mixture and a categorical.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from fastgen.likelihoods import DiscretizedLogisticMixture, Likelihood
from fastgen.models.autoencoders.base import Posterior, check_latent_options, likelihood_head
from fastgen.models.autoencoders.networks import ConvDecoder, ConvEncoder, check_widths
from fastgen.models.autoencoders.variational import VariationalModel, check_variational_options
from fastgen.models.autoregressive.base import as_likelihood


@dataclass(frozen=True)
class ConvVAEConfig:
    """Options of ConvVAE.

    Attributes:
        image_channels: C.
        latent_dim: D, the length of a code.
        n_filters: of the encoder's convolutions, each of which halves the map; the decoder has them in reverse.
        hidden: units of the dense layer between convolutions and code.
        activation: of the hidden layers.
        likelihood: distribution of a pixel given the code (or the config of one); by default a mixture of 5 logistics.
        beta: weight of the divergence in training.
        kl_warmup: fraction of the budget over which that weight rises from 0.
        free_bits: nats of divergence of each latent that cost nothing in training.
        image_size: (H, W) of every image.
    """

    image_channels: int = 3
    latent_dim: int = 64
    n_filters: Sequence[int] = (32, 64)
    _: KW_ONLY
    hidden: int = 256
    activation: str = "relu"
    likelihood: Likelihood | Mapping[str, Any] | None = None
    beta: float = 1.0
    kl_warmup: float = 0.0
    free_bits: float = 0.0
    image_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__.removesuffix("Config")
        size = check_latent_options(name, self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        likelihood = as_likelihood(self.likelihood, DiscretizedLogisticMixture(self.image_channels, n_mix=5))
        object.__setattr__(self, "likelihood", likelihood)
        object.__setattr__(self, "n_filters", tuple(int(n) for n in self.n_filters))
        if not self.n_filters:
            raise ValueError(f"{name}: n_filters must name at least one convolution; got none; for dense use VAE")
        check_widths(name, n_filters=self.n_filters, hidden=(self.hidden,))
        check_variational_options(name, self.latent_dim, self.beta, self.kl_warmup, self.free_bits)


class ConvVAE(VariationalModel):
    """Variational autoencoder with convolutions and upsampling; options as in `ConvVAEConfig`.

    Shapes: x [N, C, H, W], z [N, latent_dim].
    """

    config_class: ClassVar[type[ConvVAEConfig]] = ConvVAEConfig
    encoder: ConvEncoder

    def __init__(self, *args: Any, **options: Any) -> None:
        c = self.config_class(*args, **options)
        assert isinstance(c.likelihood, Likelihood)
        super().__init__(c, c.likelihood, (c.latent_dim,))
        self.encoder = ConvEncoder(c.image_channels, self.image_size, c.n_filters, c.hidden, c.activation)
        self.posterior = nn.Linear(self.encoder.n_features, 2 * c.latent_dim)
        self.decoder = ConvDecoder(c.latent_dim, self.image_size, c.n_filters, c.hidden, c.activation)
        self.head = likelihood_head(c.likelihood, c.n_filters[0])

    def encode(self, x: Tensor, cond: Any = None) -> Posterior:
        """q(z | x). Shapes: x [N, C, H, W] -> [N, latent_dim] both."""
        self.prepare_cond(cond, x.shape[0])
        mean, log_var = self.posterior(self.encoder(self.prepare_input(x))).chunk(2, 1)
        return Posterior(mean, log_var)

    def decode_features(self, z: Tensor, cond: Any = None) -> Tensor:
        """What the head reads. Shapes: z [N, latent_dim] -> [N, F, H, W]."""
        self.prepare_cond(cond, z.shape[0])
        features: Tensor = self.decoder(z)
        return features
