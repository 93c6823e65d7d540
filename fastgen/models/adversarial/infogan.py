"""The generative adversarial network whose code has parts that can be read off its images.

Chen, Duan, Houthooft, Schulman, Sutskever, Abbeel 2016, InfoGAN: Interpretable Representation Learning by Information
Maximizing Generative Adversarial Nets, https://arxiv.org/abs/1606.03657. The code is noise z and latents c; with a
network Q that shares the discriminator's convolutions, the generator also raises (equation 5)

    L_I = E log Q(c | G(z, c)) + H(c)  <=  I(c; G(z, c))

of categorical latents, uniform over their values, and of continuous ones, uniform in [-1, 1] and Gaussian under Q.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.models.adversarial.base import AdversarialModel, Rules
from fastgen.models.adversarial.dcgan import DCGAN, DCGANConfig
from fastgen.models.adversarial.networks import SLOPE, ConvDiscriminator, ConvGenerator
from fastgen.models.autoencoders.base import latent_noise
from fastgen.models.autoencoders.networks import check_widths
from fastgen.models.base import Phase, Terms


@dataclass(frozen=True)
class InfoGANConfig(DCGANConfig):
    """Options of InfoGAN: those of `DCGANConfig`, where latent_dim counts the noise, and the latents.

    Attributes:
        categorical: values of each categorical latent.
        n_continuous: continuous latents.
        hidden: units of the layer of Q between convolutions and latents.
        information_weight: lambda, of the mutual information of the categorical latents.
        continuous_weight: the same of the continuous ones.
    """

    categorical: Sequence[int] = (10,)
    n_continuous: int = 2
    _: KW_ONLY
    hidden: int = 128
    information_weight: float = 1.0
    continuous_weight: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "categorical", tuple(int(k) for k in self.categorical))
        check_widths("InfoGAN", hidden=(self.hidden,))
        if any(k < 2 for k in self.categorical) or self.n_continuous < 0:
            raise ValueError(
                f"InfoGAN: categorical latents have 2 values or more, n_continuous is at least 0; got "
                f"{self.categorical} and {self.n_continuous}"
            )
        if not self.categorical and not self.n_continuous:
            raise ValueError("InfoGAN: there must be a latent; got none; set categorical or n_continuous, or use DCGAN")
        for key in ("information_weight", "continuous_weight"):
            if not 0 <= getattr(self, key) < math.inf:
                raise ValueError(f"InfoGAN: {key} must be finite and not negative; got {getattr(self, key)}")


class Reading(NamedTuple):
    """Q(c | x). Shapes: a list of logits [N, k], of continuous latents mean and log_std [N, n_continuous].

    Attributes:
        logits: of the values of each categorical latent.
        mean: of the continuous latents.
        log_std: of their Gaussians.
    """

    logits: tuple[Tensor, ...]
    mean: Tensor
    log_std: Tensor


class InfoGAN(AdversarialModel):
    """Strided convolutions and latents that Q reads off the images; options as in `InfoGANConfig`.

    A code is [z, one-hot categorical latents, continuous latents] side by side.

    Shapes: x [N, C, H, W], codes [N, latent_dim + sum(categorical) + n_continuous].
    """

    config_class = InfoGANConfig
    adversarial: ClassVar[Mapping[str, Any]] = DCGAN.adversarial
    discriminator: ConvDiscriminator

    def __init__(self, *args: Any, **options: Any) -> None:
        c = InfoGANConfig(*args, **options)
        size = c.latent_dim + sum(c.categorical) + c.n_continuous
        super().__init__(c, (size,))
        self.noise_dim, self.categorical, self.n_continuous = c.latent_dim, tuple(c.categorical), c.n_continuous
        self.weights = (c.information_weight, c.continuous_weight)
        self.generator = ConvGenerator(size, c.n_filters, self.image_channels, self.image_size)
        self.discriminator = ConvDiscriminator(self.image_channels, c.n_filters, self.image_size, c.discriminator_norm)
        n_features = c.n_filters[-1] * math.prod(side // 2 ** len(c.n_filters) for side in self.image_size)
        self.reader = nn.Sequential(
            nn.Flatten(),
            nn.Linear(n_features, c.hidden),
            nn.LeakyReLU(SLOPE),
            nn.Linear(c.hidden, sum(c.categorical) + 2 * c.n_continuous),
        )

    def random_latent(self, n: int) -> Tensor:
        """Codes of a training step. Shapes: -> [n, D]."""
        like = next(self.parameters())
        device = like.device
        parts = [torch.randn((n, self.noise_dim), device=device, dtype=like.dtype)]
        parts += [F.one_hot(torch.randint(k, (n,), device=device), k).to(like.dtype) for k in self.categorical]
        parts.append(torch.rand((n, self.n_continuous), device=device, dtype=like.dtype) * 2 - 1)
        return torch.cat(parts, 1)

    def draw_latent(self, n: int, *, seed: int = 0, temperature: float = 1.0, first_image: int = 0) -> Tensor:
        """Codes as a function of the seed and the image's number; temperature is of the noise z. Shapes: -> [n, D]."""
        like = next(self.parameters())
        parts = [temperature * latent_noise((n, self.noise_dim), seed, first_image, like=like)]
        normal = latent_noise((n, len(self.categorical) + self.n_continuous), seed, first_image, stream=1, like=like)
        uniform = torch.special.ndtr(normal)
        for index, k in enumerate(self.categorical):
            value = (uniform[:, index] * k).long().clamp_max(k - 1)
            parts.append(F.one_hot(value, k).to(like.dtype))
        parts.append(uniform[:, len(self.categorical) :] * 2 - 1)
        return torch.cat(parts, 1)

    def split(self, codes: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """Noise, one-hot categorical latents, continuous latents of codes. Shapes: [N, D] -> their parts."""
        z, *categorical, continuous = codes.split((self.noise_dim, *self.categorical, self.n_continuous), 1)
        return z, tuple(categorical), continuous

    def read(self, x: Tensor) -> Reading:
        """Q(c | x): the latents that images show. Shapes: x [N, C, H, W] -> `Reading`."""
        h = self.reader(self.discriminator.features(self.prepare_input(x)))
        *logits, mean, log_std = h.split((*self.categorical, self.n_continuous, self.n_continuous), 1)
        return Reading(tuple(logits), mean, log_std.clamp(-5, 5))

    def turns(self, rules: Rules) -> Sequence[Phase]:
        """The two players' turns, and one in which generator, shared convolutions and Q raise the information."""
        shared = [*self.generator.parameters(), *self.discriminator.stages.parameters(), *self.reader.parameters()]
        return (*super().turns(rules), rules.generator_phase("information", tuple(shared), self.information))

    def information(self, x: Tensor, cond: Any = None) -> Terms:
        """-lambda log Q(c | G(z, c)), without the constant H(c), and the share of categories that Q reads right."""
        codes = self.random_latent(len(x))
        _, categorical, continuous = self.split(codes)
        reading = self.read(self.generate(codes))
        loss = codes.new_zeros(())
        terms: dict[str, Tensor] = {}
        if categorical:
            logits = [found.float() for found in reading.logits]
            values = [c.argmax(1) for c in categorical]
            loss = loss + self.weights[0] * sum(F.cross_entropy(a, b) for a, b in zip(logits, values, strict=True))
            right = [(a.argmax(1) == b).float().mean() for a, b in zip(logits, values, strict=True)]
            terms["categories_right"] = torch.stack(right).mean()
        if self.n_continuous:
            error = (continuous - reading.mean.float()) * torch.exp(-reading.log_std.float())
            nats = 0.5 * error.square() + reading.log_std.float() + 0.5 * math.log(2 * math.pi)
            loss = loss + self.weights[1] * nats.sum(1).mean()
            terms["continuous_nats"] = nats.mean()
        return {"loss": loss, **terms}

    @torch.no_grad()
    def traverse(self, dim: int, *, steps: int = 9, n: int = 8, seed: int = 0, span: float = 1.0) -> Tensor:
        """Images whose codes differ in one latent only: the values of a categorical one, or -span .. span.

        Shapes: -> levels [n, steps, C, H, W], of a categorical latent as many steps as it has values. dim counts
        the categorical latents, then the continuous ones.

        Raises:
            ValueError: there is no such latent, or fewer than two steps.
        """
        n_latents = len(self.categorical) + self.n_continuous
        if not 0 <= dim < n_latents or steps < 2:
            raise ValueError(
                f"InfoGAN: dim must be a latent in 0..{n_latents - 1}, steps at least 2; got dim={dim}, steps={steps}"
            )
        codes = self.draw_latent(n, seed=seed)
        if dim < len(self.categorical):
            k = self.categorical[dim]
            start = self.noise_dim + sum(self.categorical[:dim])
            rows = codes[:, None].repeat(1, k, 1)
            rows[:, :, start : start + k] = torch.eye(k).to(codes)
        else:
            rows = codes[:, None].repeat(1, steps, 1)
            place = self.noise_dim + sum(self.categorical) + dim - len(self.categorical)
            rows[:, :, place] = torch.linspace(-span, span, steps).to(codes)
        return self.images_of(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
