"""The boundary equilibrium generative adversarial network.

Berthelot, Schumm, Metz 2017, BEGAN: Boundary Equilibrium Generative Adversarial Networks,
https://arxiv.org/abs/1703.10717. The discriminator is an autoencoder and L(v) = mean |v - D(v)| its loss; section 3.3,

    L_D = L(x) - k_t L(G(z))        k_{t+1} = k_t + lambda_k (gamma L(x) - L(G(z))), kept in [0, 1]
    L_G = L(G(z))                   M = L(x) + |gamma L(x) - L(G(z))|, which measures convergence (section 3.4.1)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastgen.models.adversarial.base import AdversarialModel, Rules
from fastgen.models.autoencoders.base import check_latent_options
from fastgen.models.autoencoders.networks import ConvDecoder, ConvEncoder, check_widths
from fastgen.models.base import Phase, Terms
from fastgen.nn import mean_over_processes
from fastgen.sampling.noise import uniforms


@dataclass(frozen=True)
class BEGANConfig:
    """Options of BEGAN.

    Attributes:
        image_channels: C.
        latent_dim: D, the length of a code, of the generator and of the discriminator.
        n_filters: of the encoder's convolutions, each of which halves the map; decoder and generator reverse them.
        hidden: units of the dense layer between convolutions and code.
        gamma: L(G(z)) / L(x) at the equilibrium: low for few kinds of images of high quality, high for variety.
        k_lr: lambda_k, the speed of k.
        image_size: (H, W) of every image.
    """

    image_channels: int = 3
    latent_dim: int = 64
    n_filters: Sequence[int] = (32, 64)
    _: KW_ONLY
    hidden: int = 128
    gamma: float = 0.7
    k_lr: float = 0.001
    image_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", check_latent_options("BEGAN", self.image_channels, self.image_size))
        object.__setattr__(self, "n_filters", tuple(int(n) for n in self.n_filters))
        if not self.n_filters:
            raise ValueError("BEGAN: n_filters must name at least one convolution; got none")
        check_widths("BEGAN", n_filters=self.n_filters, latent_dim=(self.latent_dim,), hidden=(self.hidden,))
        for key in ("gamma", "k_lr"):
            if not 0 < getattr(self, key) <= 1:
                raise ValueError(f"BEGAN: {key} must be in (0, 1]; got {getattr(self, key)}")


class Decoder(nn.Module):
    """The decoder of codes, which the generator is too: nearest-neighbour upsampling and convolutions.

    Shapes: z [N, D] -> [N, C, H, W].
    """

    def __init__(self, c: BEGANConfig, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.features = ConvDecoder(c.latent_dim, image_size, c.n_filters, c.hidden, "elu")
        self.out = nn.Conv2d(c.n_filters[0], c.image_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Images of codes, beyond [-1, 1] too. Shapes: as the class says."""
        images: Tensor = self.out(self.features(z))
        return images


class BEGAN(AdversarialModel):
    """A generator against an autoencoder, in an equilibrium of their losses; options as in `BEGANConfig`.

    Shapes: x [N, C, H, W], z [N, latent_dim] in [-1, 1].

    Attributes:
        k: k_t, a buffer that checkpoints and model files hold.
    """

    config_class = BEGANConfig
    adversarial: ClassVar[Mapping[str, Any]] = {
        "betas_discriminator": (0.5, 0.999),
        "betas_generator": (0.5, 0.999),
    }
    own_losses = True
    k: Tensor

    def __init__(self, *args: Any, **options: Any) -> None:
        c = BEGANConfig(*args, **options)
        super().__init__(c, (c.latent_dim,))
        self.gamma, self.k_lr = c.gamma, c.k_lr
        self.generator = Decoder(c, self.image_size)
        encoder = ConvEncoder(self.image_channels, self.image_size, c.n_filters, c.hidden, "elu")
        self.discriminator = nn.Sequential(encoder, nn.Linear(c.hidden, c.latent_dim), Decoder(c, self.image_size))
        self.register_buffer("k", torch.zeros(()))

    def error(self, x: Tensor) -> Tensor:
        """L(x) of each image in [-1, 1]. Shapes: [N, C, H, W] -> [N]."""
        return (x - self.discriminator(x)).abs().float().flatten(1).mean(1)

    def discriminate(self, x: Tensor, cond: Any = None) -> Tensor:
        """-L(x): high for what the autoencoder knows. Shapes: x [N, C, H, W] -> [N]."""
        return -self.error(self.prepare_input(x))

    def random_latent(self, n: int) -> Tensor:
        """Codes of a training step, uniform in [-1, 1]. Shapes: -> [n, latent_dim]."""
        like = next(self.parameters())
        return torch.rand((n, *self.latent_shape), dtype=like.dtype, device=like.device) * 2 - 1

    def draw_latent(self, n: int, *, seed: int = 0, temperature: float = 1.0, first_image: int = 0) -> Tensor:
        """Codes, uniform in [-1, 1] times temperature, by seed and image number. Shapes: -> [n, latent_dim]."""
        like = next(self.parameters())
        numbers = torch.arange(first_image, first_image + n, device=like.device)
        return temperature * (uniforms(seed, numbers, 1, self.latent_shape[0], 1)[:, 0, 0].to(like) * 2 - 1)

    def turns(self, rules: Rules) -> Sequence[Phase]:
        """The discriminator's turn, which also moves k, and the generator's."""
        return (
            rules.discriminator_phase("discriminator", tuple(self.discriminator.parameters()), self.balance),
            rules.generator_phase("generator", tuple(self.generator.parameters()), self.deceive_autoencoder),
        )

    def balance(self, x: Tensor, cond: Any = None) -> Terms:
        """L(x) - k L(G(z)); k moves towards the equilibrium after it."""
        x = self.prepare_input(x)
        with torch.no_grad():
            fake = self.generate(self.random_latent(len(x)))
        real_error, fake_error = self.error(x).mean(), self.error(fake).mean()
        loss = real_error - self.k.clone() * fake_error
        with torch.no_grad():
            gap = mean_over_processes(self.gamma * real_error - fake_error)
            self.k.add_(self.k_lr * gap).clamp_(0, 1)
        return {"loss": loss, "convergence": real_error.detach() + gap.abs(), "k": self.k.clone()}

    def deceive_autoencoder(self, x: Tensor, cond: Any = None) -> Terms:
        """L(G(z))."""
        return {"loss": self.error(self.generate(self.random_latent(len(x)))).mean()}
