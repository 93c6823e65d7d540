"""VQ-VAE-2: codes of two levels, the top for what is global and the bottom for details given it.

Razavi, van den Oord, Vinyals 2019, Generating Diverse High-Fidelity Images with VQ-VAE-2,
https://arxiv.org/abs/1906.00446. Algorithm 1: the top map is quantized first, decoded, and what it says goes with the
encoder's features into the bottom map; the decoder sees both. Algorithm 2: a prior over the top codes, and one over the
bottom codes given the top ones, each an autoregressive model of its map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.likelihoods import Gaussian, Likelihood
from fastgen.models.autoencoders.base import check_latent_options, likelihood_head
from fastgen.models.autoencoders.quantized import (
    DEFAULT_PRIOR,
    QuantizedModel,
    check_quantized_options,
    plain_options,
)
from fastgen.models.autoencoders.residual import ResidualDecoder, ResidualEncoder, check_factor
from fastgen.models.autoregressive.base import as_likelihood
from fastgen.nn import QuantizerOutput


@dataclass(frozen=True)
class VQVAE2Config:
    """Options of VQ-VAE-2; the defaults are the paper's autoencoder for ImageNet.

    Attributes:
        image_channels: C.
        n_filters: channels of encoders and decoders.
        n_codes: K, entries of either codebook.
        code_dim: D, their length.
        factor: how many times smaller than the image the bottom map is; a power of 2.
        top_factor: how many times smaller than the bottom map the top one is; a power of 2.
        n_classes: labels that the priors are conditioned on; 0 for none.
        n_residual: residual blocks of encoders and decoders.
        residual_filters: channels inside them.
        ema: the codebooks follow moving averages; otherwise they learn by their loss.
        decay: of the moving averages.
        commitment: weight of the encoder's distance to its entries.
        restart_after: training steps without a vector after which an entry restarts as one of the batch; None for
            never. Moving averages only.
        likelihood: distribution of a pixel given the codes (or the config of one); by default a Gaussian of standard
            deviation 0.25, which is the squared error.
        top_prior: options of the prior over the top codes, "model" naming its class (`PRIORS`); None for no priors.
        bottom_prior: those of the prior over the bottom codes given the top ones.
        prior_from: the fraction of the budget at which the priors begin to learn, and the autoencoder ends.
        image_size: (H, W) of every image.
    """

    image_channels: int = 3
    n_filters: int = 128
    n_codes: int = 512
    code_dim: int = 64
    factor: int = 4
    top_factor: int = 2
    n_classes: int = 0
    _: KW_ONLY
    n_residual: int = 2
    residual_filters: int = 64
    ema: bool = True
    decay: float = 0.99
    commitment: float = 0.25
    restart_after: int | None = None
    likelihood: Likelihood | Mapping[str, Any] | None = None
    top_prior: Mapping[str, Any] | None = field(default_factory=lambda: dict(DEFAULT_PRIOR))
    bottom_prior: Mapping[str, Any] | None = field(default_factory=lambda: dict(DEFAULT_PRIOR))
    prior_from: float = 0.5
    image_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        size = check_latent_options("VQVAE2", self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        likelihood = as_likelihood(self.likelihood, Gaussian(self.image_channels, std=0.25))
        object.__setattr__(self, "likelihood", likelihood)
        for key in ("top_prior", "bottom_prior"):
            object.__setattr__(self, key, plain_options(getattr(self, key)))
        check_quantized_options(
            "VQVAE2", self.n_codes, self.code_dim, self.prior_from, (self.n_filters // 2, self.residual_filters),
            self.n_residual, self.n_classes,
        )  # fmt: skip
        check_factor("VQVAE2", "top_factor", self.top_factor, check_factor("VQVAE2", "factor", self.factor, size))


class VQVAE2(QuantizedModel):
    """VQ-VAE-2 with priors over its codes; options as in `VQVAE2Config`.

    Shapes: x [N, C, H, W]; codes int64, top [N, H / (factor top_factor), ...] and bottom [N, H / factor, ...].
    """

    config_class = VQVAE2Config
    encoder: ResidualEncoder

    def __init__(self, *args: Any, **options: Any) -> None:
        c = VQVAE2Config(*args, **options)
        assert isinstance(c.likelihood, Likelihood) and c.image_size is not None
        bottom = check_factor("VQVAE2", "factor", c.factor, c.image_size)
        top = check_factor("VQVAE2", "top_factor", c.top_factor, bottom)
        super().__init__(c, c.likelihood, [top, bottom], c.n_classes)
        blocks = (c.n_residual, c.residual_filters)
        self.encoder = ResidualEncoder(c.image_channels, c.n_filters, c.factor, *blocks)
        self.top_encoder = ResidualEncoder(c.n_filters, c.n_filters, c.top_factor, *blocks)
        self.to_top = nn.Conv2d(c.n_filters, c.code_dim, 1)
        self.top_decoder = ResidualDecoder(c.code_dim, c.code_dim, c.n_filters, c.top_factor, *blocks)
        self.to_bottom = nn.Conv2d(c.n_filters + c.code_dim, c.code_dim, 1)
        # a transposed convolution whose window is its step: each entry of the top fills its own block of the bottom map
        self.enlarge_top = nn.ConvTranspose2d(c.code_dim, c.code_dim, c.top_factor, c.top_factor)
        n_features = c.n_filters // 2
        self.decoder = ResidualDecoder(2 * c.code_dim, n_features, c.n_filters, c.factor, *blocks)
        self.head = likelihood_head(c.likelihood, n_features)
        self.add_levels([c.top_prior, c.bottom_prior])

    def quantize(self, x: Tensor, learn: bool) -> list[QuantizerOutput]:
        """Entries, codes, loss and perplexity, the top's first. Shapes: x [N, C, H, W] -> [N, D, h, w], [N, h, w]."""
        features = self.encoder.maps(self.prepare_input(x))
        top = self.look_up(0, self.to_top(self.top_encoder.maps(features)), learn)
        said = self.top_decoder(top.quantized)
        return [top, self.look_up(1, self.to_bottom(torch.cat((features, said), 1)), learn)]

    def decode_entries(self, entries: Sequence[Tensor]) -> Tensor:
        """What the head reads. Shapes: top and bottom [N, D, h, w] -> [N, F, H, W]."""
        top, bottom = entries
        return F.relu(self.decoder(torch.cat((self.enlarge_top(top), bottom), 1)))
