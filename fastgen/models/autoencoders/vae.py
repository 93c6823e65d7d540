"""The variational autoencoder with dense networks.

Kingma, Welling 2014, Auto-Encoding Variational Bayes, https://arxiv.org/abs/1312.6114, appendix C: an encoder from the
image to the mean and the log-variance of q(z | x) (equation 12) and a decoder from z to the parameters of p(x | z)
(equations 11 and 12); the bound of equation 10, its divergence in closed form (appendix B). In the paper both have one
layer of 500 tanh units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from fastgen.likelihoods import Bernoulli, Likelihood
from fastgen.models.autoencoders.base import Posterior, check_latent_options
from fastgen.models.autoencoders.networks import DenseDecoder, DenseEncoder, check_widths, dense_head
from fastgen.models.autoencoders.variational import VariationalModel, check_variational_options
from fastgen.models.autoregressive.base import as_likelihood


@dataclass(frozen=True)
class VAEConfig:
    """Options of VAE; the paper's for binary images by default.

    Attributes:
        image_channels: C.
        latent_dim: D, the length of a code.
        hidden: units of the encoder's layers, from the image on; the decoder has them in reverse. None makes both
            linear.
        activation: of the hidden layers.
        likelihood: distribution of a pixel given the code (or the config of one); by default Bernoulli. A Gaussian of
            fixed std is the squared error.
        head_filters: features of a pixel that the head of a logistic mixture or a categorical reads.
        beta: weight of the divergence in training.
        kl_warmup: fraction of the budget over which that weight rises from 0.
        free_bits: nats of divergence of each latent that cost nothing in training.
        image_size: (H, W) of every image.
    """

    image_channels: int = 1
    latent_dim: int = 20
    hidden: Sequence[int] = (500,)
    _: KW_ONLY
    activation: str = "tanh"
    likelihood: Likelihood | Mapping[str, Any] | None = None
    head_filters: int = 16
    beta: float = 1.0
    kl_warmup: float = 0.0
    free_bits: float = 0.0
    image_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__.removesuffix("Config")
        size = check_latent_options(name, self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        likelihood = as_likelihood(self.likelihood, Bernoulli(self.image_channels))
        object.__setattr__(self, "likelihood", likelihood)
        object.__setattr__(self, "hidden", tuple(int(n) for n in self.hidden))
        check_widths(name, hidden=self.hidden, head_filters=(self.head_filters,))
        check_variational_options(name, self.latent_dim, self.beta, self.kl_warmup, self.free_bits)


class VAE(VariationalModel):
    """Variational autoencoder with dense networks; options as in `VAEConfig`.

    Shapes: x [N, C, H, W], z [N, latent_dim].
    """

    config_class: ClassVar[type[VAEConfig]] = VAEConfig
    encoder: DenseEncoder

    def __init__(self, *args: Any, **options: Any) -> None:
        c = self.config_class(*args, **options)
        assert isinstance(c.likelihood, Likelihood)
        n_classes = getattr(c, "n_classes", 0)
        super().__init__(c, c.likelihood, (c.latent_dim,), n_classes)
        n_values = self.image_channels * self.image_size[0] * self.image_size[1]
        self.encoder = DenseEncoder(n_values, c.hidden, c.activation, n_classes)
        self.posterior = nn.Linear(self.encoder.n_features, 2 * c.latent_dim)
        head, n_features = dense_head(c.likelihood, c.head_filters)
        self.decoder = DenseDecoder(c.latent_dim, c.hidden[::-1], c.activation, n_features, self.image_size, n_classes)
        self.head = head

    def encode(self, x: Tensor, cond: Any = None) -> Posterior:
        """q(z | x). Shapes: x [N, C, H, W] -> [N, latent_dim] both."""
        labels = self.prepare_cond(cond, x.shape[0])
        mean, log_var = self.posterior(self.encoder(self.prepare_input(x), labels)).chunk(2, 1)
        return Posterior(mean, log_var)

    def decode_features(self, z: Tensor, cond: Any = None) -> Tensor:
        """What the head reads. Shapes: z [N, latent_dim] -> [N, F, H, W]."""
        features: Tensor = self.decoder(z, self.prepare_cond(cond, z.shape[0]))
        return features
