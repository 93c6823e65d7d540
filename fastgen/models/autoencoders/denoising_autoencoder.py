"""The autoencoder that gives back the clean image of a corrupted one.

Vincent, Larochelle, Bengio, Manzagol 2008, Extracting and Composing Robust Features with Denoising Autoencoders,
https://dl.acm.org/doi/10.1145/1390156.1390294; Vincent, Larochelle, Lajoie, Bengio, Manzagol 2010, Stacked Denoising
Autoencoders, https://jmlr.org/papers/v11/vincent10a.html, section 3.3: the three kinds of corruption.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fastgen._names import unknown_name
from fastgen.models.autoencoders.autoencoder import Autoencoder, AutoencoderConfig
from fastgen.models.base import Terms

CORRUPTIONS = ("gaussian", "masking", "salt-and-pepper")


@dataclass(frozen=True)
class DenoisingAutoencoderConfig(AutoencoderConfig):
    """Options of DenoisingAutoencoder: those of `AutoencoderConfig`, and the corruption.

    Attributes:
        corruption: "gaussian" adds noise, "masking" makes values black, "salt-and-pepper" makes them black or white.
        noise: of Gaussian noise the standard deviation, signals being in [-1, 1]; else the fraction of values that are
            replaced, every one on its own.
    """

    corruption: Literal["gaussian", "masking", "salt-and-pepper"] = "gaussian"
    noise: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.corruption not in CORRUPTIONS:
            raise unknown_name("corruption", str(self.corruption), CORRUPTIONS)
        most = math.inf if self.corruption == "gaussian" else 1.0
        if not 0 <= self.noise <= most or math.isinf(self.noise):
            raise ValueError(
                "DenoisingAutoencoder: noise must be at least 0, a standard deviation, or where values are replaced a "
                f"fraction in [0, 1]; got {self.noise} for {self.corruption}"
            )


class DenoisingAutoencoder(Autoencoder):
    """Autoencoder with dense networks that undoes noise; options as in `DenoisingAutoencoderConfig`.

    `reconstruct` takes a corrupted image, float in [-1, 1] or beyond, and gives the clean one.

    Shapes: x [N, C, H, W], z [N, latent_dim].
    """

    config_class = DenoisingAutoencoderConfig

    def corrupt(self, x: Tensor) -> Tensor:
        """The image with noise of PyTorch's default generator. Shapes: [N, C, H, W]. Dtypes: as `encode` -> float."""
        x, c = self.prepare_input(x), self._options
        if c.corruption == "gaussian":
            return x + c.noise * torch.randn_like(x)
        chosen = torch.rand_like(x) < c.noise
        if c.corruption == "masking":
            return x.masked_fill(chosen, -1.0)
        salt = torch.where(torch.rand_like(x) < 0.5, 1.0, -1.0).to(x.dtype)
        return torch.where(chosen, salt, x)

    def objective(self, x: Tensor, cond: Any = None) -> Terms:
        """-log p(x | z(corrupted x)) in nats per dimension, the mean over the batch."""
        z = self.encode(self.corrupt(x), cond)
        return {"loss": -self.log_likelihood(x, z, cond).mean() / math.prod(x.shape[1:])}

    def held_out(self, x: Tensor, cond: Any = None) -> Terms:
        """Squared errors of what is given back for the corrupted and for the clean image. Shapes: -> [N]."""
        noisy = self.squared_error(x, self.code(self.corrupt(x), cond), cond)
        return {"denoised_mse": noisy, **super().held_out(x, cond)}
