"""The autoencoder with dense networks: linear, sigmoid or deep.

Rumelhart, Hinton, Williams 1986, Learning internal representations by error propagation; Bourlard, Kamp 1988,
Auto-association by multilayer perceptrons and singular value decomposition: without hidden layers and with the squared
error it spans the principal components; Hinton, Salakhutdinov 2006, Reducing the Dimensionality of Data with Neural
Networks, https://www.science.org/doi/10.1126/science.1127647: the deep one.

It has no density of images. It is sampled by drawing codes from one fitted to those of the training images (Ghosh,
Sajjadi, Vergari, Black, Scholkopf 2020, From Variational to Deterministic Autoencoders,
https://arxiv.org/abs/1903.12436, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from fastgen.likelihoods import Gaussian, Likelihood, levels_to_signal
from fastgen.models.autoencoders.base import LatentModel, check_latent_options, mean_signal
from fastgen.models.autoencoders.densities import CodeDensity
from fastgen.models.autoencoders.networks import DenseDecoder, DenseEncoder, activation, check_widths, dense_head
from fastgen.models.autoregressive.base import as_likelihood
from fastgen.models.base import Batches, Terms


@dataclass(frozen=True)
class AutoencoderConfig:
    """Options of Autoencoder; by default a deep one.

    Attributes:
        image_channels: C.
        latent_dim: D, the length of a code.
        hidden: units of the encoder's layers, from the image on; the decoder has them in reverse. With none and no
            activation of the code both are linear.
        activation: of the hidden layers.
        code_activation: of the code: "identity", or "sigmoid", with no hidden layers the classic one.
        likelihood: its negative logarithm is the loss (or the config of one); by default a Gaussian of standard
            deviation 1, half the squared error. Bernoulli is the cross-entropy of binary images.
        head_filters: features of a pixel that the head of a logistic mixture or a categorical reads.
        density: of the codes, for sampling: "gaussian", or "mixture".
        n_components: of the mixture.
        image_size: (H, W) of every image.
    """

    image_channels: int = 1
    latent_dim: int = 32
    hidden: Sequence[int] = (500, 250)
    _: KW_ONLY
    activation: str = "relu"
    code_activation: str = "identity"
    likelihood: Likelihood | Mapping[str, Any] | None = None
    head_filters: int = 16
    density: Literal["gaussian", "mixture"] = "gaussian"
    n_components: int = 10
    image_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__.removesuffix("Config")
        size = check_latent_options(name, self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        likelihood = as_likelihood(self.likelihood, Gaussian(self.image_channels, std=1.0))
        object.__setattr__(self, "likelihood", likelihood)
        object.__setattr__(self, "hidden", tuple(int(n) for n in self.hidden))
        check_widths(name, hidden=self.hidden, head_filters=(self.head_filters,), latent_dim=(self.latent_dim,))


class DeterministicModel(LatentModel):
    """A latent model whose encoder gives one code an image, trained to give the image back.

    A subclass builds `encoder`, `to_code`, `decoder` and `head`.

    Attributes:
        density: what codes are drawn from, fitted in `finish`.
    """

    density: CodeDensity
    to_code: nn.Module
    decoder: nn.Module

    def encode(self, x: Tensor, cond: Any = None) -> Tensor:
        """The code of each image. Shapes: [N, C, H, W] -> [N, latent_dim]."""
        self.prepare_cond(cond, x.shape[0])
        z: Tensor = self.to_code(self.encoder(self.prepare_input(x)))
        return z

    def decode_features(self, z: Tensor, cond: Any = None) -> Tensor:
        """What the head reads. Shapes: z [N, latent_dim] -> [N, F, H, W]."""
        self.prepare_cond(cond, z.shape[0])
        features: Tensor = self.decoder(z)
        return features

    def objective(self, x: Tensor, cond: Any = None) -> Terms:
        """-log p(x | z(x)) in nats per dimension, the mean over the batch."""
        loss = -self.log_likelihood(x, self.encode(x, cond), cond).mean() / math.prod(x.shape[1:])
        return {"loss": loss}

    def held_out(self, x: Tensor, cond: Any = None) -> Terms:
        """Squared error of reconstructions, the mean over the dimensions, signals in [-1, 1]. Shapes: -> [N]."""
        return {"mse": self.squared_error(x, self.code(x, cond), cond)}

    def squared_error(self, x: Tensor, z: Tensor, cond: Any = None) -> Tensor:
        """Mean over the dimensions of (x - E[x | z])^2, signals in [-1, 1]. Shapes: [N, C, H, W] -> [N]."""
        got = mean_signal(self.likelihood, self.decode(z, cond))
        want = x.to(got.dtype) if x.is_floating_point() else levels_to_signal(x, self.levels, got.dtype)
        return (got - want).square().flatten(1).mean(1)

    def finish(self, batches: Batches) -> None:
        """Fit the density of the codes to those of the training images."""

        def codes() -> Iterator[Tensor]:
            for x, cond in batches():
                yield self.features(x, cond)

        self.density.fit(codes())

    def code_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every latent over the training images. Shapes: [latent_dim] both."""
        return self.density.moments()

    def draw_codes(
        self, n: int, *, seed: int = 0, temperature: float = 1.0, cond: Any = None, first_image: int = 0
    ) -> Tensor:
        """Codes from the fitted density. Shapes: -> [n, latent_dim].

        Raises:
            ValueError: it has not been fitted.
        """
        return self.density.sample(n, seed=seed, temperature=temperature, first_image=first_image)

    def sample(  # type: ignore[override]
        self,
        n: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        pixel_temperature: float = 0.0,
        cond: Any = None,
        batch_size: int | None = None,
        first_image: int = 0,
    ) -> Tensor:
        """Draw codes from their density and decode them; see `LatentModel.sample`.

        The likelihood is but a loss here: by default a pixel takes its most probable level.
        """
        return super().sample(
            n,
            seed=seed,
            temperature=temperature,
            pixel_temperature=pixel_temperature,
            cond=cond,
            batch_size=batch_size,
            first_image=first_image,
        )


class Autoencoder(DeterministicModel):
    """Autoencoder with dense networks, sampled through a density of its codes; options as in `AutoencoderConfig`.

    Shapes: x [N, C, H, W], z [N, latent_dim].
    """

    config_class: ClassVar[type[AutoencoderConfig]] = AutoencoderConfig
    encoder: DenseEncoder

    def __init__(self, *args: Any, **options: Any) -> None:
        c = self.config_class(*args, **options)
        assert isinstance(c.likelihood, Likelihood)
        super().__init__(c, c.likelihood, (c.latent_dim,))
        n_values = self.image_channels * self.image_size[0] * self.image_size[1]
        self.encoder = DenseEncoder(n_values, c.hidden, c.activation)
        self.to_code = nn.Sequential(nn.Linear(self.encoder.n_features, c.latent_dim), activation(c.code_activation))
        self.head, n_features = dense_head(c.likelihood, c.head_filters)
        self.decoder = DenseDecoder(c.latent_dim, c.hidden[::-1], c.activation, n_features, self.image_size)
        self.density = CodeDensity(c.latent_dim, c.density, c.n_components)
