"""The autoencoder with convolutions and upsampling.

Masci, Meier, Ciresan, Schmidhuber 2011, Stacked Convolutional Auto-Encoders for Hierarchical Feature Extraction,
https://doi.org/10.1007/978-3-642-21735-7_7, with strided convolutions in place of pooling, and each decoding
convolution behind a nearest-neighbour upsampling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from torch import nn

from fastgen.likelihoods import Gaussian, Likelihood
from fastgen.models.autoencoders.autoencoder import DeterministicModel
from fastgen.models.autoencoders.base import check_latent_options, likelihood_head
from fastgen.models.autoencoders.densities import CodeDensity
from fastgen.models.autoencoders.networks import ConvDecoder, ConvEncoder, check_widths
from fastgen.models.autoregressive.base import as_likelihood


@dataclass(frozen=True)
class ConvAutoencoderConfig:
    """Options of ConvAutoencoder.

    Attributes:
        image_channels: C.
        latent_dim: D, the length of a code.
        n_filters: of the encoder's convolutions, each of which halves the map; the decoder has them in reverse.
        hidden: units of the dense layer between convolutions and code.
        activation: of the hidden layers.
        likelihood: its negative logarithm is the loss (or the config of one); by default a Gaussian of standard
            deviation 1, half the squared error.
        density: of the codes, for sampling: "gaussian", or "mixture".
        n_components: of the mixture.
        image_size: (H, W) of every image.
    """

    image_channels: int = 3
    latent_dim: int = 64
    n_filters: Sequence[int] = (32, 64)
    _: KW_ONLY
    hidden: int = 256
    activation: str = "relu"
    likelihood: Likelihood | Mapping[str, Any] | None = None
    density: Literal["gaussian", "mixture"] = "gaussian"
    n_components: int = 10
    image_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        name = "ConvAutoencoder"
        size = check_latent_options(name, self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        likelihood = as_likelihood(self.likelihood, Gaussian(self.image_channels, std=1.0))
        object.__setattr__(self, "likelihood", likelihood)
        object.__setattr__(self, "n_filters", tuple(int(n) for n in self.n_filters))
        if not self.n_filters:
            raise ValueError(f"{name}: n_filters must name at least one convolution; got none; use Autoencoder")
        check_widths(name, n_filters=self.n_filters, hidden=(self.hidden,), latent_dim=(self.latent_dim,))


class ConvAutoencoder(DeterministicModel):
    """Autoencoder with convolutions and upsampling; options as in `ConvAutoencoderConfig`.

    Shapes: x [N, C, H, W], z [N, latent_dim].
    """

    config_class = ConvAutoencoderConfig
    encoder: ConvEncoder

    def __init__(self, *args: Any, **options: Any) -> None:
        c = ConvAutoencoderConfig(*args, **options)
        assert isinstance(c.likelihood, Likelihood)
        super().__init__(c, c.likelihood, (c.latent_dim,))
        self.encoder = ConvEncoder(c.image_channels, self.image_size, c.n_filters, c.hidden, c.activation)
        self.to_code = nn.Linear(self.encoder.n_features, c.latent_dim)
        self.decoder = ConvDecoder(c.latent_dim, self.image_size, c.n_filters, c.hidden, c.activation)
        self.head = likelihood_head(c.likelihood, c.n_filters[0])
        self.density = CodeDensity(c.latent_dim, c.density, c.n_components)
