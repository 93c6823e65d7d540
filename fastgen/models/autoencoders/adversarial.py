"""The adversarial autoencoder: a discriminator, and no divergence, gives the codes the distribution of a prior.

Makhzani, Shlens, Jaitly, Goodfellow, Frey 2015, Adversarial Autoencoders, https://arxiv.org/abs/1511.05644: section 2
with 2.1 (the priors) and 2.3 (labels go to the discriminator and choose a part of the prior). A training step has three
phases:

    reconstruction   encoder and decoder lower  -log p(x | z(x))
    discriminator    lowers  -log D(z') - log(1 - D(z(x))),  z' ~ prior
    generator        the encoder lowers  -log D(z(x))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen._names import unknown_name
from fastgen.likelihoods import Gaussian, Likelihood
from fastgen.models.autoencoders.autoencoder import DeterministicModel
from fastgen.models.autoencoders.base import check_latent_options, latent_noise
from fastgen.models.autoencoders.networks import DenseDecoder, DenseEncoder, check_widths, dense_head
from fastgen.models.autoregressive.base import as_likelihood
from fastgen.models.base import Batches, Phase, Terms
from fastgen.sampling.noise import uniforms

PRIORS = ("gaussian", "mixture", "swiss_roll")
PETAL = (2.0, 0.5, 0.2)  # of the mixture's components: distance from the origin, spread along it and across
ROLL = (3.0, 2.0)  # of the swiss roll: outer radius, turns
COMPARED = 2000  # codes that are compared with the prior


@dataclass(frozen=True)
class AdversarialAutoencoderConfig:
    """Options of AdversarialAutoencoder.

    Attributes:
        image_channels: C.
        latent_dim: D, the length of a code; the mixture and the swiss roll are in the plane, D = 2.
        hidden: units of the encoder's layers, from the image on; the decoder has them in reverse.
        prior: "gaussian", N(0, 1); "mixture", Gaussians around the origin like the petals of a flower; "swiss_roll".
        n_components: of the mixture; with labels there is one for each.
        discriminator_hidden: units of the discriminator's layers.
        activation: of all hidden layers.
        likelihood: its negative logarithm is the reconstruction loss (or the config of one); by default a Gaussian of
            standard deviation 1, half the squared error.
        head_filters: features of a pixel that the head of a logistic mixture or a categorical reads.
        n_classes: labels that choose the component, or the stretch of the roll; 0 trains without labels.
        adversarial_lr_scale: learning rate of the two adversarial phases, relative to that of the reconstruction.
        image_size: (H, W) of every image.
    """

    image_channels: int = 1
    latent_dim: int = 8
    hidden: Sequence[int] = (1000, 1000)
    _: KW_ONLY
    prior: str = "gaussian"
    n_components: int = 10
    discriminator_hidden: Sequence[int] = (1000, 1000)
    activation: str = "relu"
    likelihood: Likelihood | Mapping[str, Any] | None = None
    head_filters: int = 16
    n_classes: int = 0
    adversarial_lr_scale: float = 1.0
    image_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        name = "AdversarialAutoencoder"
        object.__setattr__(self, "image_size", check_latent_options(name, self.image_channels, self.image_size))
        likelihood = as_likelihood(self.likelihood, Gaussian(self.image_channels, std=1.0))
        object.__setattr__(self, "likelihood", likelihood)
        for key in ("hidden", "discriminator_hidden"):
            object.__setattr__(self, key, tuple(int(n) for n in getattr(self, key)))
        check_widths(
            name,
            hidden=self.hidden,
            discriminator_hidden=self.discriminator_hidden,
            head_filters=(self.head_filters,),
            latent_dim=(self.latent_dim,),
            n_components=(self.n_components,),
        )
        if self.prior not in PRIORS:
            raise unknown_name("prior", self.prior, PRIORS)
        if self.prior != "gaussian" and self.latent_dim != 2:
            raise ValueError(
                f"{name}: the prior {self.prior!r} lies in the plane; got latent_dim={self.latent_dim}; set "
                "latent_dim=2, or prior='gaussian'"
            )
        if self.n_classes < 0 or (self.n_classes and self.prior == "gaussian"):
            raise ValueError(
                f"{name}: labels choose a part of the prior, and a Gaussian has none; got n_classes={self.n_classes}; "
                "set prior='mixture' or 'swiss_roll', or train without labels"
            )
        if not 0 < self.adversarial_lr_scale < math.inf:
            raise ValueError(f"{name}: adversarial_lr_scale must be positive; got {self.adversarial_lr_scale}")


class Discriminator(nn.Module):
    """The logit of "drawn from the prior" of a code, given its label where there are labels.

    Shapes: z [N, D], labels [N] or None -> [N].
    """

    def __init__(self, latent_dim: int, hidden: Sequence[int], kind: str, n_classes: int) -> None:
        super().__init__()
        self.features = DenseEncoder(latent_dim, hidden, kind, n_classes)
        self.out = nn.Linear(self.features.n_features, 1)

    def forward(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Logits of codes. Shapes: as the class says."""
        logits: Tensor = self.out(self.features(z, labels))[:, 0]
        return logits


class AdversarialAutoencoder(DeterministicModel):
    """Autoencoder whose codes a discriminator holds to a prior; options as in `AdversarialAutoencoderConfig`.

    Labels, where the model has classes, choose a part of the prior: encoder and decoder never see them. Without labels
    a sample is drawn from all of it.

    Shapes: x [N, C, H, W], z [N, latent_dim], cond [N] labels or None.
    """

    config_class: ClassVar[type[AdversarialAutoencoderConfig]] = AdversarialAutoencoderConfig
    encoder: DenseEncoder

    def __init__(self, *args: Any, **options: Any) -> None:
        c = AdversarialAutoencoderConfig(*args, **options)
        assert isinstance(c.likelihood, Likelihood)
        super().__init__(c, c.likelihood, (c.latent_dim,), c.n_classes)
        self.prior, self.lr_scale = c.prior, c.adversarial_lr_scale
        self.n_components = c.n_classes or c.n_components
        n_values = self.image_channels * self.image_size[0] * self.image_size[1]
        self.encoder = DenseEncoder(n_values, c.hidden, c.activation)
        self.to_code = nn.Linear(self.encoder.n_features, c.latent_dim)
        self.head, n_features = dense_head(c.likelihood, c.head_filters)
        self.decoder = DenseDecoder(c.latent_dim, c.hidden[::-1], c.activation, n_features, self.image_size)
        self.discriminator = Discriminator(c.latent_dim, c.discriminator_hidden, c.activation, c.n_classes)

    def prepare_cond(self, cond: Any, n: int) -> Any:
        """As `Model.prepare_cond`; None is right for a model with labels too, and draws from the whole prior."""
        return None if cond is None else super().prepare_cond(cond, n)

    def phases(self) -> Sequence[Phase]:
        """Reconstruction, discriminator, generator: sections 2 and A of the paper."""
        encoder = (*self.encoder.parameters(), *self.to_code.parameters())
        decoder = (*self.decoder.parameters(), *self.head.parameters())
        critic = tuple(self.discriminator.parameters())
        return (
            Phase("reconstruction", (*encoder, *decoder), self.objective),
            Phase("discriminator", critic, self.discriminator_loss, self.lr_scale),
            Phase("generator", encoder, self.generator_loss, self.lr_scale),
        )

    def discriminator_loss(self, x: Tensor, cond: Any = None) -> Terms:
        """-log D(z') - log(1 - D(z(x))), the mean over the batch; the share that is told right is logged."""
        labels = self._labels_of(x, cond)
        with torch.no_grad():
            z = self.encode(x)
        like = z.detach()
        drawn = self.place(torch.rand(len(z), 2).to(like), torch.randn(z.shape).to(like), labels)
        real, fake = self.discriminator(drawn, labels), self.discriminator(z, labels)
        right = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
        return {"loss": F.softplus(-real).mean() + F.softplus(fake).mean(), "discriminator_accuracy": right.detach()}

    def generator_loss(self, x: Tensor, cond: Any = None) -> Terms:
        """-log D(z(x)), the mean over the batch."""
        return {"loss": F.softplus(-self.discriminator(self.encode(x), self._labels_of(x, cond))).mean()}

    def _labels_of(self, x: Tensor, cond: Any) -> Tensor | None:
        if self.n_classes and cond is None:
            raise ValueError("AdversarialAutoencoder: training with classes takes labels; got None")
        labels: Tensor | None = self.prepare_cond(cond, x.shape[0])
        return labels

    def place(self, u: Tensor, normal: Tensor, labels: Tensor | None = None) -> Tensor:
        """Codes from the prior, or from the part of it that belongs to labels, as a function of noise.

        Shapes: u [N, 2] uniform in [0, 1), normal [N, D], labels [N] or None -> [N, D].
        """
        if self.prior == "gaussian":
            return normal
        part = (u[:, 0] * self.n_components).floor() if labels is None else labels.to(u)
        if self.prior == "mixture":
            distance, along, across = PETAL
            angle = 2 * math.pi * part / self.n_components
            a, b = distance + along * normal[:, 0], across * normal[:, 1]
            return torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], 1)
        radius, turns = ROLL
        root = ((part + u[:, 1]) / self.n_components).sqrt()  # even in area
        angle = 2 * math.pi * turns * root
        return radius * root[:, None] * torch.stack([angle.cos(), angle.sin()], 1)

    def encode(self, x: Tensor, cond: Any = None) -> Tensor:
        """The code of each image, whatever its label. Shapes: [N, C, H, W] -> [N, latent_dim]."""
        self.prepare_cond(cond, x.shape[0])
        z: Tensor = self.to_code(self.encoder(self.prepare_input(x)))
        return z

    def held_out(self, x: Tensor, cond: Any = None) -> Terms:
        """Squared error as of `Autoencoder`, and codes beside draws from the prior. Shapes: [N], [N, D + n_classes]."""
        z, labels = self.encode(x), self._labels_of(x, cond)
        drawn = self.place(torch.rand(len(z), 2).to(z), torch.randn(z.shape).to(z), labels)
        one_hot = [] if labels is None else [F.one_hot(labels, self.n_classes).to(z)]
        codes, prior = (torch.cat([t, *one_hot], 1) for t in (z, drawn))
        return {"mse": self.squared_error(x, z), "codes": codes, "prior": prior}

    def summarize(self, figures: Terms) -> dict[str, float]:
        """The squared error, and "prior_distance": how far the codes (and labels) are from the prior's, 0 at best."""
        codes, prior = (figures[name][:COMPARED] for name in ("codes", "prior"))
        return {"mse": float(figures["mse"].mean()), "prior_distance": energy_distance(codes, prior)}

    def finish(self, batches: Batches) -> None:
        """Nothing is fitted: the prior is given."""

    def code_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every latent a priori, of the plane's priors by draws. Shapes: [D] both."""
        if self.prior == "gaussian":
            like = next(self.parameters())
            return like.new_zeros(self.latent_shape), like.new_ones(self.latent_shape)
        z = self.draw_codes(10_000)
        return z.mean(0), z.std(0)

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
        """As `LatentModel.sample`, by default without the noise of the pixels: it has no density of images."""
        return super().sample(
            n,
            seed=seed,
            temperature=temperature,
            pixel_temperature=pixel_temperature,
            cond=cond,
            batch_size=batch_size,
            first_image=first_image,
        )

    def draw_codes(
        self, n: int, *, seed: int = 0, temperature: float = 1.0, cond: Any = None, first_image: int = 0
    ) -> Tensor:
        """Codes from the prior; the temperature is times the spread of a Gaussian. Shapes: cond [n] -> [n, D]."""
        like = next(self.parameters())
        numbers = torch.arange(first_image, first_image + n, device=like.device)
        u = uniforms(seed, numbers, 1, 1, 2).flatten(1).to(like)
        normal = temperature * latent_noise((n, *self.latent_shape), seed, first_image, like=like)
        return self.place(u, normal, self.prepare_cond(cond, n))


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'|: 0 for samples of one distribution in expectation, else positive.

    Shapes: [N, D] and [M, D], two vectors each at least. The means are over pairs of different vectors, so that
    the estimate has no bias and may fall a little below 0.
    Source: Szekely and Rizzo, "Energy Statistics: A Class of Statistics Based on Distances", 2013.
    """

    def within(t: Tensor) -> Tensor:
        return torch.cdist(t, t).sum() / max(1, len(t) * (len(t) - 1))

    return float(2 * torch.cdist(a, b).mean() - within(a) - within(b))
