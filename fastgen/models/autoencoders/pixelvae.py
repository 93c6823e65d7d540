"""PixelVAE: a variational autoencoder whose decoder is an autoregressive model of the pixels given the latent.

Gulrajani, Kumar, Ahmed, Taiga, Visin, Vazquez, Courville 2016, PixelVAE: A Latent Variable Model for Natural Images,
https://arxiv.org/abs/1611.05013. Section 3: p(x | z) = product over i of p(x_i | x_<i, z); a deconvolutional network
turns z into a map of the image's size, and a few PixelCNN layers read it together with the pixels before. What they
cannot see locally is left to z, so the fewer they are, the more z says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.likelihoods import Bernoulli, Likelihood, levels_to_signal, signal_to_levels
from fastgen.models.autoencoders.base import Posterior, check_latent_options, total
from fastgen.models.autoencoders.networks import ConvDecoder, ConvEncoder, check_widths
from fastgen.models.autoencoders.variational import VariationalModel, check_variational_options
from fastgen.models.autoregressive.base import as_likelihood
from fastgen.models.autoregressive.gated_pixelcnn import GatedPixelCNN


@dataclass(frozen=True)
class PixelVAEConfig:
    """Options of PixelVAE.

    Attributes:
        image_channels: C.
        latent_dim: D, the length of a code.
        n_filters: of the encoder's convolutions, from the image on; the deconvolutional network has them in reverse.
        n_layers: gated layers of the PixelCNN.
        pixel_filters: channels of either of its stacks.
        hidden: units of the dense layers at the code.
        activation: of encoder and deconvolutional network.
        kernel_size: k of the PixelCNN's convolutions.
        first_kernel_size: k of its first layer.
        head_filters: width of its 1x1 layer before the output.
        likelihood: distribution of a pixel given the code and the pixels before (or the config of one); by default
            Bernoulli.
        beta: weight of the divergence in training.
        kl_warmup: fraction of the budget over which that weight rises from 0.
        free_bits: nats of divergence of each latent that cost nothing in training.
        image_size: (H, W) of every image.
    """

    image_channels: int = 1
    latent_dim: int = 32
    n_filters: Sequence[int] = (32, 64)
    n_layers: int = 3
    pixel_filters: int = 32
    _: KW_ONLY
    hidden: int = 256
    activation: str = "relu"
    kernel_size: int = 3
    first_kernel_size: int = 5
    head_filters: int = 64
    likelihood: Likelihood | Mapping[str, Any] | None = None
    beta: float = 1.0
    kl_warmup: float = 0.0
    free_bits: float = 0.0
    image_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        size = check_latent_options("PixelVAE", self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        likelihood = as_likelihood(self.likelihood, Bernoulli(self.image_channels))
        object.__setattr__(self, "likelihood", likelihood)
        object.__setattr__(self, "n_filters", tuple(int(n) for n in self.n_filters))
        check_widths("PixelVAE", n_filters=self.n_filters, hidden=(self.hidden,))
        if not self.n_filters:
            raise ValueError("PixelVAE: n_filters must name one convolution at least; got none")
        check_variational_options("PixelVAE", self.latent_dim, self.beta, self.kl_warmup, self.free_bits)


class PixelVAE(VariationalModel):
    """Variational autoencoder with a Gated PixelCNN as decoder; options as in `PixelVAEConfig`.

    Shapes: x [N, C, H, W], z [N, latent_dim].
    """

    config_class = PixelVAEConfig
    encoder: ConvEncoder

    def __init__(self, *args: Any, **options: Any) -> None:
        c = PixelVAEConfig(*args, **options)
        assert isinstance(c.likelihood, Likelihood)
        super().__init__(c, c.likelihood, (c.latent_dim,))
        self.encoder = ConvEncoder(c.image_channels, self.image_size, c.n_filters, c.hidden, c.activation)
        self.posterior = nn.Linear(self.encoder.n_features, 2 * c.latent_dim)
        self.decoder = ConvDecoder(c.latent_dim, self.image_size, c.n_filters, c.hidden, c.activation)
        self.pixels = GatedPixelCNN(
            c.image_channels, c.n_layers, c.pixel_filters, c.kernel_size, first_kernel_size=c.first_kernel_size,
            head_filters=c.head_filters, cond_channels=c.n_filters[0], cond_filters=c.n_filters[0], cond_layers=0,
            likelihood=c.likelihood, image_size=self.image_size,
        )  # fmt: skip
        """p(x | z), which reads the pixels before and a map that the decoder makes of z."""

    def encode(self, x: Tensor, cond: Any = None) -> Posterior:
        """q(z | x). Shapes: x [N, C, H, W] -> [N, latent_dim] both."""
        self.prepare_cond(cond, x.shape[0])
        mean, log_var = self.posterior(self.encoder(self.prepare_input(x))).chunk(2, 1)
        return Posterior(mean, log_var)

    def decode_features(self, z: Tensor, cond: Any = None) -> Tensor:
        """The map that the PixelCNN is conditioned on. Shapes: z [N, latent_dim] -> [N, F, H, W]."""
        self.prepare_cond(cond, z.shape[0])
        features: Tensor = self.decoder(z)
        return features

    def decode(self, z: Tensor, cond: Any = None, x: Tensor | None = None) -> Tensor:
        """Parameters of `likelihood` at every pixel, given the code and the pixels of x before it.

        Shapes: z [N, latent_dim], x [N, C, H, W] -> [N, likelihood.n_params, H, W].

        Raises:
            ValueError: no x.
        """
        if x is None:
            raise ValueError(
                "PixelVAE: the parameters of a pixel depend on the pixels before it; got decode without x; pass an "
                "image, or draw one by draw_images(z)"
            )
        params: Tensor = self.pixels(x, {"map": self.decode_features(self.check_codes(z), cond)})
        return params

    def log_likelihood(self, x: Tensor, z: Tensor, cond: Any = None) -> Tensor:
        """log p(x | z) in nats, the sum over pixels of log p(x_i | x_<i, z). Shapes: [N, C, H, W], z [N, D] -> [N]."""
        return total(self.likelihood.log_prob(x, self.decode(z, cond, x)))

    @torch.no_grad()
    def draw_images(
        self,
        z: Tensor,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        cond: Any = None,
        first_image: int = 0,
        **options: Any,
    ) -> Tensor:
        """x from p(x | z) pixel by pixel, by `fastgen.sample`, which takes the other options.

        Shapes: z [N, latent_dim] -> levels [N, C, H, W].
        """
        from fastgen.sampling import sample

        shape = (self.channels, *self.image_size)
        seen = {"map": self.decode_features(self.check_codes(z), cond)}
        return sample(
            self.pixels, z.shape[0], shape=shape, seed=seed, temperature=temperature, cond=seen,
            first_image=first_image, **options,
        )  # fmt: skip

    @torch.no_grad()
    def images_of(self, z: Tensor, cond: Any = None, *, expected: bool = False) -> Tensor:
        """An image drawn given each code, with the noise of seed 0; with `expected` its levels as 8-bit ones.

        The most probable level of each pixel in turn makes no probable image (of digits a blank one), and there is no
        mean to be had without drawing. Shapes: z [N, latent_dim] -> [N, C, H, W].
        """
        drawn = self.draw_images(z, cond=cond)
        return signal_to_levels(levels_to_signal(drawn, self.levels, torch.float32), 256) if expected else drawn

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        pixel_temperature: float = 1.0,
        cond: Any = None,
        batch_size: int | None = None,
        first_image: int = 0,
        **options: Any,
    ) -> Tensor:
        """Draw z from the prior and x from p(x | z) pixel by pixel: uint8 levels [n, C, H, W].

        temperature: times the standard deviation of the prior.
        pixel_temperature: of the likelihood.
        batch_size: images drawn side by side.
        The other options are those of `fastgen.sample`: method, progress.

        Raises:
            ValueError: arguments that do not fit.
        """
        if n < 0 or temperature < 0:
            raise ValueError(f"PixelVAE: n and temperature must be at least 0; got n={n}, temperature={temperature}")
        z = self.draw_codes(n, seed=seed, temperature=temperature, cond=cond, first_image=first_image)
        return self.draw_images(
            z, seed=seed, temperature=pixel_temperature, cond=cond, first_image=first_image, batch_size=batch_size,
            **options,
        )  # fmt: skip
